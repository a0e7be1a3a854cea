from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.rule import Rule, Slot, Step, number
from steepest.linalg.adam import ema
from steepest.wrappers.averages import bias, largest, same_gradient, slot, surging, whole
from steepest.wrappers.made import made

OVER = "adamw"
OWN = ("clip_average", "clip_count")

CODE = "TianjinYellow/StableSPAM@6a66da1 galore_torch/stablespam.py"
PAPER = "Huang et al., Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam, arXiv 2502.17055"


def adaclipping(rule: type[Rule]) -> type[Rule]:
    """A subclass of a rule whose gradient's largest entries are scaled to what they are on average."""

    @dataclass(frozen=True)
    class AdaClipping(rule):  # type: ignore[valid-type, misc]
        """Adaptive clipping: entries above the running average of the largest entry are scaled down."""

        scope = whole(rule)

        gamma3: float = number(
            0.999, "decay rate of the average of the largest entry; 0: no clipping", grid=(0.99, 0.999), high=1.0
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            same_gradient(self)

        def clip_age(self, t: int) -> int | None:
            """How many gradients the average holds at step t; None: as many as were not zero."""
            return None

        def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
            own = OWN if self.clip_age(1) is None else OWN[:1]
            return super().slots(shape) | dict.fromkeys(own, slot(self.scope, shape))

        def corrections(self, t: int) -> dict[str, float]:
            age, log = self.clip_age(t), math.log(max(self.gamma3, sys.float_info.min))
            return {**super().corrections(t), "log_gamma3": log, "clip_bias": -math.expm1((age or 1) * log)}

        def adaclipped(self, g: Tensor, step: Step, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            """The gradient that the rule sees, and the new averages."""
            most, average = largest(self.scope, g), state[OWN[0]]
            if OWN[1] in state:
                count, told = state[OWN[1]], most > 0
                observed = surging(most, average / bias(step.log_gamma3, count), count)
                average = torch.where(told, ema(average, observed, self.gamma3), average)
                count = count + told.to(g.dtype)
                own, level = dict(zip(OWN, (average, count), strict=True)), average / bias(step.log_gamma3, count)
            else:
                average = ema(average, most, self.gamma3)
                own, level = {OWN[0]: average}, average / step.clip_bias
            return torch.where(g.abs() > level, g / most * level, g), own

        def contribution(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
            g, _ = self.adaclipped(g, step, state)
            return super().contribution(g, w, step, state)

        def update(
            self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            g, own = self.adaclipped(g, step, state)
            u, new = super().update(g, w, step, {name: x for name, x in state.items() if name not in OWN})
            return u, new | own

    return AdaClipping


def adaclip(rule: type[Rule]) -> type[Rule]:
    """The rule with its gradient's largest entries scaled to what they are on average."""

    class AdaClip(adaclipping(rule)):  # type: ignore[misc]
        """Adaptive clipping: entries above the running average of the largest entry are scaled down."""

        title = f"AdaClip over {rule.title}"
        paper = f"{PAPER}, AdaClip alone. Over: {rule.paper}"
        code = f"{CODE}. Over: {rule.code}"
        pseudocode = f"""
        M <- max |g|                                      (of the weight; of each matrix under a rule for matrices)
        T <- gamma3 * T + (1 - gamma3) * min(M, 1000 * the T-hat before)              (not if M = 0)
        T-hat <- T / (1 - gamma3^s)                                      s: gradients that were not zero
        where |g| > T-hat: g <- g / M * T-hat

        {rule.__name__}:{rule.pseudocode}"""
        advice = (
            "Against a few entries that stand out of their weight's gradient, in training at low precision above "
            "all: the threshold follows the largest entry itself, so that there is nothing to tune. Every step "
            "whose largest entry is above its average is clipped, where spikeclip touches spikes alone. With "
            "AdaGN it brought Lion at FP4 from 39.9 to 36.8 perplexity at 60M weights and from 34.2 to 31.6 at "
            "130M (arXiv 2502.17055, one seed); what it does alone, and in a calm run at bfloat16, no independent "
            "study tells."
        )
        quirks = (
            "All entries above the threshold are multiplied by T-hat / M, not cut to it: the largest becomes "
            "T-hat, and one just above the threshold falls far below it.",
            "A gradient of zeros is not counted: in the authors' code it draws the threshold down, and after a "
            "thousand of them (an unused expert) the next gradient is clipped to a thousandth.",
            "The threshold includes the step that it is for, which counts as 1000 times the average at most: in "
            "the authors' code one entry of 1e30 ends the clipping for 60,000 steps.",
            "With decay='coupled' the decay is part of the gradient that is clipped.",
            *rule.quirks,
        )
        variants = {"adaclip": {}} if rule.name() == OVER else {**rule.variants}

    return made(AdaClip, rule, OVER, {})
