from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.naming import HIDDEN
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.norms import length

VECTORS = ("norm", "bias", "vector")


@dataclass(frozen=True)
class SinkGD(Rule):
    """SinkGD: the gradient of now, rows and columns brought to RMS 1 in turns; no state for hidden matrices."""

    title = "SinkGD (SGD with rows and columns normalised in turns)"
    paper = (
        "Scetbon, Ma, Gong, Meeds, Gradient Multi-Normalization for Stateless and Scalable LLM Training, "
        "arXiv 2502.06742, SinkGD with SR-Sinkhorn"
    )
    code = "none by the authors; naubull2/sinkgd-pytorch, axolotl and forgather by others disagree, see the quirks"
    pseudocode = """
        u <- g, of m rows and n columns
        L times:
            each row of u    <- sqrt(n) * row / |row|
            each column of u <- sqrt(m) * column / |column|
        w <- (1 - lr * weight_decay) * w - lr * u
        size column: without both roots, which is u / sqrt(m)
        size matrix: u / sqrt(m * n) at the end
        embeddings, head, norms, biases: companion AdamW at lr / alpha, alpha = 0.05
    """
    scope = "matrix"
    companion = {"lr_ratio": 20.0, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    advice = (
        "The cheapest rule that treats a matrix as a matrix: no state for hidden matrices and no products, only 2 "
        "L passes over the gradient. The authors report up to three times Adam's speed up to 1.3B weights, and in "
        "the abstract of the conference version Adam's perplexity with 40 % of its tokens; nobody else's tuned "
        "comparison is known, and their baselines are the GaLore family's, where tuning Adam alone moves more "
        "than most gains. Embedding and head keep AdamW's state, which is most of a small model: see SCALE for "
        "those. Without an average over steps it wants large batches."
    )
    quirks = (
        "lr is the matrices' own; the paper names the rate of the Adam part (2e-2), and the matrices get alpha = "
        "0.05 of it. The companion's lr_ratio is 1 / alpha, so that one learning rate moves both.",
        "Columns come last: they end at RMS 1 exactly, rows nearly, and the mean square of an entry is 1.",
        "It is one case of the paper's scheme (MNGD), which projects on the balls of several norms in turns; the "
        "row norm and the spectral norm give SWAN.",
        "Norms are at least eps (the project's choice): rows and columns of zeros stay zero.",
        "The port naubull2 leaves out both roots: its update is 1 / sqrt(m) of the paper's, it adds 1e-6 to "
        "norms, and it divides norms and biases by their length instead of giving them to Adam.",
        "The port forgather divides by sqrt(m * n) by default; axolotl's has the paper's size. The companions of "
        "these two variants are set here so that AdamW stays at a usual rate; the ports do not tell.",
        "No decay in the paper: weight_decay is an addition.",
    )
    by_role = {role: {"whole": True} for role in VECTORS}
    variants = {
        "paper": {},
        "one-round": {"L": 1},
        "naubull2": {
            "size": "column",
            "eps": 1e-6,
            "eps_form": "add",
            "vectors": "length",
            "lr": 2e-2,
            "lr_grid": (1e-2, 2e-2, 4e-2, 8e-2, 0.16, 0.32),
            "companion": {"lr_ratio": 3.0},
        },
        "forgather": {
            "size": "matrix",
            "lr": 0.16,
            "lr_grid": (4e-2, 8e-2, 0.16, 0.32, 0.64, 1.28),
            "companion": {"lr_ratio": 0.5},
        },
    }
    recipe = {"L": 5, "companion": {"lr_ratio": 20.0}}
    recipe_source = (
        "arXiv 2502.06742: L 5, lr of the Adam part 2e-2, of the matrices 0.05 times that (1e-3); no decay, betas "
        ".9/.999"
    )

    lr: float = number(1e-3, "learning rate of the matrices", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    L: int = choice(5, "rounds, each first over rows and then over columns", grid=(1, 5), low=1)
    size: str = choice(
        "rms",
        "what comes out: entries of RMS 1, columns of length 1, a matrix of norm 1",
        options=("rms", "column", "matrix"),
    )
    eps: float = number(1e-8, "least norm of a row or column, or what is added to it")
    eps_form: str = choice("clamp", "how eps enters the norms", options=("clamp", "add"))
    vectors: str = choice("companion", "what moves norms and biases", options=("companion", "length"))
    whole: bool = choice(
        False, "divide by the norm of the whole: norms and biases with vectors='length'", options=(False, True)
    )

    def takes(self, role: str) -> bool:
        return role in HIDDEN or (self.vectors == "length" and role in VECTORS)

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.whole:
            return g / self._floored(length(length(g, -1), -2)), {}
        rows, cols = g.shape[-2:]
        roots = (1.0, 1.0) if self.size == "column" else (math.sqrt(cols), math.sqrt(rows))
        u = g
        for _ in range(self.L):
            u = u * (roots[0] / self._floored(length(u, -1)))
            u = u * (roots[1] / self._floored(length(u, -2)))
        return u / math.sqrt(rows * cols) if self.size == "matrix" else u, {}

    def _floored(self, norm: Tensor) -> Tensor:
        return norm.clamp(min=self.eps) if self.eps_form == "clamp" else norm + self.eps

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = told["hyperparameters"]
        return {
            "lr": h["lr_sink"],
            "L": int(h["L"]),
            "weight_decay": h.get("wd", 0.0),
            "companion": {
                "lr": h["adam_lr"],
                "betas": tuple(h["betas"]),
                "eps": h["eps"],
                "weight_decay": h.get("wd", 0.0),
            },
        }
