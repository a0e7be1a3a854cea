"""Adam's formulas, shared by the rules built on them (Kingma & Ba, arXiv 1412.6980, Algorithm 1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def ema(average: Tensor, x: Tensor, beta: Any) -> Tensor:
    """Exponential moving average: ``beta * average + (1 - beta) * x``.

    In one pass, in torch's own form, where beta is a Python number; 0-d tensors come with a compiler, which fuses.
    """
    if isinstance(beta, Tensor):
        return beta * average + (1 - beta) * x
    return average.lerp(x, 1 - beta)


def ema_of_square(average: Tensor, x: Tensor, beta: Any) -> Tensor:
    """``beta * average + (1 - beta) * x^2``, likewise."""
    if isinstance(beta, Tensor):
        return beta * average + (1 - beta) * (x * x)
    return (beta * average).addcmul_(x, x, value=1 - beta)


def bias_corrections(betas: tuple[float, float], t: int) -> dict[str, float]:
    """``1 - beta**t`` for both moments, at step t = 1, 2, ...; the second also as its root."""
    return {"bias1": 1 - betas[0] ** t, "root_bias2": (1 - betas[1] ** t) ** 0.5}


def adam_direction(m: Tensor, v: Tensor, bias1: Any, root_bias2: Any, eps: Any, eps_form: str) -> Tensor:
    """The Adam step for moments m and v, in one of the two forms that differ only in epsilon.

    ``torch``: m / bias1 / (sqrt(v) / root_bias2 + eps), Algorithm 1 of the paper.
    ``hf``: root_bias2 / bias1 * m / (sqrt(v) + eps), the paper's "epsilon hat" (end of section 2).
    """
    if eps_form == "torch":
        return m / v.sqrt().div_(root_bias2).add_(eps).mul_(bias1)
    return ((root_bias2 / bias1) * m).div_(v.sqrt().add_(eps))
