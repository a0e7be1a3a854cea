from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Ask, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema
from steepest.linalg.blocks import block_means

ROWS = -1

INSTRUCTION = {"block_2d": ROWS, "floor": 0.0, "decay": "joined"}
FAIRSEQ = {"block_2d": 32, "betas": (0.9, 0.98), "weight_decay": 1e-4, "lr": 0.047, "floor": 0.0}
VERSIONS = {"image_classification": "image", "instruction": "instruction", "fairseq transformer": "fairseq"}


@dataclass(frozen=True)
class AdaHessian(Rule):
    """Adam with the Hessian's diagonal, averaged over neighbours, in place of the gradient's square."""

    title = "AdaHessian"
    paper = (
        "Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney, ADAHESSIAN: An Adaptive Second Order Optimizer for Machine"
        " Learning, arXiv 2006.00719, Algorithm 1"
    )
    code = (
        "amirgholami/adahessian@85ebc00 instruction/adahessian.py; image_classification/optim_adahessian.py; "
        "transformer/fairseq/optim/adahessian.py"
    )
    pseudocode = """
        d <- |z * (Hessian z)|, z random signs, on the step's batch at its weights
        d <- mean of d over its row, its block or its kernel
        d <- max(d, floor * mean(d))
        v <- beta2 * v + (1 - beta2) * d^2             (before the step, n estimates so far)
        m <- beta1 * m + (1 - beta1) * g
        u <- m / (1 - beta1^t) / ((sqrt(v) / sqrt(1 - beta2^n))^k + eps)
        w <- w - lr * (u + weight_decay * w)
    """
    scope = "element"
    advice = (
        "For study, not for speed. Its estimate differentiates the model's whole pass twice: here three times the "
        "operations of a forward and a backward pass, at every step, without fused attention and with all "
        "activations kept, so that a step costs four of AdamW's; the authors, who use the gradient's own graph, "
        "count two. Their gains over AdamW in translation and language modelling are per step, and the large "
        "comparisons of tuned optimizers (arXiv 2509.02046, 2509.01440) leave it out. hessian_interval=10, as in "
        "Sophia, brings the estimate to a third of a pass. Its learning rate has no common scale with Adam's: a "
        "direction is a Newton step, some thousandths of a weight, so that 0.15 moved a language model of 49k "
        "weights too little by far."
    )
    quirks = (
        "The paper averages the signed estimate and squares the mean, under which opposite curvatures cancel; all "
        "three official codes average the absolute value, which is larger (variant paper: absolute=False).",
        "The official copies differ: instruction averages rows, or blocks of so many entries; fairseq blocks, and "
        "vectors not at all; image nothing but the kernels of convolutions, which all of them average.",
        "fairseq decays before the move, the others join the decay to the direction: the same but for rounding, "
        "because the direction does not read the weight.",
        "The official blocks must divide the tensor; here the last one is as short as it must be.",
        "A coordinate of hardly any curvature makes official steps of up to lr / eps times its momentum, 10,000 "
        "times a usual one. Here an estimate counts at least floor times its weight's mean, and a weight "
        "without any measured curvature (added later, or linear in the loss) waits for one.",
        "An estimate whose square overflows would stop its coordinates for ever, unseen: it is passed over. One "
        "that is not a number shows.",
        "The official code sums the estimate over processes into a temporary and drops it. Here measurements are "
        "the trainer's: a distributed loop averages them as it does gradients.",
        "The estimate sees the step's whole batch: a part would leave out rows of the embedding that the gradient "
        "moves. hessian_interval above 1 is not the paper's; the bias correction then counts estimates.",
        "A sharded weight is averaged, and its floor taken, within each shard.",
    )
    variants = {
        "rows": {},
        "instruction": INSTRUCTION,
        "instruction-blocks": INSTRUCTION | {"block_2d": 32},
        "image": INSTRUCTION | {"block_2d": None},
        "fairseq": FAIRSEQ,
        "paper": {"block_2d": 32, "absolute": False, "floor": 0.0},
    }
    recipe = {"betas": [0.9, 0.98], "eps": 1e-4, "weight_decay": 1e-4}
    recipe_source = (
        "the authors' script for IWSLT14 (fairseq: betas .9/.98, eps 1e-4, decay 1e-4), with the row means of "
        "instruction/adahessian.py"
    )

    lr: float = number(0.15, "learning rate", grid=(0.25, 0.5, 1.0, 2.0, 4.0))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the momentum and of the squared Hessian diagonal",
        grid=((0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.99, 0.999)),
        high=1.0,
    )
    eps: float = number(1e-4, "added to the divisor", grid=(1e-8, 1e-6, 1e-4, 1e-2))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 1e-5, 1e-4, 1e-3))
    decay: Decay = choice("before", "where the decay acts", options=(*DECAYS, "joined"))
    hessian_power: float = choice(1.0, "power k of the root in the divisor", grid=(0.5, 1.0), low=0.0)
    block_2d: int | None = choice(
        ROWS, "entries of a matrix in a row that share a mean; -1: each row; None: no mean", low=-1, optional=True
    )
    block_1d: int | None = choice(None, "the same of a vector; -1 and None: no mean", low=-1, optional=True)
    absolute: bool = choice(True, "take the mean of absolute estimates, not of signed ones", options=(True, False))
    floor: float = choice(
        0.01, "least estimate, as a share of its weight's mean; 0: neither this nor another guard", low=0.0
    )
    hessian_interval: int = choice(1, "steps between estimates", grid=(1, 2, 5, 10), low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("block_2d", "block_1d"):
            if getattr(self, name) == 0:
                raise BadInput(f"adahessian: {name}=0 has no mean: give the entries of a block, -1 or None")

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}

    def needs(self, t: int) -> tuple[Ask, ...]:
        due = (t - 1) % self.hessian_interval == 0
        return (Ask("hutchinson", "before", probe="rademacher", whole=True),) if due else ()

    def corrections(self, t: int) -> dict[str, float]:
        estimates = (t - 1) // self.hessian_interval + 1
        powered = (1 - self.betas[1] ** estimates) ** (self.hessian_power / 2)
        return {"bias1": 1 - self.betas[0] ** t, "powered_bias2": powered}

    def observe(self, kind: str, x: Tensor, w: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        old, d = state["exp_avg_sq"], self.averaged(x.abs() if self.absolute else x).abs()
        if not self.floor:
            return {"exp_avg_sq": ema(old, d * d, self.betas[1])}
        squared = torch.maximum(d, self.floor * d.mean()).square()
        return {"exp_avg_sq": torch.where(squared == torch.inf, old, ema(old, squared, self.betas[1]))}

    def averaged(self, x: Tensor) -> Tensor:
        """Each estimate replaced by the mean of its neighbours: of a row or block, or of a filter's kernel."""
        if x.ndim > 2:
            return x.flatten(2).mean(-1)[(..., *[None] * (x.ndim - 2))].expand_as(x)
        size = self.block_2d if x.ndim == 2 else self.block_1d
        if size is None or (size == ROWS and x.ndim < 2):
            return x
        return x.mean(-1, keepdim=True).expand_as(x) if size == ROWS else block_means(x, size)

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        m, v = ema(state["exp_avg"], g, self.betas[0]), state["exp_avg_sq"]
        root = v.sqrt()
        powered = root if self.hessian_power == 1.0 else root**self.hessian_power
        u = m / step.bias1 / (powered / step.powered_bias2 + self.eps)
        if self.floor:
            u = torch.where(v == 0, 0.0, u)
        return u, {"exp_avg": m, "exp_avg_sq": v}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        version, across, along = (
            h.pop(name) for name in ("version", "spatial_average_block_size_2d", "block_size_1d")
        )
        if version not in VERSIONS:
            raise BadInput(f"adahessian: version {version!r} is none of {', '.join(map(repr, VERSIONS))}")
        variant = VERSIONS[version]
        blocks = {
            "image": {"block_2d": None, "block_1d": None},
            "instruction": {"block_2d": across, "block_1d": along},
            "fairseq": {"block_2d": across, "block_1d": None},
        }
        return {"variant": variant, **blocks[variant], **h, "betas": tuple(h["betas"])}

    @classmethod
    def observed(cls, t: int, name: str) -> dict[str, str]:
        return {"hutchinson": f"extra/hv/{t:03d}/{name}"}
