"""The loss law: published fits come back, its inverse is honest about its range."""

from __future__ import annotations

import numpy as np
import pytest

from steepest.core.errors import BadInput
from steepest.lab.analysis.law import Curve, Law, fit, fit_draws, fit_shared, invert

RATIOS = (1, 2, 4, 8, 16)

# AdamW's best losses at 1, 2, 4, 8 (and 16) times Chinchilla, from the released results of arXiv 2509.02046, and
# what scipy's curve_fit, which its authors used, makes of them.
PUBLISHED = {
    "130m, 1-16": ((3.5291428566, 3.4077868462, 3.3216564655, 3.2605636120, 3.207158), 0.45540, 0.43530, 3.07292),
    "130m, 1-8": ((3.5291428566, 3.4077868462, 3.3216564655, 3.2605636120), 0.41787, 0.49500, 3.11128),
    "300m, 1-16": ((3.262937, 3.163545, 3.094309, 3.042271, 3.000639), 0.37071, 0.43782, 2.89160),
    "520m, 1-8": ((3.104131, 3.023179, 2.958468, 2.912762), 0.34174, 0.39726, 2.76267),
    "1.2b, 1-8": ((2.904271, 2.835987, 2.787119, 2.752277), 0.23935, 0.48480, 2.66492),
}


def exact(alpha: float = 40.0, exponent: float = 0.35, floor: float = 2.0) -> Law:
    return Law(np.float64(alpha), np.float64(exponent), np.float64(floor), 1e5, 1e6, 0.0)


TOKENS = np.array([125_000, 250_000, 500_000, 1_000_000])


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_fits_come_back(case: str) -> None:
    losses, alpha, exponent, floor = PUBLISHED[case]
    law = fit(RATIOS[: len(losses)], losses)
    assert law.alpha == pytest.approx(alpha, abs=2e-5)
    assert law.exponent == pytest.approx(exponent, abs=4e-5)
    assert law.floor == pytest.approx(floor, abs=2e-5)
    assert law.flags == ()


def test_published_speedup_of_muon_comes_back() -> None:
    """The summary figure's 1.3824 at 130M, 8 times Chinchilla, with the 1-8 fit."""
    law = fit((1, 2, 4, 8), PUBLISHED["130m, 1-8"][0])
    assert float(law.tokens(3.238453)) / 8 == pytest.approx(1.3824, abs=1e-4)


def test_exact_points_give_back_their_law() -> None:
    law = fit(TOKENS, exact().loss(TOKENS))
    assert (law.alpha, law.exponent, law.floor) == pytest.approx((40.0, 0.35, 2.0), rel=1e-4)
    assert law.rms < 1e-8


def test_inverse_undoes_the_law() -> None:
    law = exact()
    assert law.tokens(law.loss(TOKENS)) == pytest.approx(TOKENS, rel=1e-12)


def test_many_fits_at_once_are_the_single_fits() -> None:
    rows = exact().loss(TOKENS) + np.random.default_rng(0).normal(size=(5, 4)) * 0.01
    many = fit_draws(TOKENS, rows, weights=[2, 2, 3, 2])
    for row in range(5):
        one = fit(TOKENS, rows[row], weights=[2, 2, 3, 2])
        assert many.exponent[row, 0] == pytest.approx(one.exponent, rel=1e-6)
        assert many.loss(TOKENS)[row] == pytest.approx(one.loss(TOKENS), rel=1e-9)


def test_the_fit_is_at_a_minimum() -> None:
    losses = exact().loss(TOKENS) + np.array([0.004, -0.006, 0.005, -0.003])
    law = fit(TOKENS, losses)

    def cost(alpha: float, exponent: float, floor: float) -> float:
        return float(np.sum((losses - floor - alpha * TOKENS**-exponent) ** 2))

    best = cost(law.alpha, law.exponent, law.floor)
    for exponent in (law.exponent * 0.98, law.exponent * 1.02):
        basis = np.stack([np.ones(4), TOKENS**-exponent], axis=1)
        floor, alpha = np.linalg.lstsq(basis, losses, rcond=None)[0]
        assert cost(alpha, exponent, floor) >= best


def test_a_heavier_point_is_missed_by_less() -> None:
    losses = exact().loss(TOKENS) + np.array([0.0, 0.01, -0.01, 0.0])
    light, heavy = fit(TOKENS, losses), fit(TOKENS, losses, weights=[1, 1, 100, 1])
    assert abs(heavy.loss(TOKENS[2]) - losses[2]) < abs(light.loss(TOKENS[2]) - losses[2])


def test_a_wild_point_moves_the_robust_fit_less() -> None:
    tokens = np.geomspace(1e5, 1e6, 9)
    losses = exact().loss(tokens)
    losses[4] += 0.3
    plain, robust = fit(tokens, losses), fit(tokens, losses, sd=0.002)
    miss = [np.max(np.abs(np.delete(law.loss(tokens) - losses, 4))) for law in (plain, robust)]
    assert miss[1] < miss[0] / 3
    assert any("more than seed noise allows" in flag for flag in robust.flags)


def test_the_bounded_floor_is_flagged() -> None:
    straight = 5 - 0.5 * np.log(TOKENS / 1e5)  # falls without bend: no floor above zero fits it
    law = fit(TOKENS, straight)
    assert law.floor == 0.0
    assert "the floor is at its bound of 0" in law.flags


