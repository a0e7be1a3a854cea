"""The orthogonal factor of a matrix, exactly: what Newton-Schulz iterations come near to."""

from __future__ import annotations

import torch
from torch import Tensor


def polar_factor(x: Tensor, cut: float = 1e-7) -> Tensor:
    """``U V^T`` of each matrix in x (..., rows, cols) by its singular values, which is ``(x x^T)^(-1/2) x``.

    Directions whose singular value is at most ``cut`` times the largest, or what the type cannot tell from zero
    beside it, are left out: they hold rounding alone. A matrix that is not finite gives nan, where LAPACK would
    raise.
    """
    finite = x.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    sound = torch.where(finite, x, 0.0)
    try:
        u, s, vh = torch.linalg.svd(sound, full_matrices=False)
    except torch.linalg.LinAlgError:
        u, s, vh = (part.to(x.dtype) for part in torch.linalg.svd(sound.double(), full_matrices=False))
    told = max(cut, torch.finfo(x.dtype).eps * max(x.shape[-2:]))
    kept = (s > told * s[..., :1]).to(x.dtype)
    return torch.where(finite, (u * kept.unsqueeze(-2)) @ vh, torch.nan)
