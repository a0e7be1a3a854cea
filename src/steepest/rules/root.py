from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.fitted_newton_schulz import coefficients as fitted
from steepest.linalg.newton_schulz import KELLER, fast_dtype, orthogonalise
from steepest.linalg.norms import frobenius
from steepest.linalg.quantile import quantile_in_float32, quantile_of_nonzero

PUBLISHED = (
    ((2048, 2048), (3.4916, -4.8224, 2.1095)),
    ((2048, 3072), (3.4509, -4.5790, 1.9325)),
    ((2048, 8192), (2.9794, -3.6674, 1.6207)),
    ((2048, 16384), (3.1943, -3.8221, 1.5322)),
)
"""The authors' table, by smaller and larger side; every other shape has Muon's coefficients."""
OTHERS = (0, 0)
"""The key of a table's coefficients for the shapes that it does not name."""


@dataclass(frozen=True)
class ROOT(Rule):
    """Muon with outliers of the momentum cut off and Newton-Schulz coefficients fitted to each matrix's size."""

    title = "ROOT (robust orthogonalised optimizer: clipped momentum, size-fitted Newton-Schulz)"
    paper = (
        "He et al., ROOT: Robust Orthogonalized Optimizer for Neural Network Training, arXiv 2511.20626, "
        "AdaNewton and soft-thresholding"
    )
    code = "huawei-noah/noah-research@aa0f80c ROOT/examples/example_train.py, class ROOT"
    pseudocode = """
        m <- momentum * m + g
        u <- g + momentum * m                              (nesterov; else m)
        t <- quantile of |u| over the whole matrix         (of the entries that are not zero; official: of all,
                                                            in float32, plus 1e-9)
        O <- sign(u) * max(|u| - t, 0), thrown away;  B <- u - O, which is u cut to [-t, t]
        X <- B / (|B| + eps)                               (transposed if rows > cols)
        ns_steps times: A <- X X^T; X <- aX + (bA + cA^2)X     (a, b, c by the shape)
        w <- (1 - lr * weight_decay) * w
        w <- w - lr * 0.2 * sqrt(max(rows, cols)) * X      (scale none: w - lr * X)
        embeddings, head, norms, biases: companion AdamW
    """
    scope = "matrix"
    companion = {"lr_ratio": 1.0, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "eps_form": "hf"}
    advice = (
        "Muon where single entries of the gradient are wild: the tenth of the momentum that is largest is cut to "
        "the threshold before it is orthogonalised, so that a few outliers no longer decide the direction. "
        "Coefficients fitted to the size bring the singular values of matrices that are not square, or small, "
        "much nearer to 1 than Muon's; of large square ones hardly, because five steps do not reach their "
        "smallest. Its authors report faster convergence than Muon and AdamW of a model of 1B weights; nobody "
        "else has checked that yet. A threshold costs a selection over each matrix at every step, about as much "
        "as one of the iteration's fifteen products."
    )
    quirks = (
        "The authors' table knows four shapes and takes Muon's coefficients for every other, so for nearly every "
        "model. Here coefficients are fitted for all shapes (linalg/fitted_newton_schulz.py); variant official "
        "has the table. In 400 steps of a model of 49,000 weights the two end alike (3.753 and 3.751, one seed).",
        "All but a twentieth of the singular values of random matrices like momenta end within 0.015 of 1 at 64 "
        "x 256, 0.04 at 256 x 1024, 0.19 at 64 x 64, 0.52 at 256 x 256, 0.72 at 1024 x 1024 (Muon's: 0.32, 0.32, "
        "0.32, 0.58, 0.76); of recorded momenta, 80 x 320 and 80 x 80, within 0.015 and 0.19.",
        "The paper fits to random spectra and those of recorded momenta; here to random matrices like momenta. "
        "For recorded spectra of your own its function fitted() gives coefficients to hand over by shape.",
        "The paper shows neither Nesterov momentum nor the factor 0.2 sqrt(max(rows, cols)); the code has both. "
        "Variant paper is the text.",
        "What exceeds the threshold is thrown away, in paper and code; it stays in the momentum.",
        "The official quantile is over all entries: where more than nine tenths of a momentum are zero, it is 0 "
        "and every entry is cut to 1e-9. Here zeros do not count: rows of zeros change nothing.",
        "The official threshold is computed in float32, index included, and is no quantile any more beyond 16 "
        "million entries.",
        "The official code iterates in the weight's type; here in the hardware's, as Muon does (ns_dtype).",
        "The decay is by the plain lr, the update by lr * 0.2 sqrt(max(rows, cols)).",
        "The published script has a no-break space in an import and does not run as it stands.",
    )
    variants = {
        "fitted": {},
        "official": {"coefficients": "official", "quantile_of": "official", "ns_dtype": "working"},
        "paper": {
            "nesterov": False,
            "scale": "none",
            "lr": 0.02,
            "companion": {"lr_ratio": 0.15},
            "lr_grid": (1.6e-2, 3.2e-2, 6.4e-2, 0.128, 0.256, 0.512),
        },
    }
    recipe = {"momentum": 0.95, "weight_decay": 0.1}
    recipe_source = "arXiv 2511.20626 and its code (momentum .95, decay .1, five steps, the 0.9 quantile)"

    lr: float = number(1e-3, "learning rate", grid=(4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128))
    momentum: float = number(0.95, "decay rate of the momentum", grid=(0.8, 0.9, 0.95, 0.98), high=1.0)
    weight_decay: float = number(0.1, "weight decay", grid=(0.0, 0.1, 0.2))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    nesterov: bool = choice(True, "look ahead along the momentum", options=(True, False))
    quantile: float = choice(0.9, "share of the entries that are not cut", grid=(0.8, 0.9, 0.95), low=0.0)
    quantile_of: str = choice(
        "nonzero",
        "of which entries the quantile is: those that are not zero, or the official code's",
        options=("nonzero", "official"),
    )
    ns_steps: int = choice(5, "Newton-Schulz steps", options=tuple(range(1, 31)), grid=(5, 6))
    coefficients: Any = choice(
        "fitted",
        "a, b, c: 'fitted' to the shape, the 'official' table, 'muon', three numbers, or a table such as "
        "{'64x256': (3, -3.7, 1.6)} with Muon's for other shapes",
    )
    scale: str = choice("match_rms", "size of the update by shape", options=("match_rms", "none"))
    eps: float = number(1e-7, "keeps a zero matrix from dividing by zero")
    ns_dtype: str = choice(
        "auto", "type to iterate in", options=("auto", "working", "bfloat16", "float32", "float64")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantile > 1:
            raise BadInput(f"root: quantile={self.quantile}: it is a share, 1 at most (which cuts nothing)")
        object.__setattr__(self, "coefficients", table_of(self.coefficients))
        if self.coefficients == "fitted":
            fitted(1, 1, self.ns_steps)  # steps that have no fit are told now

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"momentum_buffer": Slot(shape)}

    def quintic(self, rows: int, cols: int) -> tuple[float, float, float]:
        """a, b, c for matrices of this shape."""
        if self.coefficients == "fitted":
            return fitted(rows, cols, self.ns_steps)
        if isinstance(self.coefficients[0], float):
            return three(self.coefficients)
        found: dict[tuple[int, int], tuple[float, float, float]] = dict(self.coefficients)
        return found.get((min(rows, cols), max(rows, cols)), found.get(OTHERS, KELLER))

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mu = self.momentum
        m = mu * state["momentum_buffer"] + g
        u = g + mu * m if self.nesterov else m
        rows, cols = g.shape[-2:]
        dtype = self.iterated_in(u)
        if self.quantile_of == "official":
            t = quantile_in_float32(u, self.quantile, plus=1e-9).to(u.dtype)
            x = orthogonalise(u.clamp(-t, t), self.ns_steps, self.quintic(rows, cols), self.eps, dtype=dtype)
        else:
            # In units of the threshold no square overflows, however large a gradient was; the norm is at most 1
            # then.
            t = quantile_of_nonzero(u, self.quantile).clamp(min=torch.finfo(u.dtype).tiny)
            b = (u / t).clamp(-1, 1)
            b = b / (frobenius(b) + self.eps / t)
            x = orthogonalise(b, self.ns_steps, self.quintic(rows, cols), 1.0, "clamp", dtype)
        return (x.mul_(0.2 * math.sqrt(max(rows, cols))) if self.scale == "match_rms" else x), {
            "momentum_buffer": m
        }

    def iterated_in(self, u: Tensor) -> torch.dtype:
        if self.ns_dtype == "auto":
            return fast_dtype(u)
        return u.dtype if self.ns_dtype == "working" else getattr(torch, self.ns_dtype)

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        given = h.pop("coefficients")
        companion = {
            "lr": h["lr"],
            "betas": tuple(h.pop("adamw_betas")),
            "eps": h.pop("adamw_eps"),
            "weight_decay": h["wd"],
        }
        return {
            "variant": "official",
            "companion": companion,
            "coefficients": given if isinstance(given, Mapping) else "official",
            "ns_steps": h.pop("root_steps"),
            "weight_decay": h.pop("wd"),
            **h,
        }


