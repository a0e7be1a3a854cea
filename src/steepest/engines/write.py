"""The one place where weights are written: gradient in, decay and learning rate applied, new weight out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from steepest.core.job import REST, Moment, Piece
from steepest.core.rule import Rule, Step, working_dtype
from steepest.engines.draws import ROUNDS, draws_of
from steepest.linalg.rounding import rounded_at_random


def move(moment: Moment, piece: Piece) -> None:
    """Run the rule on one piece and store what it returns, rounded to the types of weight and state."""
    working = working_dtype(piece.weight.dtype)
    start, state = opened(piece.weight, piece.state)
    shrink = shrinkage(moment.rule, moment.peak_lr)
    text = text_of(moment.rule, moment.phase, moment.corrections, shrink, bool(piece.members))
    draws = draws_of(moment, piece)
    rounds = draws.pop(ROUNDS, None)
    w, new = text(piece.grad.to(working), start, state, draws)
    store(piece.weight, start, piece.state, *rounded(w, new, piece.weight.dtype, REST in piece.state, rounds))


def opened(weight: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weight in the working type, with what was lost when it was rounded, and the rule's own state."""
    start = weight.to(working_dtype(weight.dtype))
    if REST not in state:
        return start, state
    return start + state[REST].to(start.dtype), {name: x for name, x in state.items() if name != REST}


def rounded(
    w: Tensor, new: dict[str, Tensor], dtype: torch.dtype, rest: bool, rounds: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The new weight as a number that its type holds; beside it what that loses, if it is kept."""
    if rest:
        whole = w.to(dtype).to(w.dtype)
        return whole, new | {REST: (w - whole).to(dtype)}
    return (w if rounds is None else rounded_at_random(w, rounds)), new


Text = Callable[[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


def text_of(rule: Rule, phase: str, corrections: Mapping[str, Any], shrink: Any, joined: bool) -> Text:
    """:func:`stepped` of gradient, weight, state and random draws; mapped over joined pieces where the rule
    itself must see each tensor alone."""

    def text(
        g: Tensor, w: Tensor, state: dict[str, Tensor], draws: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return stepped(rule, Step(phase, {**corrections, **draws}), shrink, g, w, state)

    mapped: Text = torch.func.vmap(text) if rule.scope == "tensor" and joined else text
    return mapped


def store(
    weight: Tensor, start: Tensor, state: Mapping[str, Tensor], w: Tensor, new: Mapping[str, Tensor]
) -> None:
    """Write results in place. What a rule hands from one slot to another is read before either is written."""
    old = (start, *state.values())

    def kept(result: Tensor) -> Tensor:
        return result.clone() if any(result is tensor for tensor in old) else result

    changed = {name: kept(new[name]) for name, tensor in state.items() if new[name] is not tensor}
    weight.copy_(w if w is start else kept(w))
    for name, tensor in changed.items():
        state[name].copy_(tensor)


def shrinkage(rule: Rule, peak_lr: Any) -> Any:
    """The factor that weight decay puts on the weight at this learning rate; 1 where it acts elsewhere.

    Before and after: 1 - lr * weight_decay (torch's AdamW). Independent: 1 - (lr / peak_lr) * weight_decay,
    Loshchilov & Hutter's own form (arXiv 1711.05101, Algorithm 2), where only the schedule scales the decay.
    Fixed: 1 - weight_decay at every step that is made, whatever the schedule says.
    """
    if rule.decay in ("coupled", "joined"):
        return 1.0
    if rule.decay in ("independent", "fixed"):
        # A peak of zero is a frozen group: nothing to scale by, and nothing that may move.
        frozen = float(peak_lr) == 0
        share = 0.0 if frozen else 1.0 if rule.decay == "fixed" else rule.lr / peak_lr
        return 1 - share * rule.weight_decay
    return 1 - rule.lr * rule.weight_decay


def stepped(
    rule: Rule, step: Step, shrink: Any, g: Tensor, w: Tensor, state: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The new weight and state, in the working type, out of place. Every engine runs this text.

    ``coupled``: weight_decay * w joins the gradient (L2). ``before``, ``independent`` and ``fixed``: the weight
    shrinks, then the direction is computed. ``after``: the moved weight shrinks. ``joined``: weight_decay * w
    joins the direction, which rounds the weight once. A rule that writes the weight itself is left to it.
    """
    if rule.writes_weight:
        moved, new = rule.update(g, w, step, state)
        return (w if moved is None else moved), new
    if rule.decay == "coupled":
        g = g + rule.weight_decay * w
    start = shrunk(w, shrink) if rule.decay in ("before", "independent", "fixed") else w
    u, new = rule.update(g, start, step, state)
    if u is None:
        return w, new
    if rule.decay == "joined":
        u = u + rule.weight_decay * w
    moved = descended(rule, start, u)
    return (shrunk(moved, shrink) if rule.decay == "after" else moved), new


def descended(rule: Rule, w: Tensor, u: Tensor) -> Tensor:
    """w - lr * u. Element rules round the product by itself, as every engine can; others save a pass."""
    if rule.scope == "element" or isinstance(rule.lr, Tensor):
        return w - rule.lr * u
    return torch.sub(w, u, alpha=rule.lr)


def shrunk(w: Tensor, factor: Any) -> Tensor:
    return w if isinstance(factor, float) and factor == 1.0 else w * factor
