from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number, run_length
from steepest.linalg.adam import adam_direction, bias_corrections, ema_in_one_pass, ema_of_square
from steepest.linalg.nm_mask import nm_mask


@dataclass(frozen=True)
class AST(Rule):
    """AdamW whose momentum pulls the smallest weights of every group to zero: AST's way to an N:M sparse model."""

    title = "AST (adaptive sparse trainer: AdamW that decays masked weights)"
    paper = (
        "Huang et al., Pruning Large Language Models with Semi-Structural Adaptive Sparse Training, "
        "arXiv 2407.20584"
    )
    code = "thu-ml/Adaptive-Sparse-Trainer@723d742 adamw.py"
    pseudocode = """
        every mask_every steps, first of all: mask <- the n largest |w| of every m consecutive inputs
        l <- srste_decay * min(1, (t - 1) / increase_step)
        w <- (1 - lr * weight_decay) * w
        mu <- beta1 * mu + (1 - beta1) * g                 (never decayed)
        u <- mu where the mask keeps;  mu + l * w elsewhere
        v <- beta2 * v + (1 - beta2) * u^2                 (of u, not of g, for kept weights too)
        w <- w - lr * u / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
        at the end: w <- 0 where the mask does not keep    (steepest.sparsity.prune)
        embeddings, head, norms, biases: companion AdamW
    """
    recorded_as = ("ast_adamw",)
    scope = "matrix"
    companion = {"lr_ratio": 1.0, "betas": (0.9, 0.95), "weight_decay": 0.1}
    advice = (
        "The predecessor of AdamS (CAST), and the one of the two with code by its authors: it retrains a "
        "pretrained model so that pruning every group of four weights to two costs little. The pull is "
        "proportional to the weight, so that masked weights fade and may come back while the mask still moves; "
        "their gradient stays. Not for pretraining. Their README takes 40,000 steps, the pull growing over the "
        "first quarter; together with distillation, which is not part of this rule, they report 57.68 of mean "
        "accuracy for LLaMA2-7B at 2:4, dense 59.78. A decaying learning rate matters: what is left of a masked "
        "weight is of the size of the last one."
    )
    quirks = (
        "The decay joins the momentum before its bias correction; the stored momentum never sees it.",
        "The second moment is of u, not of the gradient, for kept weights too: the first step is lr / (1 - "
        "beta1), ten times Adam's.",
        "The weight that pulls is the one already shrunk by weight_decay, and the mask is of the weight before.",
        "The official code for GPT-2 stores the mask as integers and inverts it by ~, which gives -1 and -2: "
        "every weight then grows away from 0. Here the mask is boolean, as meant.",
        "The official code keeps one more buffer for masked weights that it never reads.",
        "increase_step=None is a quarter of total_steps, as in the README (10,000 of 40,000); total_steps=None is "
        "the run's own length in the lab.",
        "A row whose length m does not divide is grouped as if zeros followed. The mask takes a byte a weight.",
        "A bfloat16 weight rounds away steps below 1/256 of itself and never fades: keep such weights in float32.",
    )
    variants = {"official": {}}
    recipe = {"srste_decay": 1e-4, "n": 2, "m": 4}
    recipe_source = "the README of the authors' code (decay 1e-4, its growth over the first quarter of the run)"

    lr: float = number(1e-3, "learning rate", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    betas: tuple[float, float] = number(
        (0.9, 0.95),
        "decay rates of the first and the second moment",
        grid=((0.8, 0.9, 0.95), (0.95, 0.99, 0.999)),
        high=1.0,
    )
    eps: float = number(1e-8, "added to the root of the second moment", grid=(1e-15, 1e-10, 1e-8))
    weight_decay: float = number(0.1, "weight decay of all weights, beside that of the masked", grid=(0.0, 0.1))
    decay: Decay = choice("before", "where that decay acts", options=DECAYS)
    srste_decay: float = number(
        1e-4, "pull of masked weights to 0, times the weight", grid=(1e-5, 1e-4, 1e-3, 1e-2)
    )
    increase_step: int | None = number(
        None, "steps over which the pull grows, 0: none; None: a quarter of total_steps"
    )
    total_steps: int | None = number(None, "steps of the run, read where increase_step is None", low=1)
    n: int = choice(2, "weights kept of every m", low=1)
    m: int = choice(4, "consecutive inputs in a group", low=1)
    mask_every: int = choice(10, "steps between masks", grid=(1, 10, 100), low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n > self.m:
            raise BadInput(f"{self.name()}: n={self.n} of every m={self.m} weights: keep {self.m} at most")

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False), "mask": Slot(shape, torch.bool)}

    def phase(self, t: int, turn: int = 0) -> str:
        return "mask" if (t - 1) % self.mask_every == 0 else "keep"

    def corrections(self, t: int) -> dict[str, float]:
        ramp = run_length(self) / 4 if self.increase_step is None else self.increase_step
        return {
            "pull": self.srste_decay * (min(1.0, (t - 1) / ramp) if ramp else 1.0),
            **bias_corrections(self.betas, t),
        }

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        mask = nm_mask(w, self.n, self.m) if step.phase == "mask" else state["mask"]
        mu = ema_in_one_pass(state["exp_avg"], g, beta1)
        u = torch.where(mask, mu, mu + step.pull * w)
        v = ema_of_square(state["exp_avg_sq"], u, beta2)
        new = {"exp_avg": mu, "exp_avg_sq": v, "mask": mask}
        return adam_direction(u, v, step.bias1, step.root_bias2, self.eps, "torch"), new

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        companion = {name: h[name] for name in ("lr", "betas", "eps", "weight_decay")}
        companion["betas"] = tuple(companion["betas"])
        return {"n": h.pop("N"), "m": h.pop("M"), "companion": companion, **h}
