"""Inverse roots against float64 eigenvalues, for matrices of full and of deficient rank."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steepest.linalg.inverse_root import inverse_root, inverse_root_newton, inverse_root_of_diagonal

ROOTS = [1, 2, 3, 4]
UNIT = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def gram(n: int, rank: int, stack: int = 2, seed: int = 0) -> Tensor:
    x = torch.randn(stack, n, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x @ x.mT


def exact(a: Tensor, root: int, eps: float) -> Tensor:
    """By eigenvalues in float64; ``eps`` in units of the Frobenius norm, none of them below zero."""
    values, vectors = torch.linalg.eigh(a)
    ridged = values.clamp(min=0) + eps * a.square().sum(dim=(-2, -1)).sqrt().unsqueeze(-1)
    return vectors @ torch.diag_embed(ridged ** (-1 / root)) @ vectors.mT


def far(found: Tensor, expected: Tensor) -> float:
    return float(((found.double() - expected).norm(dim=(-2, -1)) / expected.norm(dim=(-2, -1))).max())


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize(("n", "rank"), [(1, 1), (6, 9), (40, 40), (40, 7), (100, 30)])
@pytest.mark.parametrize("root", ROOTS)
def test_both_ways_give_the_root_as_far_as_the_ridge_allows(
    n: int, rank: int, root: int, dtype: torch.dtype
) -> None:
    a, eps = gram(n, rank), 1e-4
    expected = exact(a, root, eps + UNIT[dtype])
    tolerance = 3 * UNIT[dtype] / eps * n**0.5 + 20 * UNIT[dtype]
    assert far(inverse_root(a.to(dtype), 1 / root, eps, "relative"), expected) < tolerance
    assert far(inverse_root_newton(a.to(dtype), root, eps), expected) < tolerance


@pytest.mark.parametrize("root", ROOTS)
def test_without_eps_the_rounding_unit_keeps_a_deficient_matrix_finite(root: int) -> None:
    a = gram(30, 4).float()
    norm = float(torch.linalg.matrix_norm(a).min())
    most = (UNIT[torch.float32] * norm) ** (-1 / root)
    for found in (inverse_root(a, 1 / root, 0.0, "relative"), inverse_root_newton(a, root, 0.0)):
        assert found.isfinite().all()
        assert torch.linalg.matrix_norm(found, 2).max() < 1.5 * most


def test_the_absolute_ridge_lifts_negative_eigenvalues_to_zero_and_all_by_eps() -> None:
    basis = torch.linalg.qr(gram(3, 3)[0]).Q
    a = basis @ torch.diag(torch.tensor([-0.5, 1.0, 3.5], dtype=torch.float64)) @ basis.T
    values = torch.linalg.eigvalsh(inverse_root(a, 0.5, 0.25)).flip(0)
    torch.testing.assert_close(values ** (-2), torch.tensor([0.25, 1.75, 4.25], dtype=torch.float64))


def test_the_relative_root_scales_with_the_matrix_and_does_not_see_zeros_around_it() -> None:
    a = gram(8, 5)
    padded = torch.nn.functional.pad(a, (0, 3, 0, 3))
    for root in (
        lambda x: inverse_root(x, 0.25, 1e-6, "relative"),
        lambda x: inverse_root_newton(x, 4, 1e-6),
    ):
        torch.testing.assert_close(root(a * 1e-20), root(a) * 1e5, rtol=1e-8, atol=0.0)
        torch.testing.assert_close(root(padded)[:, :8, :8], root(a), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("eps_form", ["absolute", "relative"])
def test_a_diagonal_is_the_matrix_that_it_stands_for(eps_form: str) -> None:
    d = torch.tensor([[4.0, 0.0, 1.0], [9.0, 2.0, 2.0]], dtype=torch.float64)
    whole = inverse_root(torch.diag_embed(d), 0.3, 1e-3, eps_form)
    torch.testing.assert_close(torch.diag_embed(inverse_root_of_diagonal(d, 0.3, 1e-3, eps_form)), whole)


@pytest.mark.parametrize("dtype", UNIT, ids=str)
def test_a_zero_matrix_stays_finite_and_a_nan_in_its_own_matrix(dtype: torch.dtype) -> None:
    a = gram(5, 5, stack=3).to(dtype)
    a[0], a[1, 2, 2] = 0, torch.nan
    for root in (inverse_root(a, 0.25, 1e-6, "relative"), inverse_root_newton(a, 4, 1e-6)):
        assert root[0].isfinite().all() and (root[0] @ torch.zeros(5, 5, dtype=dtype) == 0).all()
        assert root[1].isnan().any()
        alone = inverse_root(a[2], 0.25, 1e-6, "relative")
        torch.testing.assert_close(root[2], alone, rtol=1e-3, atol=1e-3)
