from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema_in_one_pass
from steepest.linalg.newton_schulz import fast_dtype, orthogonalise
from steepest.linalg.norms import length

VECTORS = ("norm", "bias", "vector")


@dataclass(frozen=True)
class Scion(Rule):
    """Scion: steps to the point of a ball furthest along the averaged gradient, a norm for each kind of weight."""

    title = "Scion (stochastic conditional gradient with a norm per layer)"
    paper = (
        "Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs, arXiv 2502.07529, Algorithms 1 "
        "(unconstrained) and 2 (constrained)"
    )
    code = "LIONS-EPFL/scion@f58a393 scion.py"
    pseudocode = """
        d <- (1 - alpha) * d + alpha * g
        o <- the point of the norm's unit ball furthest along d (the paper's -lmo), w being rows x cols:
          Spectral      f * NewtonSchulz(d), f = sqrt(rows / cols)
                        (not normalized: f = sqrt(rows); spectral_max: f at least 1)
          SpectralConv  the same for filters as (out, in * taps), f = sqrt(out / in) / taps
          Sign          sign(d) / cols                          (not normalized: sign(d))
          ColNorm       each column brought to RMS 1            (normalized: to RMS 1 / cols)
          RowNorm       each row brought to RMS 1 / cols        (not normalized: to length 1)
          BiasRMS       a vector brought to RMS 1               (a matrix: each column)
        w <- (1 - lr * weight_decay) * w - lr * scale * o
        weight_decay 1: constrained, the convex combination (1 - lr) * w + lr * (-scale * o); 0: unconstrained
    """
    scope = "matrix"
    by_role = {role: {"norm": "BiasRMS"} for role in VECTORS}
    advice = (
        "Muon's update for hidden matrices and a norm for every other kind of layer in place of the companion "
        "AdamW: one buffer and 4 bytes for every weight, none without momentum, the default. In arXiv 2509.02046 "
        "(levanter's form) 1.34 times a tuned AdamW in tokens at 130M weights and the smallest budget, falling to "
        "1.07 to 1.17 at eight times it. Its authors' constrained form bounds the weights instead of decaying "
        "them, and they report that learning rates carry over between widths. Rates per kind of layer are to be "
        "set."
    )
    quirks = (
        "alpha is the official code's momentum: 1 - the usual one. There is no bias correction.",
        "Constrained, an iterate that starts in the ball of radius scale stays there: start on its boundary with "
        "steepest.initialise(optimizer). Newton-Schulz steps may lead out of the spectral ball by up to 13 %.",
        "The official Auto goes by the number of dimensions, here by the role: BiasRMS for norms, biases and "
        "vectors, else Spectral. Filters are seen as (out, rest): declare norm='SpectralConv' and taps for them.",
        "The paper's lmo has no epsilon; the code adds 1e-8 to norms, so that a zero gradient gives a zero step. "
        "The shrinking of the constrained form still acts.",
        "ColNorm's normalized divides by cols where RowNorm's divides by its root.",
        "The official code multiplies by f and scale in bfloat16, here in the weight's working type.",
        "The official Sign and ColNorm refuse vectors; here a vector is one row.",
        "ScionLight keeps its average in p.grad, which nobody may then zero; here gradients are never modified, "
        "and only alpha=1 is without a buffer.",
        "The authors' language models multiply activations by sqrt(2), use no warm-up, and decay lr over the last "
        "28 %; lr and scale transfer across widths.",
        "levanter's form, on which the study's tuned values rest, differs in six points (marin-community/levanter "
        "pull request 1146): f at least 1, no 1 / cols in Sign, weight decay instead of the convex combination, "
        "a learning rate of its own for Sign, no scale, no BiasRMS. It also clips the gradients of the Sign part.",
    )
    variants = {
        "official": {},
        "unconstrained": {"weight_decay": 0.0},
        "lm-tied": {
            "lr": 2**-12,
            "alpha": 0.1,
            "scale": 50.0,
            "by_role": {role: {"norm": "Sign", "scale": 3000.0} for role in ("embed", "head")},
        },
        "lm-untied": {
            "lr": 2**-12,
            "alpha": 0.1,
            "scale": 3.0,
            "by_role": {
                "embed": {"norm": "Sign", "normalized": False, "scale": 1.0},
                "head": {"norm": "Sign", "scale": 10.0},
            },
        },
        "levanter": {
            "lr": 1.6e-2,
            "alpha": 0.05,
            "weight_decay": 0.1,
            "spectral_max": True,
            "ns_steps": 10,
            "ns_eps": 1e-15,
            "by_role": {
                role: {"norm": "Sign", "normalized": False, "lr_ratio": 0.2}
                | ({} if role == "head" else {"weight_decay": 0.0})
                for role in ("embed", "head", *VECTORS)
            },
        },
    }
    recipe = {"variant": "levanter"}
    recipe_source = (
        "arXiv 2509.02046, phase I optimum of Scion at 130M in levanter's form (momentum .95 of both parts, decay "
        ".1, lr of the sign part 0.2 x lr, 10 Newton-Schulz steps)"
    )

    lr: float = number(1e-3, "learning rate", grid=(4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128))
    alpha: float = number(
        1.0, "weight of the new gradient in the average, 1 - momentum", grid=(0.02, 0.05, 0.1, 0.2), high=2.0
    )
    scale: float = number(1.0, "radius of the ball", grid=(1.0, 3.0, 10.0, 50.0))
    weight_decay: float = number(1.0, "1: constrained, 0: unconstrained", grid=(0.0, 0.1, 0.2, 1.0))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    norm: str = choice(
        "Auto",
        "norm whose ball it is",
        options=("Auto", "Spectral", "SpectralConv", "Sign", "ColNorm", "RowNorm", "BiasRMS"),
    )
    normalized: bool | None = choice(
        None, "size by the inputs too (None: the norm's own default)", options=(None, False, True)
    )
    spectral_max: bool = choice(False, "make the spectral factor at least 1", options=(False, True))
    transpose: bool = choice(False, "see the weight as (inputs, outputs)", options=(False, True))
    taps: int = choice(1, "taps of a filter: k in one dimension, k^2 in two", low=1)
    eps: float = number(1e-8, "added to norms of rows, columns and vectors")
    ns_steps: int = choice(5, "Newton-Schulz steps", options=tuple(range(1, 31)), grid=(5, 10))
    ns_eps: float = number(1e-7, "added to the norm before Newton-Schulz", grid=(1e-20, 1e-15, 1e-10, 1e-5))
    ns_dtype: str = choice("auto", "type to iterate in", options=("auto", "bfloat16", "float32", "float64"))

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"momentum_buffer": Slot(shape)} if self.alpha != 1 else {}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if "momentum_buffer" not in state:
            return self.furthest(g), {}
        d = ema_in_one_pass(state["momentum_buffer"], g, 1 - self.alpha)
        return self.furthest(d), {"momentum_buffer": d}

    def furthest(self, d: Tensor, exact: bool = False) -> Tensor:
        """The point of the ball of radius ``scale`` furthest along d, which maximises its product with d.

        ``exact``: with singular values of 1 instead of what Newton-Schulz steps lead to.
        """
        o = self._in_unit_ball(d.mT, exact).mT if self.transpose else self._in_unit_ball(d, exact)
        return self.scale * o

    def _in_unit_ball(self, d: Tensor, exact: bool) -> Tensor:
        rows, cols = d.shape[-2:]
        normalized = self.norm != "ColNorm" if self.normalized is None else self.normalized
        if self.norm == "Sign":
            return torch.sign(d) / (cols if normalized else 1)
        if self.norm == "ColNorm":
            return d / (length(d, -2) * ((cols if normalized else 1) / math.sqrt(rows)) + self.eps)
        if self.norm == "RowNorm":
            return d / (length(d, -1) * (math.sqrt(cols) if normalized else 1) + self.eps)
        if self.norm == "BiasRMS":
            dim = -1 if rows == 1 else -2
            return d / (length(d, dim) / math.sqrt(d.shape[dim]) + self.eps)
        if self.norm == "SpectralConv":
            factor = math.sqrt(rows * self.taps / cols) / self.taps
        else:
            factor = math.sqrt(rows / cols) if normalized else math.sqrt(rows)
            factor = max(1.0, factor) if self.spectral_max else factor
        if exact:
            u, _, vh = torch.linalg.svd(d, full_matrices=False)
            return factor * (u @ vh)
        dtype = fast_dtype(d) if self.ns_dtype == "auto" else getattr(torch, self.ns_dtype)
        return factor * orthogonalise(d, self.ns_steps, eps=self.ns_eps, dtype=dtype)

    def init(self, noise: Tensor) -> Tensor:
        """Where a weight starts: the point of the ball's boundary that normal noise leads to; a bias at zero."""
        return torch.zeros_like(noise) if self.norm == "BiasRMS" else self.furthest(noise, exact=True)

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = told["hyperparameters"]

        def own(name: str, group: Mapping[str, Any]) -> dict[str, Any]:
            options = {OFFICIAL.get(key, key): value for key, value in group.get("norm_kwargs", {}).items()}
            options.pop("zero_init", None)  # of the initialisation alone
            vector = arrays[f"param/{told['steps_kept'][0]:03d}/{name}"].ndim < 2
            auto = "BiasRMS" if vector else "Spectral"
            return options | {
                "norm": auto if group["norm"] == "Auto" else group["norm"],
                "scale": group["radius"],
            }

        return {
            "lr": h["lr"],
            "alpha": h.get("momentum", 1.0),
            "weight_decay": 0.0 if h.get("unconstrained", False) else 1.0,
            # float64 trajectories iterate in float64 whatever is asked.
            "ns_dtype": "bfloat16" if "bfloat16 as official" in told["dtype"] else "auto",
            "groups": {name: own(name, group) for name, group in told["groups"].items()},
        }


OFFICIAL = {"max": "spectral_max", "steps": "ns_steps"}
"""The official names of options that are called otherwise here."""
