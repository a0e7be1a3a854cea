"""Adam's formulas, shared by the rules built on them (Kingma & Ba, arXiv 1412.6980, Algorithm 1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def ema(average: Tensor, x: Tensor, beta: Any) -> Tensor:
    """Exponential moving average: ``beta * average + (1 - beta) * x``.

    Element rules use this form, each operation of which rounds alike wherever a tensor is cut; torch's lerp does
    not, because its vectors use fused multiply-add and its remainders do not.
    """
    return beta * average + (1 - beta) * x


def ema_in_one_pass(average: Tensor, x: Tensor, beta: Any) -> Tensor:
    """The same to rounding, for rules whose pieces are never cut and that no kernel fuses.

    0-d tensors come with a compiler, which fuses.
    """
    if isinstance(beta, Tensor):
        return ema(average, x, beta)
    return average.lerp(x, 1 - beta)


def ema_of_square(average: Tensor, x: Tensor, beta: Any) -> Tensor:
    """``beta * average + (1 - beta) * x^2``, likewise in one pass less."""
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
        return m / (bias1 * (v.sqrt() / root_bias2 + eps))
    return (root_bias2 / bias1) * m / (v.sqrt() + eps)
