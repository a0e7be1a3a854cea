from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core import lowbit
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema


@dataclass(frozen=True)
class Lion(Rule):
    """Lion: the sign of an interpolation between momentum and gradient."""

    title = "Lion (evolved sign momentum)"
    paper = "Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv 2302.06675, Algorithm 2"
    code = "google/automl@6a54c87 lion/lion_pytorch.py"
    pseudocode = """
        w <- (1 - lr * weight_decay) * w
        u <- sign(beta1 * m + (1 - beta1) * g)
        w <- w - lr * u
        m <- beta2 * m + (1 - beta2) * g         (after the direction, with the other beta)
    """
    recorded_as = ("lion8bit",)
    scope = "element"
    advice = (
        "Half of AdamW's state, the cheapest step of all rules with momentum, and no epsilon. In both studies a "
        "tuned Lion comes close to a tuned AdamW (0.90 to 1.08 times its speed in tokens up to 520M weights, arXiv"
        " 2509.02046) and seldom passes it. Its learning rate is four to ten times smaller than AdamW's, its decay"
        " several times larger: values carried over from AdamW fail. Large batches cost it more than AdamW."
    )
    quirks = (
        "torch.sign(nan) is 0: a coordinate whose gradient was once nan stops moving, its momentum being nan.",
        "Every coordinate moves by exactly lr, also at a zero gradient; sign(0) = 0.",
        "lr is 3 to 10 times smaller and weight_decay 3 to 10 times larger than AdamW's.",
        "Clipping the gradient only changes the weight of a step inside the momentum.",
    )
    variants = {"paper": {}, "paper-lm": {"betas": (0.95, 0.98)}}
    recipe = {"betas": [0.9, 0.95], "weight_decay": 0.6}
    recipe_source = "arXiv 2509.02046, phase I optimum of Lion at 130M (betas .9/.95, decay .4-1 flat)"

    lr: float = number(1e-4, "learning rate", grid=(2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3))
    betas: tuple[float, float] = number(
        (0.9, 0.99),
        "share of momentum in the direction, and in the new momentum",
        grid=((0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.99)),
        high=1.0,
    )
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1, 0.3, 0.6, 0.7, 1.0))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"exp_avg": Slot(shape)}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        m = state["exp_avg"]
        return torch.sign(ema(m, g, beta1)), {"exp_avg": ema(m, g, beta2)}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        if told["optimizer"] == "lion8bit":
            own = {name: h[name] for name in ("lr", "betas", "weight_decay")}
            return {**own, "state": lowbit.of_trajectory(told)}
        h.pop("eps", None)  # always null: Lion has none
        return {"betas": (h.pop("beta1"), h.pop("beta2")), **h}
