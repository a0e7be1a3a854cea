from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from steepest.core.rule import DECAYS, Ask, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import adam_direction, bias_corrections, ema_in_one_pass, ema_of_square
from steepest.linalg.newton_schulz import fast_dtype, orthogonalise
from steepest.linalg.norms import frobenius

VECTORS = ("norm", "bias", "vector")
MARS_M = {
    "instance": "m",
    "lr": 1e-3,
    "betas": (0.95, 0.99),
    "eps": 1e-7,
    "weight_decay": 0.1,
    "clip": "tensor",
    "companion": {"eps_form": "hf"},
}


@dataclass(frozen=True)
class MARS(Rule):
    """MARS: a variance-reduced gradient in the place of Adam's, Lion's or Muon's (Shampoo's without memory)."""

    title = "MARS (variance-reduced gradients for AdamW, Lion, Shampoo; MARS-M)"
    paper = (
        "Yuan et al., MARS: Unleashing the Power of Variance Reduction for Training Large Models, arXiv "
        "2411.10438, Algorithms 1 to 4; MARS-M: When Variance Reduction Meets Matrices, arXiv 2510.21800"
    )
    code = "AGI-Arena/MARS@4831e28 MARS/optimizers/mars.py, MARS_M/optimizers/mars_m.py, mars_m_efficient.py"
    pseudocode = """
        g' is the gradient of the step before (exact: that at the weights of the step before, on the batch of now)
        c <- g + gamma * beta1 / (1 - beta1) * (g - g')
        c <- c / max(1, |c|)                     (clip tensor; global: |c| over all weights; none)
        m <- beta1 * m + (1 - beta1) * c
        v <- beta2 * v + (1 - beta2) * c^2                                            (instance adamw)
        u <- m / (1 - beta1^t) / (sqrt(v) / sqrt(1 - beta2^t) + eps)                  (instance adamw)
        u <- sign(m)                                                                  (instance lion)
        u <- sqrt(max(1, rows / cols)) * NewtonSchulz(m / (1 - beta1))                (instance shampoo)
        u <- 0.2 * sqrt(max(rows, cols)) * NewtonSchulz(m)                            (instance m: MARS-M)
        w <- (1 - lr * weight_decay) * w - lr * u
        norms, biases: companion AdamW, unless optimize_1d; instance m: embeddings and head too
    """
    scope = "matrix"
    companion = {"lr_ratio": 1.0, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    advice = (
        "A correction of the gradient by its change since the last step, before another rule takes it. Over "
        "AdamW it was 0.96 to 1.15 times a tuned AdamW in tokens up to 520M weights, best at long budgets (arXiv "
        "2509.02046). The approximate form keeps one more buffer, 12 bytes per weight; the exact form wants a "
        "second gradient at every step, which costs more than it has been shown to save. gamma is flat from "
        "0.0125 to 0.05."
    )
    quirks = (
        "The paper clips c as one vector over all weights (clip='global'), the official code each tensor alone.",
        "The official code takes the gradient before the first as 0: before clipping, c_1 = (1 + gamma beta1 / "
        "(1 - beta1)) g_1. The paper's x_0 = x_1 gives c_1 = g_1 (first_previous='same').",
        "The official code keeps a reference to p.grad, so that gradients zeroed in place make the previous one "
        "0. Here it is a copy.",
        "The README squares the raw gradient for v; paper and code square c.",
        "The official training script also clips the global norm of the gradient to 1 before the optimizer.",
        "exact costs one more backward pass a step: the gradient on the next step's batch at this step's weights. "
        "The official code keeps it in one more buffer; here it takes the place of the previous gradient.",
        "Where c is neither clipped nor squared, the corrections telescope to m = (1 - gamma) ema(g) + gamma g, "
        "and no previous gradient is kept: the official mars_m_efficient.py (variant m-efficient).",
        "mars_m.py ignores its clip_c and always clips; mars.py allocates a v for Lion and never reads it.",
        "instance shampoo is Shampoo without memory, as Muon is; with optimize_1d its vectors move as adamw's.",
        "Parts of fused weights, stacked experts and groups of filters are clipped one by one; the official code "
        "gives tensors of three and more dimensions to AdamW.",
    )
    variants = {
        "official": {},
        "exact": {"exact": True, "clip": "tensor", "optimize_1d": False},
        "paper": {"clip": "global", "first_previous": "same"},
        "lion": {"instance": "lion", "clip": "tensor", "optimize_1d": False},
        "shampoo": {"instance": "shampoo", "clip": "tensor", "optimize_1d": False},
        "m": MARS_M,
        "m-efficient": MARS_M | {"clip": "none"},
        "levanter": {
            "clip": "global",
            "optimize_1d": True,
            "weight_decay": 0.1,
            "by_role": {role: {"weight_decay": 0.0} for role in ("embed", *VECTORS)},
        },
    }
    recipe = {
        "betas": [0.9, 0.95],
        "eps": 1e-25,
        "weight_decay": 0.1,
        "clip": "global",
        "optimize_1d": True,
    }
    recipe_source = (
        "arXiv 2509.02046, phase I optimum of MARS at 130M (gamma .025, betas .9/.95, eps 1e-25, decay .1), tuned "
        "with levanter's form: c clipped globally, MARS on every weight"
    )

    lr: float = number(3e-3, "learning rate", grid=(2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2))
    betas: tuple[float, float] = number(
        (0.95, 0.99),
        "decay rates of the first and the second moment",
        grid=((0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.99)),
        high=1.0,
    )
    gamma: float = number(0.025, "share of the variance reduction", grid=(0.0125, 0.025, 0.05, 0.1))
    eps: float = number(
        1e-8, "added to the root of the second moment, or to the norm", grid=(1e-30, 1e-25, 1e-20, 1e-15, 1e-10)
    )
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1, 0.2))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    instance: str = choice("adamw", "what moves by the gradient", options=("adamw", "lion", "shampoo", "m"))
    exact: bool = choice(False, "compare two gradients of one batch", options=(False, True))
    clip: str = choice("tensor", "whose norm is at most 1", options=("tensor", "global", "none"))
    first_previous: str = choice("zero", "gradient before the first", options=("zero", "same"))
    optimize_1d: bool = choice(False, "take norms and biases too", options=(False, True))
    amsgrad: bool = choice(False, "divide by the largest second moment so far", options=(False, True))
    ns_steps: int = choice(5, "Newton-Schulz steps", options=tuple(range(1, 31)), grid=(5, 10))
    ns_dtype: str = choice("auto", "type to iterate in", options=("auto", "bfloat16", "float32", "float64"))

    def takes(self, role: str) -> bool:
        if self.instance == "m":
            return super().takes(role)
        return self.optimize_1d or role not in VECTORS

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        squared = self.instance == "adamw" or (self.instance == "shampoo" and len(shape) < 2)
        telescopes = self.clip == "none" and self.first_previous == "zero" and not (squared or self.exact)
        names = ["exp_avg"] if telescopes else ["exp_avg", "previous_grad"]
        if squared:
            names += ["exp_avg_sq", "max_exp_avg_sq"] if self.amsgrad else ["exp_avg_sq"]
        return {name: Slot(shape, signed="_sq" not in name) for name in names}

    def corrections(self, t: int) -> dict[str, float]:
        beta1 = self.betas[0]
        reduction = 0.0 if t == 1 and self.first_previous == "same" else self.gamma * beta1 / (1 - beta1)
        return {"reduction": reduction, **bias_corrections(self.betas, t)}

    def asks(self, t: int) -> tuple[Ask, ...]:
        return (Ask("next_gradient", "before"),) if self.exact else ()

    def observe(self, kind: str, x: Tensor, w: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"previous_grad": x}

    @property
    def totals(self) -> Mapping[str, Literal["sum", "max"]]:
        return {"squared_norm": "sum"} if self.clip == "global" else {}

    def contribution(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"squared_norm": reduced(g, step, state).square().sum()}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        c, new = g, dict(state)
        if "previous_grad" in state:
            c = self.clipped(reduced(g, step, state), step)
            if not self.exact:
                new["previous_grad"] = g
        m = new["exp_avg"] = ema_in_one_pass(state["exp_avg"], c, beta1)
        if "previous_grad" not in state:
            m = ema_in_one_pass(m, g, 1 - self.gamma)
        if "exp_avg_sq" in state:
            v = new["exp_avg_sq"] = ema_of_square(state["exp_avg_sq"], c, beta2)
            if self.amsgrad:
                v = new["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], v)
            return adam_direction(m, v, step.bias1, step.root_bias2, self.eps, "torch"), new
        if self.instance == "lion":
            return torch.sign(m), new
        rows, cols = g.shape[-2:]
        if self.instance == "shampoo":
            m, scale = m / (1 - beta1), math.sqrt(max(1, rows / cols))
        else:
            scale = 0.2 * math.sqrt(max(rows, cols))
        dtype = fast_dtype(m) if self.ns_dtype == "auto" else getattr(torch, self.ns_dtype)
        return orthogonalise(m, self.ns_steps, eps=self.eps, dtype=dtype).mul_(scale), new

    def clipped(self, c: Tensor, step: Step) -> Tensor:
        if self.clip == "tensor":
            return c / frobenius(c).clamp(min=1)
        if self.clip == "global":
            return c * (1 / (step.squared_norm.sqrt() + 1e-6)).clamp(max=1)
        return c

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = told["hyperparameters"]
        arguments = {name: h[name] for name in ("lr", "gamma", "weight_decay")}
        arguments["exact"] = h.get("exact", False)
        # float64 trajectories iterate in float64 whatever is asked.
        arguments["ns_dtype"] = "bfloat16" if "bfloat16 as official" in told["dtype"] else "auto"
        if "mars_m" in told["source"]:
            companion = {"lr": h["lr"], "weight_decay": h["weight_decay"]}
            return arguments | {
                "variant": "m-efficient" if "efficient" in told["source"] else "m",
                "betas": (h["momentum"], cls.betas[1]),
                "ns_steps": h["ns_steps"],
                "companion": companion | {"betas": tuple(h["adamw_betas"]), "eps": h["adamw_eps"]},
                "roles": dict.fromkeys(told["groups"]["mars_m"], "matrix"),
            }
        return arguments | {
            "instance": h["mars_type"].removeprefix("mars-"),
            "betas": (h["beta1"], h["beta2"]),
            "eps": h["eps"],
            "amsgrad": h["amsgrad"],
            "optimize_1d": h["optimize_1d"],
            "companion": {
                "lr": h["lr_1d"],
                "betas": (h["beta1_1d"], h["beta2_1d"]),
                "eps": h["eps"],
                "weight_decay": h["weight_decay_1d"],
                "amsgrad": h["amsgrad"],
            },
        }

    @classmethod
    def observed(cls, t: int, name: str) -> dict[str, str]:
        return {"next_gradient": f"extra/prev_grad/{t:03d}/{name}"}


def reduced(g: Tensor, step: Step, state: Mapping[str, Tensor]) -> Tensor:
    """g + gamma beta1 / (1 - beta1) (g - g'): the variance-reduced gradient before it is clipped."""
    return g + step.reduction * (g - state["previous_grad"])
