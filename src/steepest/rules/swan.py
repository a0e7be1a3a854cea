from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.newton_schulz import cubic, fast_dtype, orthogonalise
from steepest.linalg.norms import frobenius, length
from steepest.linalg.polar import polar_factor


@dataclass(frozen=True)
class SWAN(Rule):
    """SWAN: the gradient of now, its rows normalised and then whitened; no state for hidden matrices."""

    title = "SWAN (SGD with whitening and normalization)"
    paper = (
        "Ma, Gong, Scetbon, Meeds, SWAN: SGD with Normalization and Whitening Enables Stateless LLM Training, "
        "arXiv 2412.13148; GradNorm and GradWhitening as the same authors restate them in arXiv 2502.07752, "
        "appendices B.7 and B.8"
    )
    code = "none by the authors; three ports by others disagree, see the quirks"
    pseudocode = """
        x <- (g - mean) / std of each row over its inputs      (gradnorm std: versions 1 and 2)
        x <- g / rms of each row                               (gradnorm rms: version 3, ICML)
        u <- (x x^T)^(-1/2) x = U V^T of x = U S V^T           (whitening exact)
        X <- x / |x|; ns_steps times: X <- X + ns_beta * (I - X X^T) X;  u <- X        (newton-schulz)
        u <- u * |x| / |u|                                     (rescale: u then has RMS 1)
        w <- (1 - lr * weight_decay) * w - lr * u
        embeddings, head, norms, biases: companion AdamW at lr / alpha, alpha = 0.05
    """
    scope = "matrix"
    companion = {"lr_ratio": 20.0, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    advice = (
        "Where AdamW's moments do not fit and embedding and head are a small part of the model: hidden matrices "
        "keep no state at all, everything else keeps AdamW's. The authors report Adam's perplexity at 350M and "
        "1.3B with half of its tokens; in the re-runs of arXiv 2506.16659 it is level with Adam up to 130M and "
        "better by two points at 1B, where that Adam is suspected to be tuned too little. Without an average over "
        "steps the direction is one batch's: give it large batches. Its ten steps cost half as much "
        "again as Muon's five; where one buffer is affordable, Muon is the better known choice."
    )
    quirks = (
        "lr is the matrices' own; the papers name the rate of the Adam part, and the matrices get alpha = 0.05 of "
        "it. The companion's lr_ratio is 1 / alpha, so that one learning rate moves both.",
        "The listing that circulates starts the iteration at the Gram matrix itself and takes steps of 0.8: it "
        "overflows on any gradient of usual size, and is not built. Divided by |x|^2, as here, every ns_beta "
        "below 1 converges, and 0.5 does so quadratically.",
        "The coupled iteration (Y, Z) of the papers is X <- X + beta (I - X X^T) X in exact arithmetic; that form "
        "is used, because rounding does not lead it astray.",
        "Steps and beta of the ports: 10 and 0.8, 6 and 0.5, 2 and 0.4. The variant with substituted diagonals "
        "that one of them takes from version 3 (NSDS) is not reproduced.",
        "Rows of a square matrix that are centred leave one direction empty: exact whitening leaves it at zero, "
        "and the smallest singular values keep Newton-Schulz at a distance (0.07 after 10 steps at 16 x 16).",
        "Rows are outputs and the mean is over inputs, whatever the shape; the papers assume rows <= columns.",
        "A row that is constant to rounding has no std and gives zero; of a row of one number its RMS is taken.",
        "Version 3's normalisation without centring is known here from a port that cites it.",
        "No decay in the papers: weight_decay is an addition.",
    )
    variants = {
        "v1": {},
        "v1-exact": {"whitening": "exact"},
        "v1-exact-unscaled": {
            "whitening": "exact",
            "rescale": False,
            "lr": 2e-2,
            "lr_grid": (1e-2, 2e-2, 4e-2, 8e-2, 0.16, 0.32),
            "companion": {"lr_ratio": 3.0},
        },
        "icml": {"gradnorm": "rms", "ns_steps": 6},
        "icml-exact": {"gradnorm": "rms", "whitening": "exact"},
    }
    recipe = {"companion": {"lr_ratio": 20.0}}
    recipe_source = (
        "arXiv 2502.06742, by the same authors: lr of the Adam part 2e-2, of the matrices 0.05 times that (1e-3); "
        "no decay, betas .9/.999"
    )

    lr: float = number(1e-3, "learning rate of the matrices", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    gradnorm: str = choice("std", "what a row is divided by, std after centring", options=("std", "rms"))
    whitening: str = choice(
        "newton-schulz", "how the rows are made orthonormal", options=("newton-schulz", "exact")
    )
    ns_steps: int = choice(10, "Newton-Schulz steps", options=tuple(range(1, 31)), grid=(6, 10))
    ns_beta: float = choice(0.5, "size of a Newton-Schulz step", low=0.0)
    rescale: bool = choice(True, "give the direction the norm of the normalised gradient", options=(False, True))
    eps: float = number(1e-8, "least std or RMS of a row")
    ns_dtype: str = choice("auto", "type to iterate in", options=("auto", "bfloat16", "float32", "float64"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ns_beta < 1:
            raise BadInput(
                f"swan: ns_beta={self.ns_beta:g} does not converge to singular values of 1: take one between 0 "
                "and 1, such as 0.5"
            )

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.gradnormed(g)
        if self.whitening == "exact":
            u = polar_factor(x)
        else:
            dtype = fast_dtype(x) if self.ns_dtype == "auto" else getattr(torch, self.ns_dtype)
            u = orthogonalise(x, self.ns_steps, cubic(self.ns_beta), 1e-30, "clamp", dtype)
        if self.rescale:
            u = u * (frobenius(x) / frobenius(u).clamp(min=torch.finfo(u.dtype).tiny))
        return u, {}

    def gradnormed(self, g: Tensor) -> Tensor:
        """GradNorm: every row at RMS 1."""
        root = math.sqrt(g.shape[-1])
        rms = length(g, -1) / root
        if self.gradnorm == "rms" or g.shape[-1] == 1:
            return g / rms.clamp(min=self.eps)
        x = g - g.mean(dim=-1, keepdim=True)
        std = length(x, -1) / root
        # Of a constant row the mean's rounding is left, which must not be blown up to a direction.
        x = torch.where(std <= 16 * torch.finfo(g.dtype).eps * rms, 0.0, x)
        return x / std.clamp(min=self.eps)

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = told["hyperparameters"]
        return {
            "lr": h["lr_swan"],
            "weight_decay": h.get("wd", 0.0),
            **form_of(h["form"]),
            "companion": {
                "lr": h["adam_lr"],
                "betas": tuple(h["betas"]),
                "eps": h["eps"],
                "weight_decay": h.get("wd", 0.0),
            },
        }


def form_of(told: str) -> dict[str, Any]:
    """Hyperparameters from a trajectory's words: normalisation, whitening, rescaling, with commas between."""
    normalised, *rest = (part.strip() for part in told.split(","))
    whitened = rest[0] if rest else ""
    steps = re.match(r"Newton-Schulz (\d+) steps", whitened)
    if normalised not in ("RMS", "center+std") or not (steps or whitened == "exact polar"):
        raise BadInput(f"swan: form {told!r} is none of RMS or center+std, exact polar or Newton-Schulz N steps")
    beta = next((float(part.removeprefix("beta=")) for part in rest if part.startswith("beta=")), 0.5)
    return {
        "gradnorm": "rms" if normalised == "RMS" else "std",
        "whitening": "newton-schulz" if steps else "exact",
        "rescale": "no rescale" not in rest,
        **({"ns_steps": int(steps[1]), "ns_beta": beta} if steps else {}),
    }
