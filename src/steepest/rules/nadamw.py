from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import bias_corrections, ema


@dataclass(frozen=True)
class NAdamW(Rule):
    """AdamW that looks ahead along its momentum. Three rules share the name; ``formulation`` chooses."""

    title = "NAdamW (AdamW with Nesterov momentum)"
    paper = (
        "Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop, Algorithm 2; without its schedule: "
        "Choi et al., On Empirical Comparisons of Optimizers for Deep Learning, arXiv 1910.05446, Table 1; "
        "AlgoPerf: Dahl et al., arXiv 2306.07179"
    )
    code = (
        "algoperf: mlcommons/algorithmic-efficiency@2c90454 archived_paper_baselines/nadamw/pytorch/submission.py "
        "(timm's NAdamW is the same); dozat-schedule: torch.optim.NAdam (torch 2.13); optax: optax.nadamw 0.2.8"
    )
    pseudocode = """
        w <- (1 - lr * weight_decay) * w
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g^2
        w <- w - lr * (a * m + b * g) / (sqrt(v) / sqrt(1 - beta2^t) + eps)
        where a and b are, by formulation:
          algoperf         beta1 / (1 - beta1^t)               (1 - beta1) / (1 - beta1^t)
          optax            beta1 / (1 - beta1^(t + 1))         (1 - beta1) / (1 - beta1^t)
          dozat-schedule   mu_(t+1) / (1 - mu_1 ... mu_(t+1))  (1 - mu_t) / (1 - mu_1 ... mu_t)
                           mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2)            (torch)
    """
    scope = "element"
    advice = (
        "Where AdamW is used, at the same memory and the same tuned learning rate: between 0.99 and 1.16 times as "
        "good in tokens at 130M weights, 1.02 to 1.09 times at 1.2B (arXiv 2509.02046, one seed, so that the "
        "smaller of these are within the noise). The gain is largest in long runs. Use the larger beta1 of 0.95 "
        "with it; 0.8 is unstable. Which formulation matters in the first 1 / (1 - beta1) steps, except for "
        "torch's, whose momentum rises for thousands."
    )
    quirks = (
        "algoperf and optax differ in the correction of m alone: by 10 % at t=2, by nothing after some "
        "1 / (1 - beta1) steps. dozat-schedule begins with half of beta1 and takes some 24,000 steps to "
        "come within 1 % of all of it.",
        "AlgoPerf's code steps the momentum twice and undoes the second step by dividing by beta1: rounding "
        "noise, and a division by zero at beta1=0. Here the look-ahead is computed and not stored.",
        "torch keeps the product of mu in a float32 tensor beside each weight; here it is a function of t.",
        "torch's NAdam adds the decay to the gradient unless told otherwise: variant torch does, and "
        "decay='before' is its decoupled_weight_decay=True.",
    )
    variants = {
        "algoperf": {"formulation": "algoperf"},
        "torch": {"formulation": "dozat-schedule", "lr": 2e-3, "weight_decay": 0.0, "decay": "coupled"},
        "optax": {"formulation": "optax", "weight_decay": 1e-4},
    }
    recipe = {"formulation": "optax", "betas": [0.95, 0.98], "eps": 1e-10, "weight_decay": 0.1}
    recipe_source = (
        "arXiv 2509.02046, phase I optimum of NAdamW at 130M, which is optax's (betas .95/.98, decay .1)"
    )

    lr: float = number(1e-3, "learning rate", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the first and the second moment",
        grid=((0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.999)),
        high=1.0,
    )
    eps: float = number(1e-8, "added to the root of the second moment", grid=(1e-25, 1e-20, 1e-15, 1e-10, 1e-8))
    weight_decay: float = number(1e-2, "weight decay", grid=(0.0, 0.1, 0.2))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    formulation: str = choice(
        "algoperf", "which of the three rules", options=("algoperf", "optax", "dozat-schedule")
    )
    momentum_decay: float = number(4e-3, "pace at which mu nears beta1 (dozat-schedule)")

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}

    def corrections(self, t: int) -> dict[str, float]:
        beta1 = self.betas[0]
        now = bias_corrections(self.betas, t)
        a, b = beta1 / now["bias1"], (1 - beta1) / now["bias1"]
        if self.formulation == "optax":
            a = beta1 / (1 - beta1 ** (t + 1))
        elif self.formulation == "dozat-schedule":
            mu = functools.partial(momentum, beta1, self.momentum_decay)
            product = functools.partial(product_of_momenta, beta1, self.momentum_decay)
            a, b = mu(t + 1) / (1 - product(t + 1)), (1 - mu(t)) / (1 - product(t))
        return {"of_momentum": float(a), "of_gradient": float(b), "root_bias2": now["root_bias2"]}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        m = ema(state["exp_avg"], g, beta1)
        v = ema(state["exp_avg_sq"], g * g, beta2)
        ahead = step.of_momentum * m + step.of_gradient * g
        return ahead / (v.sqrt() / step.root_bias2 + self.eps), {"exp_avg": m, "exp_avg_sq": v}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        betas = (h.pop("beta1"), h.pop("beta2"))
        return {"betas": betas, "decay": "before" if h.pop("decoupled") else "coupled", **h}


def momentum(beta1: float, pace: float, t: int) -> float:
    """Dozat's mu_t, which rises from about half of beta1 to beta1."""
    return beta1 * (1 - 0.5 * 0.96 ** (t * pace))


def product_of_momenta(beta1: float, pace: float, t: int) -> float:
    """mu_1 * ... * mu_t."""
    known = _products(beta1, pace)
    while len(known) <= t and known[-1] > 0:
        known.append(known[-1] * momentum(beta1, pace, len(known)))
    return known[min(t, len(known) - 1)]  # once it has reached zero it stays there


@functools.cache
def _products(beta1: float, pace: float) -> list[float]:
    return [1.0]
