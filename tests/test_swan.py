"""What SWAN's normalisation and whitening claim beyond the numbers of a walk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import weights
from test_trajectories import INPUTS
from torch import Tensor

import steepest
from steepest.core.errors import BadInput
from steepest.core.rule import Step
from steepest.linalg.newton_schulz import cubic, orthogonalise
from steepest.linalg.polar import polar_factor
from steepest.rules.swan import SWAN, form_of

SHAPES = [(6, 6), (4, 9), (9, 4), (3, 4, 9), (1, 7), (7, 1), (1, 1)]
FORMS = [
    "RMS, Newton-Schulz 6 steps, rescale",
    "RMS, exact polar, rescale sqrt(mn)",
    "center+std, Newton-Schulz 10 steps from GG^T/||G||_F^2, beta=.5, rescale",
    "center+std, exact polar, no rescale",
    "center+std, exact polar, rescale",
]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def direction(g: Tensor, **options: Any) -> Tensor:
    u, _ = SWAN(**options).update(g, g, Step("", {}), {})
    return u


@pytest.mark.parametrize("variant", [v for v in SWAN.variants if v != "v1-exact-unscaled"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_matrix_moves_by_an_rms_of_the_learning_rate(shape: tuple[int, ...], variant: str) -> None:
    options = {k: v for k, v in SWAN.variants[variant].items() if k not in ("lr", "companion")}
    u = direction(noise(*shape), **options)
    torch.testing.assert_close(u.square().mean(dim=(-2, -1)).sqrt(), torch.ones_like(u[..., 0, 0]))


def test_unscaled_rows_are_orthonormal() -> None:
    u = direction(noise(4, 9), whitening="exact", rescale=False)
    torch.testing.assert_close(u @ u.mT, torch.eye(4, dtype=u.dtype))


def test_the_size_of_a_row_of_the_gradient_does_not_matter() -> None:
    g = noise(5, 8)
    sizes = torch.tensor([[1e-3], [1.0], [7.0], [1e3], [1e6]], dtype=g.dtype)
    torch.testing.assert_close(direction(sizes * g), direction(g), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(direction(g + sizes), direction(g), rtol=1e-6, atol=1e-7)  # centred


@pytest.mark.parametrize("whitening", ["newton-schulz", "exact"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e-3, 3e5])
def test_a_row_without_spread_gives_zero_and_spoils_no_other(value: float, whitening: str) -> None:
    g = noise(5, 33, dtype=torch.float32)
    g[2] = value
    u = direction(g, whitening=whitening)
    rest = direction(g[[0, 1, 3, 4]], whitening=whitening)
    torch.testing.assert_close(u[2], torch.zeros(33), rtol=0, atol=1e-6)
    torch.testing.assert_close(u[[0, 1, 3, 4]], rest, rtol=1e-4, atol=1e-4)


def test_exact_whitening_leaves_directions_without_gradient_alone() -> None:
    """Rounding of float32 in an empty direction would otherwise become a direction of full size."""
    g = noise(30, 4, dtype=torch.float32) @ noise(4, 40, dtype=torch.float32, seed=1)
    values = torch.linalg.svdvals(polar_factor(g))
    torch.testing.assert_close(values, torch.tensor([1.0] * 4 + [0.0] * 26), rtol=1e-4, atol=1e-4)
    square = torch.linalg.svdvals(polar_factor(SWAN().gradnormed(noise(16, 16, dtype=torch.float32))))
    assert square[-2] > 0.99 and square[-1] < 1e-4  # the mean over inputs is gone


def test_exact_whitening_shows_nan_instead_of_raising() -> None:
    x = noise(3, 4, 5)
    x[1, 0, 0] = torch.nan
    found = polar_factor(x)
    assert found[1].isnan().all() and found[[0, 2]].isfinite().all()
    assert polar_factor(torch.zeros(0, 4, 5)).shape == (0, 4, 5)


def test_ten_steps_on_a_square_matrix_end_as_far_from_exact_as_told() -> None:
    x = SWAN().gradnormed(torch.tensor(INPUTS["grad/000/square"]))
    far = [float((orthogonalise(x, k, cubic(), 1e-30, "clamp") - polar_factor(x)).abs().max()) for k in (5, 6, 10)]
    assert far == pytest.approx([0.25, 0.21, 0.07], abs=0.01)


def test_the_listing_that_circulates_overflows() -> None:
    """Why it is not built: unscaled Gram matrix, steps of 0.8."""
    x = SWAN().gradnormed(torch.tensor(INPUTS["grad/000/wide"]))
    y, z, identity = x @ x.mT, torch.eye(8, dtype=x.dtype), torch.eye(8, dtype=x.dtype)
    for _ in range(10):
        t = identity - z @ y
        y, z = y + 0.8 * y @ t, z + 0.8 * t @ z
    assert not (z @ x).isfinite().all()
    assert direction(x, ns_beta=0.8).isfinite().all()


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.5])
def test_steps_that_do_not_converge_are_refused(beta: float) -> None:
    with pytest.raises(BadInput, match="ns_beta"):
        SWAN(ns_beta=beta)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_that_a_trajectory_may_name_is_understood(form: str) -> None:
    found = form_of(form)
    assert found["gradnorm"] == ("rms" if form.startswith("RMS") else "std")
    assert found["whitening"] == ("exact" if "exact" in form else "newton-schulz")
    assert found["rescale"] == ("no rescale" not in form)
    if "exact" not in form:
        assert found["ns_steps"] == (6 if "6 steps" in form else 10) and found["ns_beta"] == 0.5


@pytest.mark.parametrize("form", ["", "RMS", "median, exact polar", "RMS, half polar, rescale"])
def test_another_form_is_refused(form: str) -> None:
    with pytest.raises(BadInput, match="form"):
        form_of(form)


@pytest.mark.parametrize("name", ["SWAN", "SinkGD"])
def test_one_learning_rate_moves_matrices_and_companion_in_the_papers_ratio(name: str) -> None:
    named = weights()
    for lr in (1e-3, 4e-3):
        optimizer = getattr(steepest, name)(list(named.items()), lr=lr)
        rates = {group["rule"]: group["lr"] for group in optimizer.param_groups}
        assert rates == pytest.approx({name.lower(): lr, "adamw": lr / 0.05})
        held = {n for n, p in named.items() if set(optimizer.state[p]) == {"step"}}
        assert held == {n for n in named if n.startswith("blocks") and n.endswith("weight")}
