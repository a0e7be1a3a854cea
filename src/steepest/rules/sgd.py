from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core import lowbit
from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number


@dataclass(frozen=True)
class SGD(Rule):
    """Stochastic gradient descent with momentum; SGDW with ``decay="before"``."""

    title = "SGD with momentum"
    paper = (
        "Sutskever, Martens, Dahl, Hinton, On the importance of initialization and momentum in deep learning, "
        "ICML 2013, eq. 1-2; decoupled decay: Loshchilov & Hutter, arXiv 1711.05101, Algorithm 1 (SGDW); lomo: Lv "
        "et al., Full Parameter Fine-tuning for Large Language Models with Limited Resources, arXiv 2306.09782"
    )
    code = "torch.optim.SGD (torch 2.13); timm SGDW (timm 1.0.31); lomo: OpenLMLab/LOMO@45d4bac lomo_optim/lomo.py"
    pseudocode = """
        g <- g + decay * w                       (torch form: decay is coupled)
        b <- g at the first step, then momentum * b + (1 - dampening) * g
        u <- g + momentum * b if nesterov, else b
        w <- w - lr * u
    """
    recorded_as = ("sgdm8bit", "lomo")
    scope = "element"
    advice = (
        "As a baseline, and to see what adaptivity is worth: on language models it needs a learning rate of about "
        "1, stays behind every other rule here and is stable in a narrow range only (arXiv 2407.07972). Without "
        "momentum it keeps no state at all. One large gradient stays in its momentum at full size: clip."
    )
    quirks = (
        "The buffer starts at the first gradient, undamped: dampening = momentum differs from an EMA from 0.",
        "lr multiplies outside the buffer: changing it does not rescale old momentum.",
        "A zero gradient still moves the weight, by momentum.",
        "LOMO is SGD without momentum, stepped inside backward: clipping and loss scale are steepest.release's.",
    )
    variants = {"torch": {}, "sgdw": {"decay": "before"}, "lomo": {"decay": "before", "momentum": 0.0}}
    recipe = {"momentum": 0.98, "decay": "before"}
    recipe_source = "arXiv 2407.07972, configs/sweeps/momentum.yaml: SGDW, momentum .98, no Nesterov"

    lr: float = number(1e-3, "learning rate", grid=(0.03, 0.1, 0.3, 1.0, 3.0))
    momentum: float = number(0.0, "share of the buffer kept", grid=(0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99))
    dampening: float = number(0.0, "share of each later gradient held back from the buffer", grid=(0.0, 0.9))
    nesterov: bool = choice(False, "look ahead along the buffer", options=(False, True))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 1e-4, 1e-3, 1e-2, 0.1))
    decay: Decay = choice("coupled", "where the decay acts", options=DECAYS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise BadInput(
                f"sgd: nesterov needs momentum > 0 and dampening = 0, "
                f"not momentum={self.momentum:g}, dampening={self.dampening:g}"
            )

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"momentum_buffer": Slot(shape)} if self.momentum != 0 else {}

    def phase(self, t: int, turn: int = 0) -> str:
        return "first" if t == 1 else "later"

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if "momentum_buffer" not in state:
            return g, {}
        b = g if step.phase == "first" else self.momentum * state["momentum_buffer"] + (1 - self.dampening) * g
        u = g + self.momentum * b if self.nesterov else b
        return u, {"momentum_buffer": b}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        if told["optimizer"] == "sgdm8bit":
            own = {name: h[name] for name in ("lr", "momentum", "weight_decay")}
            return {**own, "decay": "coupled", "state": lowbit.of_trajectory(told)}
        if told["optimizer"] == "lomo":
            names = {"clip_grad_norm": "clip_norm", "clip_grad_value": "clip_value"}
            inside = {ours: h.pop(theirs) for theirs, ours in names.items() if theirs in h}
            return {**h, "variant": "lomo", "released": inside}
        return {"decay": "before" if h.pop("decoupled") else "coupled", **h}
