from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.rule import Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import adam_direction, bias_corrections, ema
from steepest.linalg.projection import tangential


@dataclass(frozen=True)
class AdamP(Rule):
    """AdamW whose step does not lengthen weights that look scale-invariant."""

    title = "AdamP"
    paper = (
        "Heo, Chun, Oh et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on "
        "Scale-invariant Weights, ICLR 2021, arXiv 2006.08217, Algorithm 2"
    )
    code = "clovaai/AdamP@7f6f038 adamp/adamp.py"
    pseudocode = """
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g^2
        u = m / (sqrt(v) / sqrt(1 - beta2^t) + eps)          (nesterov: beta1 * m + (1 - beta1) * g over the same)
        for rows of w, then w as one row, unless w is a vector:
          if |cos(g, w)| < delta / sqrt(length) of every row:
            u <- u - w <w, u> / (||w|| + eps)^2 by rows;  r = wd_ratio;  stop
        r = 1 if neither was so
        w <- (1 - lr * weight_decay * r) * w
        w <- w - lr * u / (1 - beta1^t)
    """
    scope = "tensor"
    advice = (
        "For networks in which a normalisation follows each weight, by output channel: there momentum lengthens "
        "the weights, and AdamP stops that. In a transformer few matrices are such. The test by rows, all of them "
        "at once, hardly ever holds among hundreds, that of a whole matrix now and then, and AdamP is then AdamW "
        "at the price of four sums more. The authors report small gains on WikiText-103; no language-model study "
        "since is known to have tuned it. With queries and keys under a norm it is worth a look, else tune AdamW."
    )
    quirks = (
        "The test reads the raw gradient, while the step that is projected is the momentum's; and the weight "
        "before its decay, as the code does.",
        "A projected weight decays wd_ratio times as much, 0.1 by default: between steps that project and steps "
        "that do not, a matrix's decay jumps by 10.",
        "The bound falls with size, delta / sqrt(length): .0036 for a row of 768, .00013 for the whole of 768 x "
        "768. Random gradients pass it in 8 steps of 100 at any size, taken as one row.",
        "To the code a gradient of zeros is at right angles to everything, so that it projects and spares 0.9 of "
        "the decay; so is one whose norm is below eps. Here a zero shows nothing, and cosines are exact; "
        "zero_gradient='orthogonal' is the code's.",
        "Rows without a gradient, such as tokens not in the batch, hinder neither form.",
        "Rows are the first dimension's: tokens of an embedding, outputs of a linear map; joined queries, keys "
        "and values are looked at as they are stored.",
        "delta=0 is AdamW.",
    )
    variants = {"mended": {}, "official": {"zero_gradient": "orthogonal"}, "nesterov": {"nesterov": True}}
    recipe = {"weight_decay": 0.1}
    recipe_source = (
        "delta, wd_ratio and betas of clovaai/AdamP, which recommends its defaults; decay as AdamW's, .1 by arXiv "
        "2509.02046"
    )

    lr: float = number(1e-3, "learning rate", grid=(2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the first and the second moment",
        grid=((0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.99, 0.999)),
        high=1.0,
    )
    eps: float = number(
        1e-8, "added to the root of the second moment and to norms", grid=(1e-15, 1e-10, 1e-8, 1e-5)
    )
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.01, 0.1, 0.2))
    decay: Decay = choice("before", "where the decay acts: its size follows the projection", options=("before",))
    delta: float = number(
        0.1, "bound of a cosine that counts as none, times sqrt(length)", grid=(0.0, 0.1, 0.3, 1.0)
    )
    wd_ratio: float = number(0.1, "share of the decay that a projected weight has", grid=(0.0, 0.1, 1.0))
    nesterov: bool = choice(False, "look ahead along the momentum", options=(False, True))
    zero_gradient: str = choice(
        "unknown", "what a gradient of zeros shows of the angle", options=("unknown", "orthogonal")
    )

    @property
    def writes_weight(self) -> bool:
        return True

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}

    def corrections(self, t: int) -> dict[str, float]:
        return bias_corrections(self.betas, t)

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        m = ema(state["exp_avg"], g, beta1)
        v = ema(state["exp_avg_sq"], g * g, beta2)
        ahead = ema(m, g, beta1) if self.nesterov else m
        u = adam_direction(ahead, v, step.bias1, step.root_bias2, self.eps, "torch")
        u, projected = tangential(
            u, g, w, self.delta, self.eps, zero_is_orthogonal=self.zero_gradient == "orthogonal"
        )
        decay = self.weight_decay * (1 - (1 - self.wd_ratio) * projected.to(w.dtype))
        return (1 - self.lr * decay) * w - self.lr * u, {"exp_avg": m, "exp_avg_sq": v}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {**told["hyperparameters"], "zero_gradient": "orthogonal"}
