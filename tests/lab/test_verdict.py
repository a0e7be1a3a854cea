"""Words: said only where the numbers allow them."""

from __future__ import annotations

import numpy as np
import pytest

from steepest.core.errors import BadInput
from steepest.lab.analysis.interval import Interval
from steepest.lab.analysis.verdict import judge, rank_flips, verdict

BETTER, WORSE, EVEN = (
    Interval(-0.07, -0.09, -0.05),
    Interval(0.07, 0.05, 0.09),
    Interval(-0.01, -0.03, 0.01),
)
FAST, SLOW, LEVEL = Interval(1.3, 1.2, 1.4), Interval(0.8, 0.7, 0.9), Interval(1.02, 0.95, 1.09)
REFUSED = Interval(None, None, None, flags=("loss 1.9 is at or below the fitted floor 2.0",))


@pytest.mark.parametrize(
    ("gap", "tokens", "word"),
    [
        (BETTER, FAST, "faster"),
        (WORSE, SLOW, "slower"),
        (EVEN, LEVEL, "not told apart"),
        (EVEN, FAST, "not told apart"),  # the difference lies inside the noise of the seeds
        (BETTER, LEVEL, "not told apart"),
        (WORSE, FAST, "not told apart"),
        (BETTER, REFUSED, "refused"),
        (REFUSED, FAST, "refused"),
    ],
)
def test_a_verdict_needs_both_the_speedup_and_the_difference(gap: Interval, tokens: Interval, word: str) -> None:
    assert verdict("muon", "adamw", gap, tokens, None).word == word


def test_the_sentence_holds_the_numbers_and_the_seconds() -> None:
    told = verdict("muon", "adamw", BETTER, FAST, SLOW)
    for words in (
        "0.0700 nats/token below adamw",
        "1.30 times",
        "[1.20, 1.40; 90%]",
        "In seconds: 0.80",
        "slower",
    ):
        assert words in told.text


def test_a_refusal_says_why() -> None:
    assert "fitted floor" in verdict("soap", "adamw", BETTER, REFUSED, None).text


def test_flags_stand_in_the_sentence() -> None:
    beyond = Interval(2.4, 2.1, None, flags=("outside the fitted range",))
    told = verdict("soap", "adamw", BETTER, beyond, None)
    assert told.word == "faster"
    assert "outside the fitted range" in told.text
    assert "no upper end" in told.text


def test_an_interval_that_touches_one_side_only_is_judged_by_it() -> None:
    assert judge(Interval(1.5, 1.2, None)) == "faster"
    assert judge(Interval(0.5, None, 0.7)) == "slower"
    assert judge(REFUSED) == "refused"


def test_a_rank_flip_is_found_where_the_curves_cross() -> None:
    tokens = [100, 200, 300, 400]
    (flip,) = rank_flips(tokens, {"a": [4.0, 3.5, 3.2, 3.1], "b": [4.4, 3.7, 3.1, 2.9]}, 0.05)
    assert (flip.before, flip.after) == ("a", "b")
    assert flip.tokens == pytest.approx(200 + 100 * 0.2 / 0.3)


def test_crossings_within_noise_are_no_flips() -> None:
    wobble = np.array([0.01, -0.01, 0.01, -0.01])
    assert rank_flips([1, 2, 3, 4], {"a": 3 + wobble, "b": 3 - wobble}, 0.03) == []
    assert len(rank_flips([1, 2, 3, 4], {"a": 3 + wobble, "b": 3 - wobble}, 0.001)) == 3


def test_a_flip_through_a_tie_is_placed_where_the_lead_was_lost() -> None:
    gap = np.array([-0.2, -0.02, 0.02, 0.2])
    (flip,) = rank_flips([1, 2, 3, 4], {"a": 3 + gap, "b": np.full(4, 3.0)}, 0.1)
    assert flip.tokens == pytest.approx(2.5)


def test_curves_of_other_lengths_are_refused() -> None:
    with pytest.raises(BadInput, match="3 points for 2"):
        rank_flips([1, 2], {"a": [1, 2, 3]}, 0.1)


def test_a_difference_beyond_the_seeds_that_the_law_cannot_price_is_told_as_such() -> None:
    gap = Interval(0.13, 0.09, 0.17)
    told = verdict("Lion", "AdamW", gap, Interval(0.89, 0.68, 1.08), None)
    assert told.word == "not told apart"
    assert "0.1300 nats/token above AdamW" in told.text and "beyond the noise of the seeds" in told.text
    assert "by these seeds" not in told.text
