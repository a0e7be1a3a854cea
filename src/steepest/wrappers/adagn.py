from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import Rule, Slot, Step, number
from steepest.linalg.adam import ema
from steepest.wrappers.adaclip import CODE, PAPER
from steepest.wrappers.averages import bias, norm, same_gradient, slot, surging, whole
from steepest.wrappers.made import made

OVER = "adamw"
OWN = ("norm_mean", "norm_rms", "norm_count")
BF16: Mapping[str, Any] = {"gamma1": 0.85, "gamma2": 0.99999}
"""What the authors' scripts for bfloat16 set; the defaults are those for 4 bits."""


def normalising(rule: type[Rule]) -> type[Rule]:
    """A subclass of a rule whose gradient has the length of its own history's mean over its root mean square."""

    @dataclass(frozen=True)
    class Normalising(rule):  # type: ignore[valid-type, misc]
        """Adaptive gradient norm: each weight's gradient, in units of what its norm has been."""

        scope = whole(rule)

        gamma1: float = number(
            0.7,
            "decay rate of the mean of the gradient's norm; -1: that of the rule's first moment",
            grid=(0.5, 0.7, 0.85, 0.9),
            low=-1.0,
            high=1.0,
        )
        gamma2: float = number(
            0.9, "decay rate of the mean square of the gradient's norm", grid=(0.9, 0.999, 0.99999), high=1.0
        )
        norm_eps: float = number(1e-8, "added to the root of the mean square of the norm")

        def __post_init__(self) -> None:
            super().__post_init__()
            same_gradient(self)
            if -1 < self.gamma1 < 0:
                raise BadInput(
                    f"{self.name()}: gamma1={self.gamma1!r} must be in [0, 1), or -1 for the momentum's"
                )
            self.rate_of_mean()

        def rate_of_mean(self) -> float:
            return self.gamma1 if self.gamma1 >= 0 else rate(self, f"{self.name()}: gamma1=-1")

        def norm_age(self, t: int) -> int | None:
            """How many gradients the averages hold at step t; None: as many as were not zero."""
            return None

        def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
            own = OWN if self.norm_age(1) is None else OWN[:2]
            return super().slots(shape) | dict.fromkeys(own, slot(self.scope, shape))

        def corrections(self, t: int) -> dict[str, float]:
            rates = (self.rate_of_mean(), self.gamma2)
            logs = [math.log(max(one, sys.float_info.min)) for one in rates]
            biases = [-math.expm1((self.norm_age(t) or 1) * log) for log in logs]
            names = ("log_gamma1", "log_gamma2", "norm_bias1", "norm_bias2")
            own = dict(zip(names, (*logs, *biases), strict=True))
            return {**super().corrections(t), "gamma1": rates[0], **own}

        def normalised(self, g: Tensor, step: Step, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            """The gradient that the rule sees, and the new averages."""
            size = norm(self.scope, g)
            told, (old_mean, old_rms) = size > 0, (state[name] for name in OWN[:2])
            if OWN[2] in state:
                count = state[OWN[2]]
                observed = surging(size, old_mean / bias(step.log_gamma1, count), count)
            else:
                observed = size
            mean = ema(old_mean, observed, step.gamma1)
            # The root is kept: the square of a spike is beyond float32, and would hold the weight for good.
            rms = torch.hypot(self.gamma2**0.5 * old_rms, (1 - self.gamma2) ** 0.5 * observed)
            own = {OWN[0]: mean, OWN[1]: rms}
            if OWN[2] in state:
                count = count + told.to(g.dtype)
                own = {name: torch.where(told, new, state[name]) for name, new in own.items()} | {OWN[2]: count}
                bias1, bias2 = bias(step.log_gamma1, count), bias(step.log_gamma2, count)
                level = own[OWN[0]] / bias1 / (own[OWN[1]] / bias2.sqrt() + self.norm_eps)
            else:
                level = mean / step.norm_bias1 / (rms / step.norm_bias2**0.5 + self.norm_eps)
            return torch.where(size == 0, g, g / size * level), own

        def contribution(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
            g, _ = self.normalised(g, step, state)
            return super().contribution(g, w, step, state)

        def update(
            self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            g, own = self.normalised(g, step, state)
            u, new = super().update(g, w, step, {name: x for name, x in state.items() if name not in OWN})
            return u, new | own

    return Normalising


def adagn(rule: type[Rule]) -> type[Rule]:
    """The rule with its gradient normalised by what its norm has been."""

    class AdaGN(normalising(rule)):  # type: ignore[misc]
        """Adaptive gradient norm: each weight's gradient, in units of what its norm has been."""

        title = f"AdaGN over {rule.title}"
        paper = f"{PAPER}, AdaGN alone. Over: {rule.paper}"
        code = f"{CODE}. Over: {rule.code}"
        pseudocode = f"""
        n <- |g|                                          (of the weight; of each matrix under a rule for matrices)
        if n > 0, and n counts as 1000 times its mean so far at most:
          mu <- gamma1 * mu + (1 - gamma1) * n
          nu <- gamma2 * nu + (1 - gamma2) * n^2
          g <- g / n * (mu / (1 - gamma1^s)) / (sqrt(nu / (1 - gamma2^s)) + norm_eps)     s: gradients not zero

        {rule.__name__}:{rule.pseudocode}"""
        advice = (
            "Against gradient norms that jump from step to step, in training at low precision above all. Each "
            "weight's gradient becomes about 1 long, shorter after a burst; a rule that does not care for the "
            "gradient's scale keeps its learning rate, SGD does not. With AdaClip it brought Lion at FP4 from "
            "39.9 to 36.8 perplexity at 60M weights and from 34.2 to 31.6 at 130M (arXiv 2502.17055, one seed); "
            "no independent study has it. For bfloat16 the authors set gamma1 .85 and gamma2 .99999."
        )
        quirks = (
            "A gradient whose norm is constant becomes 1 long, not unchanged.",
            "A gradient of zeros is not counted; in the authors' code it draws both averages down, and with "
            "gamma2 .99999 the first gradient after many is 47 times too long.",
            "A norm counts as 1000 times its mean so far at most, and the root of nu is kept: in the authors' "
            "code one norm of 1e20 makes nu infinite and stops the weight for ever.",
            "What a rule measures beside the gradient is not normalised: over Sophia gamma means something else.",
            "With decay='coupled' the decay is part of the gradient that is normalised.",
            *rule.quirks,
        )
        variants = {
            **({"adagn": {}} if rule.name() == OVER else rule.variants),
            "adagn-bf16": BF16,
        }

    return made(AdaGN, rule, OVER, {})


def rate_field(rule: Rule) -> str:
    """The hyperparameter that holds the decay rate of a rule's first moment; empty if there is none."""
    return next((name for name in ("betas", "momentum") if hasattr(rule, name)), "")


def rate(rule: Rule, asked: str) -> float:
    """The decay rate of a rule's first moment. Raises: BadInput where it has none, for what was asked."""
    name = rate_field(rule)
    if not name:
        raise BadInput(
            f"{asked} is the decay rate of the first moment, of which this rule has none: give a number"
        )
    value: float = rule.betas[0] if name == "betas" else getattr(rule, name)  # type: ignore[attr-defined]
    return value
