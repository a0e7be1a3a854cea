"""Which text trains and which validates."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.lab.corpus import split


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=20, max_size=300), st.floats(0.01, 0.5))
def test_both_sides_get_documents_and_validation_about_its_share(lengths: list[int], share: float) -> None:
    sizes = np.array(lengths, np.uint64)
    held_out = split.by_document(sizes, share)
    taken = int(sizes[held_out].sum())
    assert held_out.any() and not held_out.all()
    assert taken <= 1.5 * share * sum(lengths) or held_out.sum() == 1


@settings(deadline=None)
@given(st.lists(st.integers(900, 1100), min_size=100, max_size=200), st.floats(0.05, 0.5))
def test_documents_of_like_size_are_held_out_close_to_the_share(lengths: list[int], share: float) -> None:
    sizes = np.array(lengths, np.uint64)
    taken = int(sizes[split.by_document(sizes, share)].sum()) / sum(lengths)
    assert share <= taken <= share + 1100 / sum(lengths)


def _text(seed: int, size: int) -> bytes:
    """Lines of words in one-, two- and three-byte characters."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("abcdefghij  éüß€語\n"))
    return "".join(draw.choice(letters, size)).encode()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 60_000), min_size=1, max_size=19).filter(lambda sizes: sum(sizes) > 40_000),
    st.sampled_from([0.01, 0.05, 0.3, 0.5]),
    st.integers(0, 5),
)
def test_blocks_never_overlap_and_a_gap_lies_between_the_sides(sizes: list[int], share: float, seed: int) -> None:
    texts = [_text(seed, size) for size in sizes]
    train, val = split.by_block([len(t) for t in texts], texts.__getitem__, share, seed)
    assert train and val
    sides = {piece: side for side, pieces in (("train", train), ("val", val)) for piece in pieces}
    for number, text in enumerate(texts):
        here = sorted((p for p in sides if p.document == number), key=lambda piece: piece.start)
        assert here, "every document has text on some side"
        for piece in here:
            assert 0 <= piece.start < piece.stop <= len(text)
            text[piece.start : piece.stop].decode()  # no character is cut
        for one, next_one in itertools.pairwise(here):
            assert sides[one] != sides[next_one], "neighbours of one side are one piece"
            assert next_one.start - one.stop >= 100, "a gap lies between the sides"


def test_the_seed_moves_the_blocks_and_the_same_seed_does_not() -> None:
    text = _text(0, 200_000)
    first, again, other = (split.by_block([len(text)], lambda _: text, 0.1, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_about_the_asked_share_is_held_out_of_a_single_text() -> None:
    text = _text(0, 400_000)
    _, val = split.by_block([len(text)], lambda _: text, 0.1, 0)
    assert sum(p.stop - p.start for p in val) / len(text) == pytest.approx(0.08, abs=0.02)  # less its gaps
