from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema_in_one_pass
from steepest.linalg.newton_schulz import KELLER, fast_dtype, orthogonalise
from steepest.linalg.polar_express import SAFETY, polar_express


@dataclass(frozen=True)
class Muon(Rule):
    """Muon: momentum, orthogonalised by Newton-Schulz iteration; for hidden matrices."""

    title = "Muon (momentum orthogonalised by Newton-Schulz)"
    paper = (
        "Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; "
        "Liu et al., Muon is Scalable for LLM Training, arXiv 2502.16982, Algorithm 1 and eq. 4; "
        "Amsel et al., The Polar Express, arXiv 2505.16932 (ns_schedule polar_express)"
    )
    code = (
        "KellerJordan/Muon@857d1ad muon.py; MoonshotAI/Moonlight@c2ad5b2 examples/toy_train.py; "
        "torch.optim.Muon (torch 2.13)"
    )
    pseudocode = """
        m <- momentum * m + (1 - momentum) * g             (average ema: Keller, torch)
        m <- momentum * m + g                              (average sum: Kimi)
        u <- (1 - momentum) * g + momentum * m, or g + momentum * m for sum    (nesterov; else m)
        X <- u / (|u| + eps)                               (norm add; clamp: max(|u|, eps), torch)
        ns_steps times: A <- X X^T; X <- aX + (bA + cA^2)X       (transposed if rows > cols; polar_express:
          X divided by 1.01 first, and each step its own a, b, c)
        u <- sqrt(max(1, rows / cols)) * X                 (scale spectral)
        u <- 0.2 * sqrt(max(rows, cols)) * X               (scale match_rms: Kimi, torch's option)
        w <- (1 - lr * weight_decay) * w - lr * u
        embeddings, head, norms, biases: companion AdamW
    """
    scope = "matrix"
    version = 2  # bfloat16 tiles from a side of 128 on instead of 256
    companion = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}
    advice = (
        "The first choice for hidden matrices from small to middle sizes: with AdamW for everything else it needs "
        "fewer tokens than a tuned AdamW in every cell of arXiv 2509.02046 (1.43 times at 130M weights, 1.10 at "
        "1.2B), with half of AdamW's state for the matrices and one learning rate to search. Its products cost "
        "time: little where batches are large, much on a small model. It needs to know which weights are hidden "
        "matrices, which of them are fused, and whole matrices: look at explain_routing before a long run. Variant"
        " kimi is scaled so that AdamW's learning rate and decay can be kept."
    )
    quirks = (
        "With 5 steps singular values that start at 0.01 or more end in [0.68, 1.13], not at 1; those that start "
        "at 0.001 end at 0.47. With polar_express all of these end in [0.84, 1.13], with 6 steps in [0.99, 1.01].",
        "Keller's code overwrites p.grad and treats a missing gradient as zero; here gradients are never "
        "modified and a weight without one is skipped.",
        "Keller's code scales in bfloat16 after the iteration; here the scale is applied in the weight's "
        "working type.",
        "torch's documentation writes m <- momentum * m + g; its code uses an EMA. The direction is the same.",
        "Filters of convolutions are flattened to (out, rest), as Keller does; torch.optim.Muon refuses them.",
        "The working type of the iteration is the hardware's: bfloat16 where it has units for it, else float32.",
    )
    variants = {
        "keller": {},
        "kimi": {
            "lr": 1e-3,
            "weight_decay": 0.1,
            "average": "sum",
            "scale": "match_rms",
            "companion": {"lr_ratio": 1.0, "weight_decay": 0.1, "eps": 1e-8, "eps_form": "hf"},
        },
        "torch": {"lr": 1e-3, "weight_decay": 0.1, "norm": "clamp"},
        "polar-express": {"ns_schedule": "polar_express"},
    }
    recipe = {
        "momentum": 0.95,
        "weight_decay": 0.1,
        "companion": {"lr_ratio": 0.3, "betas": [0.8, 0.98], "weight_decay": 0.1},
    }
    recipe_source = (
        "arXiv 2509.02046, phase I optimum of Muon at 130M (momentum .95, decay .1 of all weights, companion "
        "betas .8/.98, companion lr 0.3 x lr: the paper's preferred ratio)"
    )

    lr: float = number(0.02, "learning rate of the matrices", grid=(2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2))
    momentum: float = number(0.95, "decay rate of the momentum", grid=(0.8, 0.9, 0.95, 0.98), high=1.0)
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1, 0.2))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    nesterov: bool = choice(True, "look ahead along the momentum", options=(False, True))
    average: str = choice("ema", "form of the momentum", options=("ema", "sum"))
    scale: str = choice("spectral", "size of the update by shape", options=("spectral", "match_rms"))
    ns_steps: int = choice(5, "Newton-Schulz steps", options=tuple(range(1, 31)), grid=(5, 10))
    ns_coefficients: tuple[float, float, float] = choice(KELLER, "a, b, c of every step")
    ns_schedule: str = choice(
        "constant",
        "the same coefficients in every step, or in each the best after those before (arXiv 2505.16932)",
        options=("constant", "polar_express"),
    )
    ns_lower: float = choice(
        1e-3, "smallest singular value, in units of the norm, that polar_express is to bring to 1", low=0.0
    )
    eps: float = number(1e-7, "keeps a zero matrix from dividing by zero")
    norm: str = choice("add", "how eps enters the norm", options=("add", "clamp"))
    ns_dtype: str = choice("auto", "type to iterate in", options=("auto", "bfloat16", "float32", "float64"))

    quintics: tuple[Any, ...] = field(init=False, repr=False, compare=False)
    """What follows from these choices for orthogonalise, found once and outside of compiled code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        express = self.ns_schedule == "polar_express"
        found = polar_express(self.ns_steps, self.ns_lower) if express else self.ns_coefficients
        object.__setattr__(self, "quintics", tuple(found))

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"momentum_buffer": Slot(shape)}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mu = self.momentum
        if self.average == "ema":
            m = ema_in_one_pass(state["momentum_buffer"], g, mu)
            u = ema_in_one_pass(m, g, mu) if self.nesterov else m
        else:
            m = mu * state["momentum_buffer"] + g
            u = g + mu * m if self.nesterov else m
        dtype = fast_dtype(u) if self.ns_dtype == "auto" else getattr(torch, self.ns_dtype)
        margin = SAFETY if self.ns_schedule == "polar_express" else 1.0
        u = orthogonalise(u, self.ns_steps, self.quintics, self.eps, self.norm, dtype, margin)
        rows, cols = g.shape[-2:]
        scale = math.sqrt(max(1, rows / cols)) if self.scale == "spectral" else 0.2 * math.sqrt(max(rows, cols))
        return u.mul_(scale), {"momentum_buffer": m}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h, source, dtype = told["hyperparameters"], told["source"], told["dtype"]
        arguments: dict[str, Any] = {
            name: h[name]
            for name in ("lr", "momentum", "weight_decay", "nesterov", "ns_steps", "eps")
            if name in h
        }
        if "ns_coefficients" in h:
            arguments["ns_coefficients"] = tuple(h["ns_coefficients"])
        # The bf16 trajectories are of float32 weights; float64 ones iterate in float64 whatever is asked.
        arguments["ns_dtype"] = "bfloat16" if "bfloat16 as official" in dtype else "auto"
        if "float32, bfloat16 cast removed" in dtype:
            arguments["ns_dtype"] = "float32"
        if "KellerJordan" in source:
            companion = {
                "lr": h["adam_lr"],
                "betas": (h["adam_beta1"], h["adam_beta2"]),
                "eps": h["adam_eps"],
                "weight_decay": h["adam_weight_decay"],
            }
            variant = "keller"
        elif "Moonlight" in source:
            companion = {
                "lr": h["lr"],
                "betas": tuple(h["adamw_betas"]),
                "eps": h["adamw_eps"],
                "weight_decay": h["weight_decay"],
            }
            variant = "kimi"
        elif "torch" in source:
            companion, variant = {}, "torch"
        else:
            raise BadInput(f"muon: source {source!r} is none of KellerJordan/Muon, Moonlight, torch")
        if "scale" in h or h.get("adjust_lr_fn"):
            named = str(h.get("scale") or h["adjust_lr_fn"])
            arguments["scale"] = "match_rms" if named.startswith(("0.2", "match_rms")) else "spectral"
        return {"variant": variant, "companion": companion, **arguments}
