"""ROOT's threshold, and its size-fitted coefficients on spectra that the fit never saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from steepest.core.errors import BadInput
from steepest.faces import face
from steepest.linalg import fitted_newton_schulz as fits
from steepest.linalg.newton_schulz import KELLER
from steepest.linalg.quantile import quantile_in_float32, quantile_of_nonzero
from steepest.registry import rules

ROOT = rules()["root"]
SHAPES = [(8, 8), (16, 48), (40, 12), (64, 64), (64, 256), (96, 130), (200, 200), (128, 1024)]


def promised(quintic: fits.Quintic, steps: int) -> tuple[float, float]:
    """From where a fit of the table counts, and how far from 1 it leaves anything there."""
    return next((f[0], f[4]) for f in fits.FITS[steps] if f[1:4] == quintic)


@pytest.mark.parametrize("steps", fits.FITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fresh_spectra_end_as_near_to_1_as_the_table_says_and_few_lie_below(
    shape: tuple[int, int], steps: int
) -> None:
    quintic = fits.coefficients(*shape, steps)
    lower, miss = promised(quintic, steps)
    seen = fits.sampled(*shape, matrices=12, seed=7)
    assert fits.worst(quintic, seen[seen >= lower], steps) <= miss + 1e-3
    assert miss <= fits.MISS
    assert (seen < fits.reach(*shape)).mean() < 2 * fits.LEFT_OUT


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_muons_coefficients_leave_fresh_spectra_farther_from_1(shape: tuple[int, int]) -> None:
    seen = np.sort(fits.sampled(*shape, matrices=12, seed=8).ravel())
    counted = seen[round(1.5 * fits.LEFT_OUT * len(seen)) :]
    ours, muons = (fits.worst(c, counted, 5) for c in (fits.coefficients(*shape), KELLER))
    assert ours < (0.95 if shape[0] == shape[1] else 0.35) * muons
    rms = [np.sqrt(((fits.image(c, seen, 5) - 1) ** 2).mean()) for c in (fits.coefficients(*shape), KELLER)]
    assert rms[0] < 0.95 * rms[1]


@pytest.mark.parametrize("steps", fits.FITS)
def test_what_the_table_says_of_each_fit_holds_on_the_whole_interval(steps: int) -> None:
    for lower, *quintic, miss in fits.FITS[steps]:
        assert fits.worst(quintic, np.geomspace(lower, fits.TOP, 7001), steps) <= miss + 2e-4
        if lower < 0.01:  # above, several sets bring every value to 1 to four digits, Muon's none
            assert fits.worst(KELLER, np.geomspace(lower, 1, 7001), steps) > 1.25 * miss


def test_no_coefficients_nearby_are_nearer_and_the_table_is_what_the_fitter_finds() -> None:
    lower, *kept, miss = next(f for f in fits.FITS[5] if f[0] < 0.008)
    found, error = fits.nearest(lower, 5)
    assert error == pytest.approx(miss, abs=5e-4)
    np.testing.assert_allclose(found, kept, atol=5e-3)
    points, draw = np.geomspace(lower, fits.TOP, 2000), np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(40):
            assert fits.worst(np.array(found) + size * draw.normal(size=3), points, 5) > error


def test_the_published_coefficients_miss_by_more_where_independent_entries_are_fitted() -> None:
    """A shape of the authors' table, by the law of Marchenko and Pastur that its random spectra follow."""
    y = 2048 / 16384
    seen = np.linspace(1 - y**0.5, 1 + y**0.5, 2001) / 2048**0.5
    theirs = dict(ROOT(coefficients="official").coefficients)[2048, 16384]
    found, lower, error = fits.fitted(seen, left_out=0.0)
    assert lower == seen[0] and error == pytest.approx(fits.worst(found, seen, 5), abs=2e-3)
    assert error < 0.02 < 0.1 < fits.worst(theirs, seen, 5) < fits.worst(KELLER, seen, 5)


