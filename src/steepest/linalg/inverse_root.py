"""Inverse roots of symmetric positive semi-definite matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steepest.linalg.eigenbasis import eigenpairs


def inverse_root(a: Tensor, exponent: float, eps: Any, eps_form: str = "absolute") -> Tensor:
    """``(a + ridge)^-exponent`` of each a (..., n, n), by its eigenvalues.

    ``absolute``: the eigenvalues are raised until none is negative, then by eps (arXiv 2309.06497, section 3).
    ``relative``: negative ones are taken as zero, and the ridge is that of :func:`relative_ridge`.
    """
    values, vectors = eigenpairs(a)
    if eps_form == "absolute":
        values = values - values.amin(dim=-1, keepdim=True).clamp(max=0) + eps
    else:
        values = values.clamp(min=0) + relative_ridge(a, eps)[..., 0]
    powers = values.clamp(min=torch.finfo(a.dtype).tiny).pow(-exponent)
    return (vectors * powers.unsqueeze(-2)) @ vectors.mT


def inverse_root_of_diagonal(a: Tensor, exponent: float, eps: Any, eps_form: str = "absolute") -> Tensor:
    """The same of diagonal matrices without negative entries: a and the result hold their diagonals (..., n)."""
    ridge = eps if eps_form == "absolute" else relative_ridge(a.unsqueeze(-1), eps)[..., 0]
    return (a + ridge).clamp(min=torch.finfo(a.dtype).tiny).pow(-exponent)


def inverse_root_newton(a: Tensor, root: int, eps: Any, steps: int = 50) -> Tensor:
    """``(a + ridge)^(-1/root)`` by matrix products alone: the coupled Newton iteration.

    Guo & Higham, "A Schur-Newton method for the matrix pth root and its inverse", SIAM J. Matrix Anal. Appl. 28,
    2006, eq. 3.5: with c = (1 + 1/root), X <- X (c I - M / root), M <- (c I - M / root)^root M from M = z a and
    X = z^(1/root) I, which keeps M = X^root a while M goes to I. The ridge is that of :func:`relative_ridge`; the
    smallest eigenvalue about doubles at every step until it is near 1. A matrix whose M is near I and comes no
    nearer is left as it is: rounding would carry it away again.
    """
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    a = a + relative_ridge(a, eps) * identity
    z = (1 + root) / 2 / torch.linalg.matrix_norm(a, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    m, x = z * a, z.pow(1 / root) * identity
    error = _distance(m, identity)
    for _ in range(steps):
        factor = (1 + 1 / root) * identity - m / root
        m_next = torch.linalg.matrix_power(factor, root) @ m
        error_next = _distance(m_next, identity)
        done = (error < 0.1) & (error_next >= error)
        x, m = torch.where(done, x, x @ factor), torch.where(done, m, (m_next + m_next.mT) / 2)
        error = torch.where(done, error, error_next)
    return x


def relative_ridge(a: Tensor, eps: Any) -> Tensor:
    """What makes a (..., n, n) safely definite: its Frobenius norm times eps and the rounding unit, (..., 1, 1).

    The norm lies between the largest eigenvalue and the root of the rank times that. It does not change when a is
    filled up with zeros, and needs no eigenvalues. A zero matrix gets the smallest normal number.
    """
    info = torch.finfo(a.dtype)
    return ((eps + info.eps) * torch.linalg.matrix_norm(a, keepdim=True)).clamp(min=info.tiny)


def _distance(m: Tensor, identity: Tensor) -> Tensor:
    return (m - identity).abs().amax(dim=(-2, -1), keepdim=True)
