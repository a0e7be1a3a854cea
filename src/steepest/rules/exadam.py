from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema

GROWTH = "log(sqrt(2)*sqrt(t+1))"


@dataclass(frozen=True)
class EXAdam(Rule):
    """Adam whose bias corrections look at the other moment, and whose step has the gradient itself in it."""

    title = "EXAdam"
    paper = (
        "Adly, EXAdam: The Power of Adaptive Cross-Moments, arXiv 2412.20302, Algorithm 1 (v2, 2025); its first "
        "version (v1, 2024) has the growing step size"
    )
    code = "AhmedMostafa16/EXAdam@989d7b6 exadam.py; growth log: @9ff8463 exadam.py"
    pseudocode = """
        w <- (1 - lr * weight_decay) * w
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g^2
        d1 = 1 + beta2^t * v / (v + eps);  d2 = 1 + beta1^t * m^2 / (m^2 + eps)
        a = 1                                    (growth log: ln(sqrt(2) * sqrt(t + 1)))
        w <- w - lr * a * d1 * (m + g) / (1 - beta1^t) / (sqrt(d2 * v / (1 - beta2^t)) + eps)
    """
    scope = "element"
    advice = (
        "To find out what it does, not to save tokens: its evidence is one image network and one small GPT, and "
        "no language-model pretraining. After some hundred steps it is Adam with the raw gradient added to the "
        "momentum, which about doubles the step and has as much noise as no momentum at all; compare it with "
        "NAdamW, and at half of Adam's learning rate or less. The first step is 16 times Adam's: warm up. Its "
        "cross terms, what it is named for, compare v and m^2 with eps and vanish where gradients are below 1e-4, "
        "as a language model's usually are: there eps=1e-16 or less brings them back, for about 1 / (1 - beta2) "
        "steps."
    )
    quirks = (
        "v / (v + eps) and m^2 / (m^2 + eps) are about 1 where |g| is well above sqrt(eps), 1e-4 by default,"
        " and about 0 below: the rule changes with the loss's scale; eps decides whether there are cross terms.",
        "beta1^t and beta2^t bring both cross terms to nothing: d2 in tens of steps, d1 in thousands.",
        "The first step is (1 + 1 / (1 - beta1)) * d1 / sqrt(d2) long: 16 times lr by the default betas, 11 times "
        "without the cross terms.",
        "The gradient in the numerator is divided by 1 - beta1^t too, though it has no bias to correct.",
        "Decay is by plain lr, not by the growing one, and is not in the paper's algorithm.",
        "Growth log has no bound: 0.7 at first, 3.8 after 1,000 steps, 6.1 after 100,000: schedules must undo it.",
        "The published file uses np without importing it and stops at construction.",
        "The ratio is computed as 1 / (1 + eps / v), the same number: the code's is nan where v overflows.",
    )
    variants = {"v2": {}, "v1": {"growth": "log"}}
    recipe = {"weight_decay": 1e-5}
    recipe_source = "AhmedMostafa16/EXAdam README, recommended for NLP (betas .9/.999, decay 1e-5, with lr 3e-4)"

    lr: float = number(1e-3, "learning rate", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the first and the second moment",
        grid=((0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.99, 0.999)),
        high=1.0,
    )
    eps: float = number(
        1e-8, "added to the root, and what the moments are compared with", grid=(1e-20, 1e-16, 1e-12, 1e-8)
    )
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 1e-5, 1e-2, 0.1, 0.2))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    growth: str = choice("none", "the step size's own growth (v1: log)", options=("none", "log"))

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}

    def corrections(self, t: int) -> dict[str, float]:
        power1, power2 = (beta**t for beta in self.betas)
        rate = math.log(math.sqrt(2) * math.sqrt(t + 1)) if self.growth == "log" else 1.0
        return {"power1": power1, "power2": power2, "rate": rate / (1 - power1), "bias2": 1 - power2}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        m = ema(state["exp_avg"], g, beta1)
        v = ema(state["exp_avg_sq"], g * g, beta2)
        d1 = 1 + step.power2 / (1 + self.eps / v)
        d2 = 1 + step.power1 / (1 + self.eps / (m * m))
        u = step.rate * d1 * (m + g) / ((d2 * v / step.bias2).sqrt() + self.eps)
        return u, {"exp_avg": m, "exp_avg_sq": v}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        growth = h.pop("step_growth", None)
        if growth not in (None, GROWTH):
            raise BadInput(f"exadam: step_growth {growth!r} is neither absent nor {GROWTH!r}")
        return {"growth": "none" if growth is None else "log", **h}
