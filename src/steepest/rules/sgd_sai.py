from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number


@dataclass(frozen=True)
class SGDSaI(Rule):
    """SGD-SaI: SGD with momentum, each tensor's rate scaled once, by the signal to noise of its first gradient."""

    title = "SGD-SaI (SGD with learning rates scaled at initialization)"
    paper = (
        "Xu, Xiang, Cai, Wen, No More Adam: Learning Rate Scaling at Initialization is All You Need, "
        "arXiv 2412.11768"
    )
    code = "AnonymousAlethiometer/SGD_SaI@e213080 sgd_sai/sgd_sai.py (version 1.0.3)"
    pseudocode = """
        at the first gradient of the tensor that is not zero:
            G <- |g| / (std(g) + eps), std over all entries, unbiased, at least rms(g) / most; kept for ever
            b <- g
        later:
            b <- momentum * b + (1 - momentum) * g
        w <- (1 - lr * weight_decay) * w - lr * G * b
        official: at the first gradient, zero or not, and std(g) as it is, 0 for a tensor of one number
    """
    scope = "tensor"
    advice = (
        "A step beyond SGD that costs one number per tensor: half of AdamW's state and SGD's speed. The authors "
        "report GPT-2 pretraining competitive with AdamW, and vision transformers slower but comparable; nobody "
        "else's tuned comparison is known. What it scales by is about the root of the tensor's size, fixed by one "
        "batch: nothing adapts later, so the learning rate has SGD's narrow range, must be searched anew for "
        "every model, and one large gradient stays in the momentum at full size: clip. SCALE and Adam-mini save "
        "as much or more and keep steps of a known size."
    )
    quirks = (
        "With entries of mean zero G is about the root of their number: the scaling is mostly one by size.",
        "Officially a first gradient of zeros gives G = 0, and the tensor never trains: a layer behind a "
        "zero-initialised one. Here G waits for the first gradient that is not zero (formulation mended).",
        "Officially a tensor of one number has std NaN, taken as 0: G is |g| / eps, 1e8 times |g|. Here such a "
        "tensor has G = 1, and where entries are nearly equal G is at most most * sqrt(size).",
        "Officially momentum=0 fails, its buffer being undefined; here it is plain SGD, scaled.",
        "The buffer starts at the whole first gradient, 1 / (1 - momentum) times the weight of any later one.",
        "G is not measured again when a learning rate restarts, and is saved with the state. It does not change "
        "with the gradient's scale, so clipping leaves it, until std comes near eps.",
        "With a closure the official code calls it twice at the first step.",
        "The port in pytorch_optimizer differs: its buffer starts at zero, and 1-D tensors are not scaled.",
    )
    variants = {"mended": {}, "official": {"formulation": "official"}}
    recipe = {"momentum": 0.9, "weight_decay": 1e-2}
    recipe_source = (
        "the official code's defaults (momentum .9, decay .01); the paper trains with a cosine schedule"
    )

    lr: float = number(1e-2, "learning rate", grid=(0.01, 0.03, 0.1, 0.3, 1.0))
    momentum: float = number(0.9, "decay rate of the momentum", grid=(0.8, 0.9, 0.95, 0.98), high=1.0)
    eps: float = number(1e-8, "added to the std of the first gradient")
    weight_decay: float = number(1e-2, "weight decay", grid=(0.0, 1e-3, 1e-2, 0.1))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    formulation: str = choice(
        "mended", "whether zero and constant first gradients are met", options=("mended", "official")
    )
    most: float = number(10.0, "largest RMS of the first gradient in units of its std", low=1.0)

    @classmethod
    def name(cls) -> str:
        return "sgd_sai"

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        gain = {"gain": Slot((1,))}
        return gain | {"momentum_buffer": Slot(shape)} if self.momentum != 0 else gain

    def phase(self, t: int, turn: int = 0) -> str:
        return ("first" if t == 1 else "later") if self.formulation == "official" else ""

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        known = state["gain"]
        if self.formulation == "mended":
            fresh = known == 0
        else:
            fresh = torch.full_like(known, step.phase == "first", dtype=torch.bool)
        # In every step, because whether a tensor was measured is in its state.
        gain = torch.where(fresh, self.measured(g), known)
        if "momentum_buffer" not in state:
            return gain.reshape(()) * g, {"gain": gain}
        share = 1 - self.momentum * (~fresh).to(g.dtype)
        b = torch.lerp(state["momentum_buffer"], g, share.reshape(()))
        return gain.reshape(()) * b, {"gain": gain, "momentum_buffer": b}

    def measured(self, g: Tensor) -> Tensor:
        """The gain that this gradient tells, (1,); of a gradient of zeros 0."""
        n, tiny = g.numel(), torch.finfo(g.dtype).tiny
        size = torch.maximum(g.amax(), -g.amin()).clamp(min=tiny)  # squares of 1e30 overflow to a gain of nan
        mean = g.mean()
        spread, centre = euclidean((g - mean).div_(size)), mean / size
        norm, std = torch.hypot(spread, math.sqrt(n) * centre), spread / math.sqrt(max(1, n - 1))
        if self.formulation == "mended":
            rms = norm / math.sqrt(n)
            std = rms if n == 1 else torch.maximum(std, rms / self.most)
        return (norm / (std + self.eps / size).clamp(min=tiny)).reshape(1)

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        return dict(told["hyperparameters"])


def euclidean(x: Tensor) -> Tensor:
    """The norm of a tensor of any shape.

    Row by row first: over millions of numbers at once torch's is wrong in the third digit in float32. (torch.std
    is right, but takes ten times as long over stacked tensors.)
    """
    rows = torch.linalg.vector_norm(x, dim=-1) if x.ndim > 1 else x
    return torch.linalg.vector_norm(rows)
