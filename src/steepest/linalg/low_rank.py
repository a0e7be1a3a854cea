"""Low-rank subspaces of matrices (..., rows, cols): from singular vectors or at random, into them and back.

A subspace is a mapping from side to factor: "left" (..., rows, r) is spanned by columns, "right" (..., r, cols) by
rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def sides(kind: str, rows: int, cols: int) -> tuple[str, ...]:
    """The sides on which a matrix of this shape is projected.

    std: the shorter side, rows and columns alike: the right; reverse_std: the other one; left, right; full: both.
    """
    shorter, longer = ("right", "left") if rows >= cols else ("left", "right")
    return {"std": (shorter,), "reverse_std": (longer,), "full": ("left", "right")}.get(kind, (kind,))


def into(x: Tensor, subspace: Mapping[str, Tensor]) -> Tensor:
    """A^T x B^T for A left and B right: the coordinates of x, without the sides that are not projected."""
    x = subspace["left"].mT @ x if "left" in subspace else x
    return x @ subspace["right"].mT if "right" in subspace else x


def out_of(x: Tensor, subspace: Mapping[str, Tensor]) -> Tensor:
    """A x B: what has these coordinates."""
    x = subspace["left"] @ x if "left" in subspace else x
    return x @ subspace["right"] if "right" in subspace else x


def singular_subspace(x: Tensor, which: tuple[str, ...], rank: int, signs: str) -> dict[str, Tensor]:
    """The first ``rank`` singular vectors of x on these sides.

    A singular vector is unique up to its sign. ``signs`` "largest": its entry of largest size is positive;
    "lapack": as the solver returns it. A matrix that is not finite gives nan, where LAPACK would raise.
    """
    finite = x.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    clean = torch.where(finite, x, 0.0)
    try:
        u, _, vh = torch.linalg.svd(clean, full_matrices=False)
    except torch.linalg.LinAlgError:  # where float32 does not converge, float64 does
        u, _, vh = (part.to(x.dtype) for part in torch.linalg.svd(clean.double(), full_matrices=False))
    found = {"left": u[..., :rank], "right": vh[..., :rank, :]}
    if signs == "largest":
        found = {side: turned(found[side], -2 if side == "left" else -1) for side in which}
    return {side: torch.where(finite, found[side], torch.nan) for side in which}


def turned(vectors: Tensor, dim: int) -> Tensor:
    """Vectors along ``dim``, each with the sign that makes its entry of largest size positive."""
    largest = vectors.gather(dim, vectors.abs().argmax(dim=dim, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def nonzero(x: Tensor) -> Tensor:
    """Whether each matrix has an entry that is not zero, (..., 1, 1)."""
    return (x != 0).any(dim=-1, keepdim=True).any(dim=-2, keepdim=True)
