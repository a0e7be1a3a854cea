"""Eigenbases of symmetric positive semi-definite matrices, whole and tracked by power iteration."""

from __future__ import annotations

import torch
from torch import Tensor


def eigenpairs(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., n), ascending, and orthonormal eigenvectors (..., n, n) as columns, of symmetric a.

    Where float32 LAPACK does not converge, float64 does. A matrix that is not finite gives nan, where LAPACK would
    raise.
    """
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    finite = a.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    a = torch.where(finite, a, identity)
    try:
        values, vectors = torch.linalg.eigh(a)
    except torch.linalg.LinAlgError:
        values, vectors = (x.to(a.dtype) for x in torch.linalg.eigh(a.double()))
    return torch.where(finite[..., 0], values, torch.nan), torch.where(finite, vectors, torch.nan)


def eigenbasis(a: Tensor) -> Tensor:
    """Orthonormal eigenvectors of a (..., n, n) as columns, by descending eigenvalue.

    The tiny ridge breaks exact ties of a null space the way nikhilvyas/SOAP does.
    """
    ridge = 1e-30 * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return eigenpairs(a + ridge)[1].flip(-1)


def refreshed(a: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """One power step on the basis q of a, both (..., n, n): the new basis, and the order put on old columns.

    The columns are sorted by their estimated eigenvalue diag(q^T a q), descending, and q <- orthonormal factor of
    QR(a q). What is kept along the old columns must be permuted by ``order`` (..., n) too.
    """
    power = a @ q
    order = torch.argsort((q * power).sum(dim=-2), dim=-1, descending=True, stable=True)
    # What torch.linalg.qr does, without the other factor.
    return torch.linalg.householder_product(*torch.geqrf(reordered(power, order, -1))), order


def reordered(x: Tensor, order: Tensor, dim: int) -> Tensor:
    """x (..., m, n) with its rows (dim -2) or columns (-1) in this order (..., m or n)."""
    index = order.unsqueeze(-1 if dim == -2 else -2)
    return x.gather(dim, index.expand_as(x))
