from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.rule import Decay, Rule, Slot, Step, choice, number
from steepest.linalg.projection import tangential


@dataclass(frozen=True)
class SGDP(Rule):
    """SGD with momentum whose step does not lengthen weights that look scale-invariant."""

    title = "SGDP"
    paper = (
        "Heo, Chun, Oh et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on "
        "Scale-invariant Weights, ICLR 2021, arXiv 2006.08217, Algorithm 1"
    )
    code = "clovaai/AdamP@7f6f038 adamp/sgdp.py"
    pseudocode = """
        b <- momentum * b + (1 - dampening) * g
        u = b                                                (nesterov: g + momentum * b)
        for rows of w, then w as one row, unless w is a vector:
          if |cos(g, w)| < delta / sqrt(length) of every row:
            u <- u - w <w, u> / (||w|| + eps)^2 by rows;  r = wd_ratio;  stop
        r = 1 if neither was so
        w <- (1 - lr * weight_decay * r / (1 - momentum)) * w
        w <- w - lr * u
        b <- u                                               (write_back, without nesterov)
    """
    scope = "tensor"
    advice = (
        "Where SGD with momentum is the right rule, image networks with a norm after each convolution, and where "
        "its step dies because weights grow. Not for language models: like SGD it wants a learning rate of about "
        "1 and stays far behind every adaptive rule, and no language-model result of it is known. Beside SGD it "
        "tells how much of that gap is the growth of norms."
    )
    quirks = (
        "Without Nesterov the code's projection works in place on the momentum buffer itself, so that what is "
        "taken from a step is forgotten; with Nesterov, and in the paper's Algorithm 1, the buffer keeps it. The "
        "default is the paper's; write_back=True (variant official) the code's.",
        "The decay is divided by 1 - momentum, so that it keeps up with steps that momentum makes so much longer: "
        "weight_decay=1e-5 with momentum .9 is SGDW's 1e-4.",
        "The buffer starts at zero, dampening included: SGD's starts at the first gradient.",
        "To the code a gradient of zeros is at right angles to everything, so that it projects and spares 0.9 of "
        "the decay; so is one whose norm is below eps. Here a zero shows nothing, and cosines are exact; "
        "zero_gradient='orthogonal' is the code's.",
        "The test reads the raw gradient, and the weight before its decay.",
        "Rows are the first dimension's: tokens of an embedding, outputs of a linear map.",
        "delta=0 is SGDW with decay weight_decay / (1 - momentum).",
    )
    variants = {
        "paper": {},
        "official": {"write_back": True, "zero_gradient": "orthogonal"},
        "readme": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-5},
    }
    recipe = {"momentum": 0.98}
    recipe_source = (
        "no language-model setting is known: momentum of SGD's, arXiv 2407.07972 configs/sweeps/momentum.yaml "
        "(.98); delta and wd_ratio of clovaai/AdamP, which recommends its defaults"
    )

    lr: float = number(0.1, "learning rate", grid=(0.03, 0.1, 0.3, 1.0, 3.0))
    momentum: float = number(
        0.0, "share of the buffer kept", grid=(0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99), high=1.0
    )
    dampening: float = number(0.0, "share of each gradient held back from the buffer", grid=(0.0, 0.9))
    nesterov: bool = choice(False, "look ahead along the buffer", options=(False, True))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 1e-5, 1e-4, 1e-3, 1e-2))
    decay: Decay = choice("before", "where the decay acts: its size follows the projection", options=("before",))
    eps: float = number(1e-8, "added to norms", grid=(1e-15, 1e-8))
    delta: float = number(
        0.1, "bound of a cosine that counts as none, times sqrt(length)", grid=(0.0, 0.1, 0.3, 1.0)
    )
    wd_ratio: float = number(0.1, "share of the decay that a projected weight has", grid=(0.0, 0.1, 1.0))
    write_back: bool = choice(
        False, "the buffer, too, loses what is projected (not with nesterov)", options=(False, True)
    )
    zero_gradient: str = choice(
        "unknown", "what a gradient of zeros shows of the angle", options=("unknown", "orthogonal")
    )

    @property
    def writes_weight(self) -> bool:
        return True

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"momentum_buffer": Slot(shape)} if self.momentum != 0 else {}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        b = (1 - self.dampening) * g
        if "momentum_buffer" in state:
            b = self.momentum * state["momentum_buffer"] + b
        u, projected = tangential(
            g + self.momentum * b if self.nesterov else b,
            g,
            w,
            self.delta,
            self.eps,
            zero_is_orthogonal=self.zero_gradient == "orthogonal",
        )
        decay = self.weight_decay / (1 - self.momentum) * (1 - (1 - self.wd_ratio) * projected.to(w.dtype))
        kept = u if self.write_back and not self.nesterov else b
        new = {"momentum_buffer": kept} if "momentum_buffer" in state else {}
        return (1 - self.lr * decay) * w - self.lr * u, new

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {**told["hyperparameters"], "write_back": True, "zero_gradient": "orthogonal"}
