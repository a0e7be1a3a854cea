from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Ask, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema

Estimator = Literal["gauss_newton_bartlett", "hutchinson"]

G = {
    "betas": (0.965, 0.99),
    "gamma": 0.04,
    "eps": 1e-15,
    "floor": "add",
    "batch_tokens": 1.0,
    "clip": 1.0,
    "weight_decay": 0.1,
    "estimator": "gauss_newton_bartlett",
    "measured": "after",
    "correct_bias": False,
}
H = G | {"gamma": 0.01, "eps": 1e-12, "floor": "max", "estimator": "hutchinson", "measured": "before"}
PAPER = {"measured": "first", "betas": (0.96, 0.99), "eps": 1e-12, "floor": "max", "weight_decay": 0.2}


@dataclass(frozen=True)
class Sophia(Rule):
    """Sophia: momentum divided by an estimate of the Hessian's diagonal, clipped coordinate by coordinate."""

    title = "Sophia (clipped steps by a diagonal Hessian estimate)"
    paper = "Liu et al., Sophia: A Scalable Stochastic Second-order Optimizer, arXiv 2305.14342, Algorithms 1 to 3"
    code = "G: Liuhong99/Sophia@a7e1572 sophia.py; H: stanford-crfm/levanter@9263f81 src/levanter/optim/sophia.py"
    pseudocode = """
        w <- (1 - lr * weight_decay) * w
        m <- beta1 * m + (1 - beta1) * g
        u <- clip(m / (gamma * B * h + eps), -1, 1)                       (floor add: G)
        u <- clip(m / (1 - beta1^t) / max(gamma * h, eps), -1, 1)         (floor max, correct_bias: levanter's H)
        w <- w - lr * u
        after every k-th step: h <- beta2 * h + (1 - beta2) * e
        G: e <- ghat^2, ghat the gradient of the mean loss on labels drawn from the model, at the new weights
        H: e <- z * (Hessian z), z normal, at the weights before the step
        paper: either, before the steps 1, k + 1, 2k + 1, ... and for use in them, on their batches
    """
    scope = "element"
    version = 2
    advice = (
        "Rarely. The paper's halving of AdamW's steps at equal loss did not hold against a tuned AdamW: 0.93 to "
        "0.99 times its speed in tokens from 130M to 520M weights (arXiv 2509.02046). An estimate at every tenth "
        "step on half a batch costs 5 % of the model's passes with G, 15 % with H, which needs "
        "attention without fused kernels. State as AdamW; it wants a long warm-up. gamma is right "
        "where half to nine tenths of the coordinates are clipped."
    )
    quirks = (
        "h is 0 until step k, unless measured first: the first k steps are sign steps, as Lion's.",
        "A negative estimate of H's falls to eps: a full step along the sign of the momentum.",
        "Neither m nor h is bias-corrected in the paper and in the code of G; m is in levanter's H.",
        "gamma is the paper's name; the code of G calls it rho.",
        "The code of G keeps the mean of ghat^2 and multiplies by B, the tokens of the estimate's batch, where it "
        "is used: with batch_tokens other than the batch's, as its default of 5120, gamma means something else. "
        "steepest.estimates puts sqrt(B) into ghat, so that batch_tokens is 1.",
        "The training script of G clips ghat to norm 1 before it is squared, which makes h smaller: the clip of "
        "steepest.estimates.gauss_newton_bartlett.",
        "Algorithm 3 measures before the steps 1, k + 1, 2k + 1, ... (measured first), the code of G after the "
        "steps k, 2k, ..., that of H at the weights before them, for use after them.",
        "Below 2,000 steps of warm-up it diverged in arXiv 2509.02046, at 130M and more weights.",
    )
    variants = {
        "g": G,
        "h": H | {"betas": (0.96, 0.99), "correct_bias": True},
        "paper-g": G | PAPER | {"gamma": 0.05},
        "paper-h": H | PAPER,
    }
    recipe = {"variant": "h", "betas": [0.95, 0.9], "gamma": 0.0125, "eps": 1e-7, "weight_decay": 0.1}
    recipe_source = (
        "arXiv 2509.02046, phase I optimum of Sophia at 130M, 2x Chinchilla (levanter's H: betas .95/.9, gamma "
        ".0125, eps 1e-7, decay .1, there with a warm-up of 4,000 steps)"
    )

    lr: float = number(1e-4, "learning rate", grid=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2))
    betas: tuple[float, float] = number(
        (0.965, 0.99),
        "decay rates of the momentum and of the Hessian's diagonal",
        grid=((0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.99, 0.995)),
        high=1.0,
    )
    gamma: float = number(
        0.04, "share of the curvature in the divisor: larger clips less", grid=(6.25e-3, 1.25e-2, 2.5e-2, 5e-2)
    )
    eps: float = number(1e-15, "floor of the divisor", grid=(1e-17, 1e-12, 1e-7))
    floor: str = choice("add", "whether eps is added to the divisor or its least value", options=("add", "max"))
    batch_tokens: float = number(
        1.0, "tokens B of the estimate's batch, where the estimate does not bring sqrt(B) itself"
    )
    clip: float = number(1.0, "largest step of a coordinate, in units of lr")
    weight_decay: float = number(0.1, "weight decay", grid=(0.0, 0.1, 0.2, 0.3))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    estimator: Estimator = choice(
        "gauss_newton_bartlett",
        "how the Hessian's diagonal is measured",
        options=("gauss_newton_bartlett", "hutchinson"),
    )
    measured: str = choice(
        "after",
        "when: at the weights after or before the steps k, 2k, ..., or before the steps 1, k + 1, ... (first)",
        options=("after", "before", "first"),
    )
    hessian_interval: int = choice(10, "steps k between estimates", grid=(5, 10, 20), low=1)
    correct_bias: bool = choice(False, "divide the momentum by 1 - beta1^t", options=(False, True))

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"exp_avg": Slot(shape), "hessian": Slot(shape)}

    def corrections(self, t: int) -> dict[str, float]:
        return {"bias1": 1 - self.betas[0] ** t if self.correct_bias else 1.0}

    def needs(self, t: int) -> tuple[Ask, ...]:
        due = self.measured == "first" and (t - 1) % self.hessian_interval == 0
        return (Ask(self.estimator, "before"),) if due else ()

    def asks(self, t: int) -> tuple[Ask, ...]:
        if self.measured == "first" or t % self.hessian_interval:
            return ()
        return (Ask(self.estimator, "before" if self.measured == "before" else "after"),)

    def observe(self, kind: str, x: Tensor, w: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        diagonal = x if kind == "hutchinson" else x * x
        return {"hessian": ema(state["hessian"], diagonal, self.betas[1])}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        m, h = ema(state["exp_avg"], g, self.betas[0]), state["hessian"]
        curvature = (self.gamma * self.batch_tokens) * h
        if self.floor == "add":
            divisor = torch.clamp(curvature, min=0.0) + self.eps
        else:
            divisor = torch.clamp(curvature, min=self.eps)
        u = torch.clamp(m / step.bias1 / divisor, -self.clip, self.clip)
        return u, {"exp_avg": m, "hessian": h}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        source = told["source"]
        variant = "g" if "Liuhong99/Sophia" in source else "h" if "levanter" in source else None
        if variant is None:
            raise BadInput(f"sophia: source {source!r} is neither Liuhong99/Sophia nor levanter")
        h = dict(told["hyperparameters"])
        if "rho" in h:
            h["gamma"] = h.pop("rho")
        return {"variant": variant, "betas": (h.pop("beta1"), h.pop("beta2")), **h}

    @classmethod
    def observed(cls, t: int, name: str) -> dict[str, str]:
        key = f"extra/hessian/{t:03d}/{name}"
        return {"gauss_newton_bartlett": key, "hutchinson": key}
