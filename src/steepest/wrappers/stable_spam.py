from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.rule import Rule, Step, choice, number, with_tensors
from steepest.wrappers.adaclip import CODE, PAPER, adaclipping
from steepest.wrappers.adagn import BF16, normalising, rate, rate_field
from steepest.wrappers.made import made
from steepest.wrappers.reset import resetting

OVER = "adamw"
FP4: Mapping[str, Any] = {"reset_every": 500}
OFFICIAL: Mapping[str, Any] = {"reset_form": "official"}


def stable_spam(rule: type[Rule]) -> type[Rule]:
    """The rule with an adaptive clip, an adaptive gradient norm and momentum reset."""
    adamw = rule.name() == OVER

    @dataclass(frozen=True)
    class StableSPAM(adaclipping(normalising(resetting(rule)))):  # type: ignore[misc]
        """Stable-SPAM: AdaClip, AdaGN and momentum reset before a rule, with a schedule of its momentum."""

        title = "Stable-SPAM" if adamw else f"Stable-SPAM over {rule.title}"
        paper = f"{PAPER}. Over: {rule.paper}"
        code = f"{CODE}. Over: {rule.code}"
        pseudocode = f"""
        w <- (1 - lr * weight_decay) * w
        c <- eta_min + (1 - eta_min) * (1 + cos(pi * t / (total_T + 1))) / 2        (if total_T is given, else 1)
        M <- max |g|;  T <- gamma3 * T + (1 - gamma3) * M;  T-hat <- T / (1 - gamma3^s)
        where |g| > T-hat: g <- g / M * T-hat                                                       (AdaClip)
        n <- |g|;  mu <- c gamma1 * mu + (1 - c gamma1) * n;  nu <- gamma2 * nu + (1 - gamma2) * n^2
        g <- g / n * (mu / (1 - (c gamma1)^s)) / (sqrt(nu / (1 - gamma2^s)) + norm_eps)               (AdaGN)
        at steps k, 2k, ... (k = reset_every): all state of {rule.__name__} <- 0, and its step is step 1
        w <- w - lr * the direction of {rule.__name__} with c beta1 in the place of beta1
        s: gradients that were not zero; no M and no n counts as more than 1000 times its average before
        reset_form official: moments <- 0 after the step instead, s counts with the steps of {rule.__name__}

        {rule.__name__}:{rule.pseudocode}"""
        advice = (
            "For training in 4 bits, which it is made for: its authors report a LLaMA of 1B weights in 4 bits up "
            "to 2 points of perplexity below Adam in bfloat16, and at 130M 24.3 (INT4) and 26.3 (FP4) against "
            "26.4 and 28.9 of Adam and 25.0 and 26.8 of SPAM (arXiv 2502.17055). No study of tuned "
            "optimizers has it. AdaClip and AdaGN read each gradient twice more; it keeps five "
            "numbers for each weight tensor beside the state of the rule. The defaults "
            "are for 4 bits, variant bf16 for 16."
        )
        quirks = (
            "The authors' code (variant official) resets after the step instead of before it: the step of the "
            "reset uses the old moments with the bias corrections of step 1, 0.32 of a step's length, and its own "
            "gradient is lost; the next step counts as the second.",
            "The authors' code has one counter for Adam and for AdaClip and AdaGN, whose averages are not reset: "
            "after a reset the threshold is hundreds of times the largest entry, so that AdaClip is off for "
            "hundreds of steps, where it is wanted most. Here each counts for itself.",
            "A gradient whose norm is constant becomes 1 long. The pieces are wrappers of their own: adaclip, "
            "adagn, reset.",
            "A gradient of zeros is not counted, and no spike counts as more than 1000 times the average; in the "
            "authors' code zeros draw averages down, and one norm of 1e20 stops a weight for ever.",
            "Weights that a companion moves are none of its business.",
            "Beyond total_T, c stays where it is; the authors' cosine rises again.",
            *rule.quirks,
        )
        variants = {
            **({"stable-spam": {}} if adamw else rule.variants),
            "bf16": BF16,
            "fp4": FP4,
            **({"official": OFFICIAL} if rule.scope == "element" else {}),
        }
        recipe = {**BF16, "weight_decay": 0.0} if adamw else {**rule.recipe, **BF16}
        recipe_source = (
            "the authors' scripts for bfloat16 (gamma1 .85, gamma2 .99999, gamma3 .999, a reset every 1000 steps, "
            f"no decay){'' if adamw else f'; {rule.recipe_source}'}"
        )

        total_T: int | None = choice(
            None, "steps over which the momentum's decay rate falls along a cosine; None: it does not", low=1
        )
        eta_min: float = number(0.5, "share of the decay rate that is left at step total_T", grid=(0.5, 1.0))

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.total_T is not None:
                rate(self, f"{self.name()}: total_T={self.total_T} is a schedule that")

        @property
        def one_counter(self) -> bool:
            """Whether one counter serves the rule and what is before it."""
            return self.reset_form == "official"

        def clip_age(self, t: int) -> int | None:
            # At the step of a reset the counter is set back between AdaGN and the rule.
            return self.local_step(t - 1) + 1 if self.one_counter else None

        norm_age = clip_age

        def rate_scale(self, t: int) -> float:
            """What is left of the momentum's decay rate at step t."""
            if self.total_T is None:
                return 1.0
            t = t if self.one_counter else min(t, self.total_T)
            return self.eta_min + (1 - self.eta_min) * (1 + math.cos(math.pi * t / (self.total_T + 1))) / 2

        def with_rate(self, factor: Any, **more: Any) -> Any:
            """The rule with its momentum's decay rate times a factor, and other numbers replaced."""
            if self.total_T is None:
                return self
            name, own = rate_field(self), rate(self, "")
            held = (factor * own, *self.betas[1:]) if name == "betas" else factor * own
            return with_tensors(self, {name: held, **more})

        def corrections(self, t: int) -> dict[str, float]:
            factor = self.rate_scale(t)
            gamma1 = self.gamma1 if self.gamma1 < 0 else factor * self.gamma1
            return {
                **super(StableSPAM, self.with_rate(factor, gamma1=gamma1)).corrections(t),
                "rate_scale": factor,
            }

        def update(
            self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            return super(StableSPAM, self.with_rate(step.rate_scale)).update(g, w, step, state)

        @classmethod
        def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
            h = dict(told["hyperparameters"])
            total, gap = h.pop("total_T"), h.pop("update_proj_gap")
            return {
                **h,
                **OFFICIAL,
                "betas": tuple(h["betas"]),
                "norm_eps": h["eps"],
                "reset_every": int(gap),
                "total_T": None if total is None else int(total),
            }

    return made(StableSPAM, rule, OVER, {"weight_decay": 0.0} if adamw else {}, called="stable_spam")