def test_losses_that_rise_are_flagged() -> None:
    law = fit(TOKENS, [3.0, 3.1, 3.2, 3.3])
    assert law.alpha == 0
    assert "the losses do not fall with tokens: no law" in law.flags


@pytest.mark.parametrize(
    ("tokens", "losses", "word"),
    [
        ([1, 2, 4], [3, 2, 1], "needs 4"),
        ([1, 2, 2, 4], [3, 2, 2, 1], "needs 4"),
        ([1, 2, 4, 8], [3, 2, np.nan, 1], "finite"),
        ([1, 2, 4, 8], [3, 2, 1], "one loss"),
        ([0, 2, 4, 8], [3, 2, 1, 1], "positive"),
    ],
)
def test_unusable_points_are_refused(tokens: list[float], losses: list[float], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        fit(tokens, losses)


def test_a_loss_at_the_floor_is_refused_and_one_outside_the_range_flagged() -> None:
    law = fit(TOKENS, exact().loss(TOKENS))
    assert invert(law, 2.0 - 1e-3).tokens is None
    assert "floor" in invert(law, 2.0 - 1e-3).flags[0]
    assert np.isinf(law.tokens(1.9))
    inside, beyond = invert(law, float(law.loss(6e5))), invert(law, float(law.loss(3e6)))
    assert inside.tokens == pytest.approx(6e5)
    assert inside.flags == ()
    assert beyond.tokens == pytest.approx(3e6, rel=1e-3)
    assert "outside the fitted range" in beyond.flags[0]


def test_a_weight_of_zero_leaves_a_point_out_of_its_row() -> None:
    losses = exact().loss(np.geomspace(1e5, 1e6, 6)) + np.array([0.0, 0.01, -0.02, 0.01, 0.0, -0.01])
    tokens = np.geomspace(1e5, 1e6, 6)
    rows = fit_draws(tokens, np.broadcast_to(losses, (6, 6)), weights=1 - np.eye(6))
    for left_out in range(6):
        alone = fit(np.delete(tokens, left_out), np.delete(losses, left_out))
        assert rows.exponent[left_out, 0] == pytest.approx(alone.exponent, rel=1e-6)


def test_plain_least_squares_follow_a_wild_point_where_robust_ones_do_not() -> None:
    tokens = np.geomspace(1e5, 1e6, 9)
    losses = exact().loss(tokens)
    losses[4] += 0.3
    plain = fit(tokens, losses, sd=0.002, robust=np.inf)
    assert plain.exponent == fit(tokens, losses).exponent
    assert plain.scale > 10  # and the bootstrap widens its points by what it misses them


SHARED = [(40.0, 2.0), (60.0, 1.5), (30.0, 2.4)]


def curves(noise: float = 0.0, budgets: tuple[int, ...] = (4, 4, 4)) -> list[Curve]:
    random = np.random.default_rng(4)
    found = []
    for (alpha, floor), count in zip(SHARED, budgets, strict=True):
        losses = exact(alpha, 0.35, floor).loss(TOKENS[:count]) + random.normal(size=count) * noise
        found.append(Curve(TOKENS[:count], losses, np.full(count, 3.0)))
    return found


def test_a_shared_exponent_comes_back_with_each_curve_s_own_alpha_and_floor() -> None:
    laws = fit_shared(curves())
    for law, (alpha, floor) in zip(laws, SHARED, strict=True):
        assert (law.alpha, law.exponent, law.floor) == pytest.approx((alpha, 0.35, floor), rel=1e-5)


def test_sharing_with_nobody_is_the_plain_fit() -> None:
    curve = curves(0.01)[0]
    (law,) = fit_shared([curve])
    alone = fit(curve.tokens, curve.losses, weights=curve.weights)
    assert (law.alpha, law.exponent, law.floor) == pytest.approx((alone.alpha, alone.exponent, alone.floor))


def test_the_shared_fit_is_at_a_minimum() -> None:
    noisy = curves(0.01)
    best = fit_shared(noisy)[0].exponent

    def cost(exponent: float) -> float:
        total = 0.0
        for curve in noisy:
            basis = np.stack([np.ones(4), (TOKENS / 1e5) ** -exponent], axis=1)
            total += float(np.linalg.lstsq(basis, curve.losses, rcond=None)[1][0])
        return total

    assert cost(best) < min(cost(best * 0.999), cost(best * 1.001))


def test_two_budgets_are_enough_for_a_curve_that_shares_its_exponent() -> None:
    laws = fit_shared(curves(budgets=(4, 4, 2)))
    assert laws[2].exponent == pytest.approx(0.35)
    assert laws[2].floor == pytest.approx(2.4)


@pytest.mark.parametrize("budgets", [(2, 2, 2), (4, 4, 1)])
def test_a_shared_fit_that_nothing_checks_is_refused(budgets: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="no point is left to check it"):
        fit_shared(curves(budgets=budgets))


def test_many_shared_fits_at_once_are_the_single_ones() -> None:
    draws = [curves(0.01)]
    draws.append([Curve(c.tokens, np.asarray(c.losses) + 0.003 * np.arange(4), c.weights) for c in draws[0]])
    both = zip(*draws, strict=True)
    many = fit_shared([Curve(a.tokens, np.stack([a.losses, b.losses]), a.weights) for a, b in both])
    for row, single in enumerate(draws):
        for law, one in zip(many, fit_shared(single), strict=True):
            assert law.exponent[row, 0] == pytest.approx(one.exponent, rel=1e-7)
            assert law.floor[row, 0] == pytest.approx(one.floor, rel=1e-7)
