from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import adam_direction, bias_corrections, ema

PLAIN = {"rectify": False}


@dataclass(frozen=True)
class AdaBelief(Rule):
    """Adam that divides by how far gradients stray from their average, not by how large they are."""

    title = "AdaBelief"
    paper = (
        "Zhuang et al., AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients, NeurIPS "
        "2020, arXiv 2010.07468, Algorithm 2; the rectified step: Liu et al., On the Variance of the Adaptive "
        "Learning Rate and Beyond (RAdam), arXiv 1908.03265, Algorithm 2"
    )
    code = (
        "juntang-zhuang/Adabelief-Optimizer@2855178 pypi_packages/adabelief_pytorch0.2.1 (adabelief-pytorch 0.2.1)"
    )
    pseudocode = """
        w <- (1 - lr * weight_decay) * w         (decay fixed: (1 - weight_decay) * w)
        m <- beta1 * m + (1 - beta1) * g
        s <- beta2 * s + (1 - beta2) * (g - m)^2 + eps                      (with the new m; eps is kept)
        x <- max(x, s), used in place of s       (amsgrad)
        without rectify, as the paper:
          w <- w - lr * m / (1 - beta1^t) / (sqrt(s) / sqrt(1 - beta2^t) + eps)
        with rectify, as the package:
          rho_max = 2 / (1 - beta2) - 1;  rho = rho_max - 2 * t * beta2^t / (1 - beta2^t)
          c = sqrt((1 - beta2^t) * (rho - 4) (rho - 2) rho_max / ((rho_max - 4) (rho_max - 2) rho))
          rho >= 5:  w <- w - lr * c / (1 - beta1^t) * m / (sqrt(s) + eps)
          rho < 5:   w <- w - lr * m / (1 - beta1^t)   (degenerated_to_sgd; else w stays)
    """
    scope = "element"
    advice = (
        "Adam's cost and memory, with longer steps where gradients agree with their average. The authors show "
        "LSTMs on Penn Treebank and a Transformer on IWSLT; nobody has shown a gain over a tuned AdamW in "
        "pretraining a language model, so that it is a thing to try and not a first choice. Set eps knowingly: it "
        "is added to a square and kept, so that it acts as a floor of sqrt(eps / (1 - beta2)) under the root, "
        "3e-7 by default and 3e-3 at the 1e-8 that the paper's image tasks use, which makes most language-model "
        "gradients plain SGD. The rectified step is short for some 1 / (1 - beta2) steps: a run of a few hundred "
        "wants several times AdamW's learning rate. Clip by norm and not by value: clipped values are constant, "
        "and of a gradient that does not vary the step grows without need."
    )
    quirks = (
        "eps is added to s at every step and stays: s carries eps / (1 - beta2), a thousand times eps by default. "
        "What eps=x is to Adam, x^2 is here.",
        "eps=1e-16 is lost when added to s of float32 above 1e-9, and in bfloat16 or float16 altogether (float16 "
        "has no such number): state is float32 at least, and there it does what it is for, being a floor.",
        "A gradient that does not change has g - m -> 0: after 1,000 equal ones the step is 13 times Adam's (20 "
        "without rectify) and grows on, up to |g| / sqrt(eps / (1 - beta2)). That is the rule's idea and not an "
        "accident, so it is not mended. With rectify it is shorter than Adam's for the first 100.",
        "beta1=0 makes m = g and s of eps alone: steps of g / sqrt(t * eps).",
        "The first 5 steps of the default are SGD's (beta2=.999): the only ones that feel the gradient's scale, "
        "and with a beta2 below 2/3 there are no others. degenerated_to_sgd=False leaves the weight for so long.",
        "The package's rectified step ignores amsgrad and keeps its maximum all the same; here the two exclude "
        "each other.",
        "The package keeps rectification coefficients of ten steps in a list that all groups share, whatever "
        "their betas; here they are computed. Its coupled decay changes p.grad; here no gradient is changed.",
        "decay='fixed' (the package's fixed_decay) is the same at every learning rate: neither a warm-up nor the "
        "end of a schedule spares the weights. decay='independent' is that times the schedule's factor.",
        "rectify is the package's default, and no result of the paper used it (README).",
    )
    variants = {
        "package": {},
        "paper": PLAIN,
        "v0.0.5": {**PLAIN, "eps": 1e-8, "decay": "coupled"},
        "amsgrad": {**PLAIN, "amsgrad": True},
        "fixed-decay": {"decay": "fixed"},
        "transformer": {"lr": 5e-4, "weight_decay": 1e-4},
        "lstm": {**PLAIN, "lr": 1e-2, "eps": 1e-12, "decay": "coupled", "weight_decay": 1.2e-6},
    }
    recipe = {"variant": "transformer"}
    recipe_source = (
        "juntang-zhuang/Adabelief-Optimizer README, table of hyperparameters, Transformer (IWSLT): betas .9/.999, "
        "eps 1e-16, decoupled decay 1e-4, rectified; no larger language model is known"
    )

    lr: float = number(1e-3, "learning rate", grid=(3e-3, 1e-2, 3e-2, 0.1, 0.3))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the average gradient and of its spread",
        grid=((0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.99, 0.999)),
        high=1.0,
    )
    eps: float = number(
        1e-16, "added to the spread and kept, and to its root", grid=(1e-24, 1e-20, 1e-16, 1e-12, 1e-8)
    )
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 1e-4, 1e-2, 0.1, 0.2))
    decay: Decay = choice("before", "where the decay acts", options=(*DECAYS, "fixed"))
    rectify: bool = choice(True, "RAdam's shorter steps while the spread is not known", options=(True, False))
    degenerated_to_sgd: bool = choice(
        True, "SGD before the first rectified step; else the weight stays", options=(True, False)
    )
    amsgrad: bool = choice(False, "divide by the largest spread so far", options=(False, True))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.amsgrad and self.rectify:
            raise BadInput(
                "adabelief: amsgrad=True is without effect on the rectified step: give rectify=False too"
            )

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        names = ("exp_avg", "exp_avg_var", "max_exp_avg_var")[: 3 if self.amsgrad else 2]
        return {name: Slot(shape) for name in names}

    def phase(self, t: int, turn: int = 0) -> str:
        return "unrectified" if self.rectify and rectification(self.betas[1], t) is None else ""

    def corrections(self, t: int) -> dict[str, float]:
        known = bias_corrections(self.betas, t)
        if not self.rectify:
            return known
        c = rectification(self.betas[1], t)
        if c is None:
            c = 1.0 if self.degenerated_to_sgd else 0.0
        return {"rate": c / known["bias1"]}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        m = ema(state["exp_avg"], g, beta1)
        stray = g - m
        s = ema(state["exp_avg_var"], stray * stray, beta2) + self.eps
        new = {"exp_avg": m, "exp_avg_var": s}
        if step.phase == "unrectified":
            return step.rate * m, new
        if self.rectify:
            return step.rate * m / (s.sqrt() + self.eps), new
        if self.amsgrad:
            s = new["max_exp_avg_var"] = torch.maximum(state["max_exp_avg_var"], s)
        return adam_direction(m, s, step.bias1, step.root_bias2, self.eps, "torch"), new

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        fixed, decoupled = h.pop("fixed_decay", False), h.pop("weight_decouple", True)
        h["amsgrad"] = h.get("amsgrad", False) and not h.get(
            "rectify", True
        )  # which the package's rectified step ignores
        return {"decay": "coupled" if not decoupled else "fixed" if fixed else "before", **h}


def rectification(beta2: float, t: int) -> float | None:
    """RAdam's factor on the step, times the second moment's bias correction; None while little is known of it."""
    rho_max = 2 / (1 - beta2) - 1
    power = beta2**t
    rho = rho_max - 2 * t * power / (1 - power)
    if rho < 5:
        return None
    short = (rho - 4) * (rho - 2) * rho_max / ((rho_max - 4) * (rho_max - 2) * rho)
    return math.sqrt((1 - power) * short)