def test_spectra_of_ones_own_give_their_own_coefficients_and_others_are_refused() -> None:
    own, lower, error = fits.fitted([[0.9, 0.3, 0.2], [0.8, 0.4, 0.3]], steps=3, left_out=0.0)
    assert lower == 0.2 and error < 3e-3
    deep, reached, error = fits.fitted(np.geomspace(1e-2, 1, 50), steps=3, left_out=0.0)
    assert error <= fits.MISS and reached == pytest.approx(fits.FITS[3][-1][0], rel=0.01)
    assert fits.worst(deep, np.geomspace(reached, 1), 3) <= fits.MISS
    w = torch.nn.Parameter(torch.eye(4))
    face(ROOT)([("a.q.weight", w)], coefficients={(4, 4): own})
    with pytest.raises(BadInput, match="divide each matrix by its Frobenius norm"):
        fits.fitted([3.0, 1.0])


@pytest.mark.parametrize(
    ("hyper", "told"),
    [
        ({"coefficients": "fited"}, "none of 'fitted'"),
        ({"coefficients": {"4": (1, 2, 3)}}, "none of 'fitted'"),
        ({"coefficients": (1.0, 2.0)}, "none of 'fitted'"),
        ({"ns_steps": 9}, "the table has 3 to 6"),
        ({"quantile": 1.5}, "it is a share"),
    ],
    ids=str,
)
def test_coefficients_that_are_none_are_refused_in_a_line(hyper: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        ROOT(**hyper)


def test_a_table_is_read_by_pairs_texts_and_a_word_for_all_other_shapes() -> None:
    mine = (3.0, -3.7, 1.6)
    for table in ({(64, 32): mine}, {"32x64": list(mine)}, {"(64, 32)": mine}, (((32, 64), mine),)):
        rule = ROOT(coefficients=table)
        assert rule.quintic(64, 32) == rule.quintic(32, 64) == mine
        assert rule.quintic(32, 32) == KELLER
        assert hash(rule) == hash(ROOT(coefficients=rule.coefficients))
    assert ROOT(coefficients={"others": mine}).quintic(7, 9) == mine
    assert ROOT().quintic(64, 64) == fits.coefficients(64, 64) != KELLER


@pytest.mark.parametrize("q", [0.0, 0.5, 0.9, 0.97, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 9), (30, 41)], ids=str)
def test_the_threshold_is_the_quantile_of_what_is_not_zero(shape: tuple[int, int], q: float) -> None:
    x = torch.randn((3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[1] *= torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.6
    x[2] = 0
    found = quantile_of_nonzero(x, q)
    for one, t in zip(x[:2], found, strict=False):
        sizes = one.abs()[one != 0].numpy()
        np.testing.assert_allclose(t.item(), np.quantile(sizes, q) if sizes.size else 0.0, rtol=1e-12)
    assert found[2].item() == 0 and found.shape == (3, 1, 1)
    exact = np.quantile(x[0].abs().numpy(), q)
    np.testing.assert_allclose(quantile_in_float32(x[0], q).item(), exact, rtol=1e-6)


def direction(g: torch.Tensor, **hyper: Any) -> torch.Tensor:
    w = torch.nn.Parameter(torch.zeros_like(g))
    w.grad = g
    face(ROOT)([("a.q.weight", w)], lr=1.0, weight_decay=0.0, coefficients="muon", scale="none", **hyper).step()
    return -w.detach()


def test_rows_of_zeros_change_nothing_and_the_official_threshold_lets_them_freeze_a_matrix() -> None:
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([x, torch.zeros(60, 16)])
    torch.testing.assert_close(direction(padded)[:4], direction(x), rtol=1e-4, atol=1e-5)
    assert direction(padded).norm() > 1.5
    officially = direction(padded, quantile_of="official")
    assert not torch.allclose(officially[:4], direction(x, quantile_of="official"), atol=0.1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e30])
def test_no_gradient_is_too_large_and_an_outlier_changes_little(scale: float) -> None:
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    usual = direction(x)
    torch.testing.assert_close(direction(scale * x), usual, rtol=1e-2, atol=1e-2)
    spiked = x.clone()
    spiked[3, 4] = 1e6
    assert (direction(scale * spiked) - usual).norm() < 0.15 * usual.norm()
    assert (direction(spiked, quantile=1.0) - usual).norm() > usual.norm()


def test_a_zero_matrix_stays_and_a_momentum_that_died_away_moves_no_more() -> None:
    for g in (torch.zeros(4, 5), 1e-12 * torch.ones(4, 5)):
        for quantile_of in ("nonzero", "official"):
            assert direction(g, quantile_of=quantile_of).norm() < 0.1
