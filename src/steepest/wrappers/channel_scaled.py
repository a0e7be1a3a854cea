"""What APOLLO and Fira share: channels scaled as the rule scales them in the subspace, and a limiter of growth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.rule import Rule, Slot, Step, choice, number
from steepest.linalg.norms import frobenius, length
from steepest.wrappers.low_rank import low_rank


def channel_scaled(rule: type[Rule], wrapper: str) -> type[Rule]:
    """A low-rank form of an element-wise rule that tells how long its steps are, channel by channel.

    Raises: BadInput for a rule that has no low-rank form.
    """

    @dataclass(frozen=True)
    class ChannelScaled(low_rank(rule, wrapper)):  # type: ignore[misc]
        proj_type: str = choice(  # with both sides projected no channel is left
            "std",
            "projected side: the shorter one, the longer one, always left or right",
            options=("std", "reverse_std", "left", "right"),
        )
        limiter: str = choice("mended", "of the growth of the scaled norm", options=("mended", "official", "off"))
        limiter_growth: float = number(1.01, "by how much the norm may grow from step to step", low=1.0)
        limiter_floor: float = number(0.1, "share of its remembered norm that one step leaves (limiter mended)")

        def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
            norm = {"update_norm": Slot((*self.low_shape(shape)[:-2], 1, 1))} if self.limiter != "off" else {}
            return super().slots(shape) | norm

        def corrections(self, t: int) -> dict[str, float]:
            """In Adam's hf form the corrections are a factor of the step, which the limiter does not see."""
            found = {"factor": 1.0, **super().corrections(t), "first": float(t == 1)}
            if getattr(self, "eps_form", "") == "hf":
                found["factor"] = found["root_bias2"] / found["bias1"]
                found |= {"bias1": 1.0, "root_bias2": 1.0}
            return found

        def within(
            self, g: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[dict[str, Tensor], Tensor, Tensor | None, dict[str, Tensor]]:
            return super().within(g, step, {name: slot for name, slot in state.items() if name != "update_norm"})

        def limited(self, x: Tensor, step: Step, state: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
            """By what x is to be divided, and what is remembered of its norm."""
            if self.limiter == "off":
                return 1.0, {}
            size, last, mended = frobenius(x), state["update_norm"], self.limiter == "mended"
            before = torch.where(last > 0, last, size) if mended else last + step.first * size
            growth = (size / ((before + 1e-8) * self.limiter_growth)).clamp(min=1)
            left = size / growth
            if mended:
                left = torch.where(size > 0, torch.maximum(left, self.limiter_floor * before), before)
            return growth, {"update_norm": left}

    return ChannelScaled


def channel(subspace: dict[str, Tensor]) -> tuple[int, ...]:
    """The dimension along which a channel's coordinates in the subspace lie."""
    return (-1,) if "right" in subspace else (-2,)


def stretch(n: Tensor, low: Tensor, dims: tuple[int, ...]) -> Tensor:
    """How many times as long as its gradient in the subspace the rule's direction is, along these dimensions."""
    over, under = (frobenius(x) if len(dims) == 2 else length(x, *dims) for x in (n, low))
    return over / (under + 1e-8)
