from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.naming import HIDDEN, ROLES
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number, run_length
from steepest.linalg.adam import adam_direction, bias_corrections, ema_in_one_pass, ema_of_square
from steepest.linalg.nm_mask import nm_mask


@dataclass(frozen=True)
class AdamS(Rule):
    """Adam that lets the smallest weights of every group fade: CAST's way from a dense model to an N:M sparse "
    "one."""

    title = "AdamS (CAST: sparsity-aware Adam for N:M sparse models)"
    paper = (
        "Huang, Hu, Zhu, Chen, CAST: Continuous and Differentiable Semi-Structured Sparsity-Aware Training for "
        "Large Language Models, arXiv 2509.25996, Algorithm 1"
    )
    code = (
        "none by the authors; Algorithm 1 as a reproduction transcribes it line by line: "
        "liuhanzuo/Mixture-of-Memory@fc858d0 baselines/cast_repro/SPEC.md and cast/adams.py"
    )
    pseudocode = """
        every mask_every steps, first of all: mask <- the n largest |w| of every m consecutive inputs
        a <- min(1, (t - 1) / total_steps)                 (counted from 1: t / total_steps)
        mu <- beta1 * mu + (1 - beta1) * g                 (never decayed)
        u <- mu where the mask keeps;  (1 - a) * mu + a * l1_lambda * sign(w) elsewhere
        v <- beta2 * v + (1 - beta2) * u^2                 (of u, not of g, for kept weights too)
        w <- w - lr * u / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
        at the end: w <- 0 where the mask does not keep    (steepest.sparsity.prune)
        embeddings, head, norms, biases: companion AdamW   (variant port: the same rule without a mask)
    """
    recorded_as = ("cast_adams",)
    scope = "matrix"
    companion = {"lr_ratio": 1.0, "weight_decay": 0.0}
    advice = (
        "To make a trained model N:M sparse (2 of every 4 weights, which hardware multiplies faster), not to "
        "pretrain one: the forward pass stays dense, and the weights that would be pruned are decayed to nothing "
        "while their gradient fades, so that the cut at the end removes little. Give it some percent of the "
        "pretraining tokens, a decaying learning rate, and total_steps; watch steepest.sparsity.masked_shares "
        "fall, then call prune. Its authors report 0.09 of perplexity above dense for LLaMA2-7B at 2:4 with 2 % "
        "of the tokens, with distillation and learnable scales that are not part of this rule; a reproduction "
        "was worse. Raise the learning rate with care: the first steps are 1 / (1 - beta1) times as long as "
        "Adam's."
    )
    quirks = (
        "The second moment is of the momentum, not of the gradient: kept weights are not moved as by Adam, and "
        "the first step is lr / (1 - beta1), ten times Adam's by the default beta1.",
        "Where the decay rules, the step is about lr whatever l1_lambda is, because Adam divides its size away; "
        "what is left of a masked weight is of the size of the last lr.",
        "Algorithm 1 counts a from 0, Algorithm 2 from 1: alpha_from.",
        "total_steps=None is the run's own length in the lab; elsewhere it must be given.",
        "l1_lambda competes with the momentum of masked weights in v, which remembers 1 / (1 - beta2) steps of "
        "it: the paper's 4e-7 is for LLaMA2-7B. The small model of docs/recipes/sparse.md needs 1e-3.",
        "CAST's learnable scales and its distillation are no part of the optimizer and not here.",
        "What the paper does to embeddings, norms and biases it does not say: here an ordinary AdamW moves them; "
        "the reproduction takes its own rule without mask and decay (variant port).",
        "A row whose length m does not divide is grouped as if zeros followed: filled up, it fits the hardware.",
        "The mask takes a byte a weight here, a bit in the paper's count. Parts of fused weights have masks of "
        "their own; the groups run along a weight's inputs.",
        "l1_lambda=4e-7 beside a momentum of 1e-2 is lost in bfloat16: state and step are float32 here, yet a "
        "bfloat16 weight rounds away steps below 1/256 of itself and never fades. Keep such weights in float32.",
    )
    variants = {
        "paper": {},
        "port": {
            "everything": True,
            "by_role": {role: {"masked": False} for role in ROLES if role not in HIDDEN},
        },
    }
    recipe = {"l1_lambda": 4e-7, "mask_every": 10, "n": 2, "m": 4}
    recipe_source = "arXiv 2509.25996, LLaMA2-7B (lambda 4e-7, masks every 10 steps, 2:4)"

    lr: float = number(1e-3, "learning rate", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the first and the second moment",
        grid=((0.8, 0.9, 0.95), (0.95, 0.99, 0.999)),
        high=1.0,
    )
    eps: float = number(1e-8, "added to the root of the second moment", grid=(1e-15, 1e-10, 1e-8))
    weight_decay: float = number(0.0, "weight decay of all weights, beside that of the masked", grid=(0.0, 0.1))
    decay: Decay = choice("before", "where that decay acts", options=DECAYS)
    l1_lambda: float = number(4e-7, "pull of masked weights to 0", grid=(4e-7, 1e-5, 1e-4, 1e-3))
    n: int = choice(2, "weights kept of every m", low=1)
    m: int = choice(4, "consecutive inputs in a group", low=1)
    mask_every: int = choice(10, "steps between masks", grid=(1, 10, 100), low=1)
    total_steps: int | None = number(None, "steps until masked weights only decay; None: those of the run", low=1)
    alpha_from: int = choice(0, "what a counts from: 0 (Algorithm 1) or 1 (Algorithm 2)", options=(0, 1))
    masked: bool = choice(True, "whether weights get a mask", options=(True, False))
    everything: bool = choice(False, "move embeddings, head, norms and biases too", options=(False, True))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n > self.m:
            raise BadInput(f"{self.name()}: n={self.n} of every m={self.m} weights: keep {self.m} at most")

    def takes(self, role: str) -> bool:
        return self.everything or super().takes(role)

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        moments = {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}
        return moments | ({"mask": Slot(shape, torch.bool)} if self.masked else {})

    def phase(self, t: int, turn: int = 0) -> str:
        return "mask" if (t - 1) % self.mask_every == 0 else "keep"

    def corrections(self, t: int) -> dict[str, float]:
        alpha = min(1.0, (t - 1 + self.alpha_from) / run_length(self))
        return {"alpha": alpha, **bias_corrections(self.betas, t)}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        new = dict(state)
        u = mu = new["exp_avg"] = ema_in_one_pass(state["exp_avg"], g, beta1)
        if self.masked:
            if step.phase == "mask":
                new["mask"] = nm_mask(w, self.n, self.m)
            fading = (1 - step.alpha) * mu + step.alpha * self.l1_lambda * torch.sign(w)
            u = torch.where(new["mask"], mu, fading)
        v = new["exp_avg_sq"] = ema_of_square(state["exp_avg_sq"], u, beta2)
        return adam_direction(u, v, step.bias1, step.root_bias2, self.eps, "torch"), new

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        named = {"n": "N", "m": "M", "mask_every": "mask_update_T1", "total_steps": "total_steps_T"}
        return {"variant": "port", **{ours: h.pop(theirs) for ours, theirs in named.items() if theirs in h}, **h}
