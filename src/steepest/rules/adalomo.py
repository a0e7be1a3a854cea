from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.rule import Decay, Rule, Slot, Step, choice, number
from steepest.linalg.factored import averaged, rms, whitened

HUGE = 1e30
"""Largest square that is averaged: a row of a hundred million such still has a mean in float32."""


@dataclass(frozen=True)
class AdaLomo(Rule):
    """AdaLomo: Adafactor's factored second moment and normalised update, made to step inside backward."""

    title = "AdaLomo (factored second moment, made to step inside backward)"
    paper = (
        "Lv, Yan, Guo, Lv, Qiu, AdaLomo: Low-memory Optimization with Adaptive Learning Rate, arXiv 2310.10195, "
        "Algorithm 1; stepping inside backward: Lv et al., arXiv 2306.09782 (LOMO)"
    )
    code = "OpenLMLab/LOMO@45d4bac lomo_optim/adalomo.py"
    pseudocode = """
        beta <- 1 - t^-decay_rate                        (0 at the first step)
        matrix: R <- beta * R + (1 - beta) * mean of each row of g^2 + eps_1;  C likewise of each column
                u <- g / sqrt(R / mean(R)) / sqrt(C)
        vector: V <- beta * V + (1 - beta) * (g^2 + eps_1);  u <- g / sqrt(V)
        u     <- u / max(1, rms(u) / clip_threshold)     (grouped update normalisation: each tensor by itself)
        alpha <- lr * max(eps_2, rms(w))
        w     <- (1 - alpha * weight_decay) * w - alpha * u
    """
    scope = "tensor"
    advice = (
        "For fine-tuning and further pre-training where neither Adam's state nor a whole gradient fits: under "
        "steepest.release each weight moves inside backward and its gradient is freed, and the normalised update "
        "makes a global norm, which would cost a second backward pass, unnecessary. Its authors report results "
        "comparable to AdamW's on LLaMA 7B to 65B at LOMO's memory (arXiv 2310.10195; their own runs, "
        "instruction tuning and further pre-training, none from scratch). It is Adafactor without momentum and "
        "with a learning rate of your own: where memory allows, prefer a rule with momentum."
    )
    quirks = (
        "The same formula as Adafactor's first form with lr given: the novelty is where it runs.",
        "A step is about lr of the weight's own size: from scratch a small model wants about 0.1, a hundred times "
        "what its authors fine-tune with.",
        "The weight's size is taken before the decay, and the decay is by the scaled rate.",
        "The authors' code sizes rows and columns by a tensor's first two dimensions; here the last two are "
        "factored.",
        "Loss scale, clipping by value and by global norm are not of the rule: steepest.release has them.",
        "Squares above 1e30 count as 1e30: one gradient whose squares overflow leaves every weight finite, where "
        "the authors' code makes it nan.",
    )
    variants = {"official": {}}
    recipe = {"weight_decay": 0.0}
    recipe_source = "OpenLMLab/LOMO's training scripts: lr 1e-3, cosine, no decay, none of the clips"

    lr: float = number(1e-3, "learning rate, in units of the weight's size", grid=(1e-2, 3e-2, 0.1, 0.3, 1.0))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 1e-3, 1e-2, 0.1))
    decay: Decay = choice("before", "where the decay acts: in the rule's own way", options=("before",))
    decay_rate: float = number(0.8, "exponent of the second moment's decay rate", grid=(0.5, 0.8, 1.0))
    clip_threshold: float = number(1.0, "largest rms of an update before the learning rate", grid=(0.5, 1.0, 2.0))
    eps: tuple[float, float] = number((1e-30, 1e-3), "added to g^2; least size of a weight")

    @property
    def writes_weight(self) -> bool:
        return True

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        if len(shape) < 2:
            return {"variance": Slot(shape, signed=False)}
        return {"row_var": Slot((*shape[:-1], 1)), "col_var": Slot((*shape[:-2], 1, shape[-1]))}

    def corrections(self, t: int) -> dict[str, float]:
        return {"beta2": 1 - t**-self.decay_rate}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        new = averaged(state, (g * g).clamp(max=HUGE) + self.eps[0], step.beta2)
        u = whitened(g, new)
        u = u / (rms(u) / self.clip_threshold).clamp(min=1.0)
        alpha = self.lr * rms(w).clamp(min=self.eps[1])
        return (1 - alpha * self.weight_decay) * w - alpha * u, new

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        names = {"clip_grad_norm": "clip_norm", "clip_grad_value": "clip_value", "loss_scale": "loss_scale"}
        inside = {ours: h.pop(theirs) for theirs, ours in names.items() if theirs in h}
        # The authors write the exponent with its sign.
        rate = {"decay_rate": abs(h.pop("decay_rate"))} if "decay_rate" in h else {}
        return {**h, **rate, "released": inside}