def table_of(given: Any) -> Any:
    """Coefficients as three floats, as pairs of (smaller and larger side, three floats), or "fitted"."""
    if given == "fitted":
        return given
    if given in ("official", "muon"):
        return PUBLISHED if given == "official" else KELLER
    try:
        if isinstance(given, Mapping):
            return tuple(sorted((sides(key), three(value)) for key, value in given.items()))
        if isinstance(given[0], Sequence):
            return tuple((sides(key), three(value)) for key, value in given)
        return three(given)
    except (TypeError, ValueError, IndexError, KeyError):
        pass
    raise BadInput(
        f"root: coefficients={given!r} is none of 'fitted', 'official', 'muon', three numbers, or a table such as "
        "{'64x256': (3, -3.7, 1.6)}"
    )


def sides(key: Any) -> tuple[int, int]:
    """The smaller and the larger side of a shape: (64, 256), "64x256" or "(64, 256)"; a word means all others."""
    if isinstance(key, str) and not re.search(r"\d", key):
        return OTHERS
    rows, cols = re.findall(r"\d+", key) if isinstance(key, str) else key
    return min(int(rows), int(cols)), max(int(rows), int(cols))


def three(value: Any) -> tuple[float, float, float]:
    a, b, c = value
    return float(a), float(b), float(c)
