from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema


@dataclass(frozen=True)
class Signum(Rule):
    """Signum: the sign of the momentum, which already holds the gradient."""

    title = "Signum (sign of momentum)"
    paper = (
        "Bernstein et al., signSGD, arXiv 1802.04434, Algorithm 2; majority vote: arXiv 1810.05291; as the "
        "simplified Adam of Zhao et al., arXiv 2407.07972, section 4"
    )
    code = (
        "rosieyzh/optimizers-llm@a1f8a3f olmo/optim.py (LionW, both betas equal); "
        "PermiJW/signSGD-with-Majority-Vote@5bebcd0 main/Signum_SGD.py"
    )
    pseudocode = """
        w <- (1 - lr * weight_decay) * w
        m <- momentum * m + (1 - momentum) * g
        u <- sign(m), or sign(g + momentum * m) with m <- momentum * m + g   (nesterov, EPFL's form)
        w <- w - lr * u
    """
    scope = "element"
    advice = (
        "AdamW's robustness over a wide range of learning rates with half of its state: in arXiv 2407.07972 it "
        "recovers both performance and stability of Adam, with a learning rate about ten times smaller. A good "
        "choice where memory is short and one number, its momentum, is all that one wants to set beside the rate."
    )
    quirks = (
        "torch.sign(nan) is 0: a coordinate whose gradient was once nan stops moving, its momentum being nan.",
        "The same as Lion with beta1 = beta2 = momentum.",
        "Majority-vote code adds the decay to the gradient before the momentum (decay='coupled'): it then acts "
        "only through the sign. With its one-bit compression the decay is decoupled.",
        "No bias correction: the sign does not see the scale.",
    )
    variants = {
        "decoupled": {},
        "majority-vote": {"decay": "coupled", "lr": 1e-4},
        "epfl": {"nesterov": True, "momentum": 0.95, "weight_decay": 0.1, "lr": 1e-3},
    }
    recipe = {"momentum": 0.9, "weight_decay": 0.1}
    recipe_source = "arXiv 2407.07972 (momentum .9); decay .1 as arXiv 2509.01440 (EPFL benchmark)"

    lr: float = number(3.16e-4, "learning rate", grid=(2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3))
    momentum: float = number(0.9, "decay rate of the momentum", grid=(0.8, 0.9, 0.95, 0.98, 0.99), high=1.0)
    nesterov: bool = choice(False, "look ahead along a sum buffer", options=(False, True))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1, 0.3, 0.6))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"momentum_buffer": Slot(shape)}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        m = state["momentum_buffer"]
        if self.nesterov:
            m = self.momentum * m + g
            return torch.sign(g + self.momentum * m), {"momentum_buffer": m}
        m = ema(m, g, self.momentum)
        return torch.sign(m), {"momentum_buffer": m}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        if h.pop("bias_correction", False):
            raise BadInput("signum: bias_correction=true: no implementation corrects a sign's scale")
        return {"decay": "before" if h.pop("decoupled") else "coupled", **h}
