"""Spikes of a series: what counts as one, what does not, and when a series is too short to say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from steepest.lab.analysis.spikes import (
    above_median,
    diverged,
    gradient_spikes,
    scores,
    spike_score,
    spikes,
    z_spikes,
)


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length)


@pytest.mark.parametrize("length", [150, 1000, 1001, 5000])
def test_noise_has_no_spikes_and_one_of_20_sigma_is_one_of_all_values(length: int) -> None:
    values = 3 + 0.1 * noise(length)
    assert spike_score(values) == 0.0
    values[length - 20] += 2.0
    assert spikes(values) == [length - 20]
    assert spike_score(values) == pytest.approx(100 / length)
    values[length - 20] -= 4.0
    assert spikes(values) == [length - 20], "a leap down is one, too"


def test_it_is_what_its_definition_says_value_by_value() -> None:
    values = noise(2300, 3).cumsum() * 0.02
    values[[150, 700, 1500, 1501, 2250]] += [9, -8, 7, 7, 30]
    expected = []
    for place in range(100, len(values)):
        before = values[max(0, place - 1000) : place]
        if abs(values[place] - before.mean()) >= 7 * before.std():
            expected.append(place)
    assert spikes(values) == expected
    assert len(expected) >= 2


def test_exactly_seven_sigma_is_a_spike_and_less_is_none() -> None:
    alternating = [1.0, -1.0] * 100
    assert spikes([*alternating, 7.0]) == [200]
    assert spikes([*alternating, 6.999]) == []


def test_a_shorter_window_forgets_sooner() -> None:
    values = np.concatenate([10 * noise(400), noise(600, 1)])
    values[900] += 12
    assert spikes(values) == []
    assert spikes(values, window=200) == [900]


@pytest.mark.parametrize("score", [spike_score, above_median, z_spikes])
def test_a_constant_series_has_no_spikes_and_a_falling_one_has_none(score) -> None:
    assert score([0.1] * 300) == 0.0
    assert score([3 + 5 * math.exp(-t / 30) for t in range(600)]) == 0.0


def test_a_series_that_is_too_short_to_say_has_no_score() -> None:
    assert (spike_score(noise(100)), spike_score(noise(101))) == (None, 0.0)
    assert (above_median(0.01 * noise(200)), above_median(0.01 * noise(201))) == (None, 0.0)
    assert (z_spikes([1.0] * 25), z_spikes([1.0] * 26)) == (None, 0.0)
    assert spike_score([]) is None and above_median([]) is None and z_spikes([]) is None


def test_a_loss_above_the_median_around_it_counts_per_10_000() -> None:
    values = [3 - 0.001 * t for t in range(1000)]
    for place in (200, 201, 500):
        values[place] += 0.11
    values[700] += 0.09
    assert above_median(values) == pytest.approx(30)
    values[50] += 9
    assert above_median(values) == pytest.approx(30), "the first 100 have no 100 before them"


def test_z_counts_what_stands_above_its_moving_average() -> None:
    values = np.tile([1.0, 3.0], 200)  # mean 2, standard deviation 1
    assert z_spikes(values) == 0.0
    values[300] = 6.0
    assert z_spikes(values) == pytest.approx(10_000 / 400)
    values[300] = -6.0
    assert z_spikes(values) == 0.0, "only upwards"


def test_gradient_spikes_are_counted_for_each_entry() -> None:
    gradients = np.abs(noise(1000 * 12, 5)).reshape(1000, 3, 4)
    assert gradient_spikes(gradients) == 0
    gradients[400, 1, 2] *= 1e4
    gradients[700, 0, 0] = -200.0
    assert gradient_spikes(gradients) == 2
    gradients[:, 2, 2] = 0.0
    assert gradient_spikes(gradients) == 2
    assert gradient_spikes(gradients[380:420]) == 0, "of 40 steps none can be 50 times their mean"
    assert gradient_spikes(np.zeros((0, 3))) == 0


def test_a_run_diverged_when_it_ends_far_above_its_start_or_at_no_number() -> None:
    assert not diverged([5.0, 12.0, 4.0])
    assert not diverged([5.0, 4.0, 9.9])
    assert diverged([5.0, 4.0, 10.1])
    assert diverged([5.0, 4.0, 9.9], multiple=1.5)
    assert diverged([5.0, 4.0, None])
    assert diverged([5.0, math.nan, 4.0])
    assert not diverged([])


def test_the_scores_of_a_record_are_of_its_losses_and_gradient_norms() -> None:
    both = np.stack([3 + 0.01 * noise(300), 1 + 0.01 * noise(300, 1)], 1).tolist()
    rows = [{"loss": loss, "gradient_norm": norm} for loss, norm in both]
    rows[250]["gradient_norm"] = 5.0
    found = scores(rows)
    assert (found["loss"]["spike_score"], found["loss"]["above_median"]) == (0.0, 0.0)
    assert found["gradient_norm"]["spike_score"] == pytest.approx(100 / 300)
    assert found["gradient_norm"]["z_spikes"] >= 10_000 / 300
    assert found["diverged"] is False
    nothing = {"spike_score": None, "z_spikes": None}
    for rows_ in (rows[:20], []):
        assert scores(rows_) == {
            "loss": nothing | {"above_median": None},
            "gradient_norm": nothing,
            "diverged": False,
        }
