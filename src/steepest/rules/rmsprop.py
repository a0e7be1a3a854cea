from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema


@dataclass(frozen=True)
class RMSprop(Rule):
    """RMSprop: the gradient over the root of its moving mean square; centred, and with momentum, if asked."""

    title = "RMSprop"
    paper = (
        "Tieleman & Hinton, Lecture 6.5, rmsprop, COURSERA: Neural Networks for Machine Learning, 2012; "
        "centred, with momentum: Graves, Generating Sequences With Recurrent Neural Networks, arXiv 1308.0850, "
        "eq. 38-41"
    )
    code = "torch.optim.RMSprop (torch 2.13)"
    pseudocode = """
        g <- g + decay * w                                            (torch form: decay is coupled)
        v <- alpha * v + (1 - alpha) * g^2
        a <- alpha * a + (1 - alpha) * g;  d <- max(v - a^2, 0)       (centered; else d <- v)
        u <- g / (sqrt(d) + eps), or g / sqrt(d + eps)                (eps_inside)
        b <- momentum * b + u;  u <- b                                (momentum > 0)
        w <- w - lr * u
    """
    scope = "element"
    advice = (
        "To see what Adam adds to it, and as the base of Fira for half of its moments' memory: without momentum "
        "it keeps one number a weight. Both moments start at zero and nothing corrects that: the first steps are "
        "1 / sqrt(1 - alpha) times as long as later ones, ten times by torch's default, so that it needs warm-up "
        "or a smaller alpha. Where a momentum is wanted, AdamW costs the same memory and corrects its start. "
        "Neither study of tuned optimizers for language models has it."
    )
    quirks = (
        "torch's centred form is nan for ever once rounding makes v < a^2, as a constant gradient does; here "
        "the variance is at least 0.",
        "A gradient that hardly varies has hardly a variance: centred, its steps grow towards |g| / eps.",
        "momentum sums steps, so that .9 makes them ten times as long; the average of them is not offered.",
        "lr multiplies outside the buffer, as in torch; Graves and TensorFlow have it inside, which differs "
        "while lr changes.",
        "TensorFlow 1 starts v at 1 instead of 0: not offered.",
    )
    variants = {
        "torch": {},
        "hinton": {"alpha": 0.9, "lr": 1e-3},
        "graves": {
            "alpha": 0.95,
            "momentum": 0.9,
            "centered": True,
            "eps": 1e-4,
            "eps_inside": True,
            "lr": 1e-4,
            "lr_grid": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2),
        },
    }
    recipe = {"alpha": 0.95, "weight_decay": 0.1, "decay": "before"}
    recipe_source = (
        "alpha of arXiv 1308.0850, eq. 38, without its momentum, which is Adam's business; decay .1 as the others "
        "of arXiv 2509.02046"
    )

    lr: float = number(1e-2, "learning rate", grid=(2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2))
    alpha: float = number(0.99, "decay rate of both averages", grid=(0.9, 0.95, 0.98, 0.99, 0.999), high=1.0)
    eps: float = number(1e-8, "added to the root of the mean square", grid=(1e-15, 1e-8, 1e-6, 1e-4))
    momentum: float = number(0.0, "share of the buffer kept", grid=(0.0, 0.5, 0.9, 0.95))
    centered: bool = choice(False, "divide by the standard deviation instead", options=(False, True))
    eps_inside: bool = choice(False, "epsilon is added below the root", options=(False, True))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1))
    decay: Decay = choice("coupled", "where the decay acts", options=DECAYS)

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        kept = {"square_avg": True, "grad_avg": self.centered, "momentum_buffer": self.momentum != 0}
        return {name: Slot(shape) for name, there in kept.items() if there}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        spread = ema(state["square_avg"], g * g, self.alpha)
        new = {"square_avg": spread}
        if self.centered:
            mean = new["grad_avg"] = ema(state["grad_avg"], g, self.alpha)
            spread = (spread - mean * mean).clamp(min=0)
        u = g / ((spread + self.eps).sqrt() if self.eps_inside else spread.sqrt() + self.eps)
        if "momentum_buffer" in state:
            u = new["momentum_buffer"] = self.momentum * state["momentum_buffer"] + u
        return u, new

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        decay = "before" if h.pop("decoupled", False) else "coupled"
        return {"alpha": h.pop("beta", RMSprop.alpha), "decay": decay, **h}
