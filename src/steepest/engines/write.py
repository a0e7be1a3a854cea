"""The one place where weights are written: gradient in, decay and learning rate applied, new weight out."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from steepest.core.rule import Rule, Step


def shrinkage(rule: Rule, peak_lr: Any) -> Any:
    """The factor that weight decay puts on the weight at this learning rate; 1 where it acts elsewhere.

    Before and after: 1 - lr * weight_decay (torch's AdamW). Independent: 1 - (lr / peak_lr) * weight_decay,
    Loshchilov & Hutter's own form (arXiv 1711.05101, Algorithm 2), where only the schedule scales the decay.
    """
    if rule.decay == "coupled":
        return 1.0
    if rule.decay == "independent":
        # A peak of zero is a frozen group: nothing to scale by.
        return 1 - (rule.lr / peak_lr if float(peak_lr) != 0 else 0.0) * rule.weight_decay
    return 1 - rule.lr * rule.weight_decay


def stepped(
    rule: Rule, step: Step, shrink: Any, g: Tensor, w: Tensor, state: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The new weight and state, in the working type, out of place. Every engine runs this text.

    ``coupled``: weight_decay * w joins the gradient (L2). ``before`` and ``independent``: the weight shrinks,
    then the direction is computed. ``after``: the moved weight shrinks.
    """
    if rule.decay == "coupled":
        g = g + rule.weight_decay * w
    after = rule.decay == "after"
    start = w if after else shrunk(w, shrink)
    u, new = rule.update(g, start, step, state)
    if u is None:
        return w, new
    moved = start - rule.lr * u
    return (shrunk(moved, shrink) if after else moved), new


def shrunk(w: Tensor, factor: Any) -> Tensor:
    return w if isinstance(factor, float) and factor == 1.0 else w * factor
