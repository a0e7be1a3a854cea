from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import adam_direction, bias_corrections, ema, ema_in_one_pass
from steepest.linalg.row_means import mean_square

STAR = {"head": {"blocks": "row"}}
"""What the star adds: a second moment for each logit. (A fused qkv is cut by its layout.)"""


@dataclass(frozen=True)
class Adalayer(Rule):
    """Adalayer: Adam with one second moment for a whole layer; Adalayer*; frozen; its hybrid with SGD."""

    title = "Adalayer (Adam with one second moment per layer)"
    paper = (
        "Zhao, Morwani, Brandfonbrener, Vyas, Kakade, Deconstructing What Makes a Good Optimizer for "
        "Autoregressive Language Models, arXiv 2407.07972, section 4"
    )
    code = "rosieyzh/optimizers-llm@a1f8a3f olmo/optim.py (AdalayerW, AdalayerWLast)"
    pseudocode = """
        w <- (1 - lr * weight_decay) * w
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * mean(g^2 over the block)      a number for each block
        w <- w - lr * m / (1 - beta1^t) / (sqrt(v) / sqrt(1 - beta2^t) + eps)
        blocks: each tensor (Adalayer); also each row of the head, and q, k, v of a fused qkv (Adalayer*)
        frozen: v <- (1 - 1/(t+1)) * v + 1/(t+1) * mean(g^2) up to step t_freeze, at learning rate 0; later v
          stays, or goes on with beta2 (head, norms); v is not corrected for its start at 0
        blocks none: w <- w - lr * m / (1 - beta1^t)                 SGD, for all but head and norms
    """
    scope = "matrix"
    advice = (
        "A probe rather than a tool: with one number for a layer it shows where Adam needs more. The answer of "
        "arXiv 2407.07972 (150M to 1.2B weights): in the head, one for each logit, and in the norms; with these, "
        "Adalayer* trains as well as Adam and over as wide a range of learning rates, in half of its state, and "
        "SGD everywhere else recovers most of it. Plain Adalayer, the head as one layer, is worse and less "
        "stable. Adam's learning rates carry over. For the same saving with finer blocks see Adam-mini."
    )
    quirks = (
        "The mean of g^2 over a block is the paper's |g / sqrt(n)|^2.",
        "The official code finds the last layer by its name and more than 10,000 rows, and qkv and norms by "
        "names; here roles and layouts tell. A fused qkv asks for its layout: 'qkv' cuts it in three as the "
        "star does, 'whole' leaves it one block.",
        "Frozen: after k steps v is the sum of g^2 over k + 1, never corrected. The steps up to t_freeze need a "
        "learning rate of 0 from the schedule (freeze=t_freeze) and come on top of the run's own.",
        "Frozen, with a second moment for each row of the embedding: the official code never freezes that one.",
        "The study divides the weight decay by the peak learning rate: decay='independent'. It decays norms, "
        "biases and embeddings too.",
        "SGD is without epsilon, and its learning rate is of another size: swept from 0.1 to 3160, while head "
        "and norms keep theirs.",
    )
    variants = {
        "adalayer": {},
        "adalayer-star": {"by_role": STAR},
        "first-layer": {"by_role": STAR | {"embed": {"blocks": "row"}}},
        "frozen": {
            "t_freeze": 1000,
            "by_role": {"head": {"blocks": "row", "after_freeze": "ema"}, "norm": {"after_freeze": "ema"}},
        },
        "no-norm-training": {"by_role": STAR | {"norm": {"lr": 0.0}}},
        "sgd-hybrid": {
            "lr": 10.0,
            "lr_grid": (0.316, 1.0, 3.16, 10.0, 31.6, 100.0),
            "blocks": "none",
            "by_role": {
                "head": {"blocks": "row", "lr": 3.16e-3},
                "norm": {"blocks": "tensor", "lr": 3.16e-3},
            },
        },
    }
    recipe = {"variant": "adalayer-star", "betas": [0.9, 0.95], "eps": 1e-15, "weight_decay": 0.0}
    recipe_source = (
        "arXiv 2407.07972, configs/sweeps/lr.yaml: Adalayer*, betas .9/.95, eps 1e-15, no decay; best learning "
        "rate 3.16e-3 of 1e-4 to 1 by factors of sqrt(10)"
    )

    lr: float = number(1e-3, "learning rate", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the first and the second moment",
        grid=((0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99), (0.8, 0.9, 0.95, 0.98, 0.99)),
        high=1.0,
    )
    eps: float = number(1e-8, "added to the root of the second moment", grid=(1e-15, 1e-12, 1e-8, 1e-5))
    weight_decay: float = number(1e-2, "weight decay", grid=(0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    blocks: str = choice("tensor", "what shares a second moment", options=("tensor", "row", "none"))
    t_freeze: int = choice(0, "steps over which the second moment is averaged before it stays; 0: never", low=0)
    after_freeze: str = choice("hold", "the second moment after t_freeze", options=("hold", "ema"))

    def block_rows(self, shape: tuple[int, ...]) -> int:
        return 1 if self.blocks == "row" or len(shape) < 2 else max(1, shape[-2])

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        if self.blocks == "none":
            return {"exp_avg": Slot(shape)}
        count = shape[-2] // self.block_rows(shape) if len(shape) > 1 else 1
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot((*shape[:-2], count, 1))}

    def phase(self, t: int, turn: int = 0) -> str:
        return "hold" if 0 < self.t_freeze < t and self.after_freeze == "hold" else "average"

    def corrections(self, t: int) -> dict[str, float]:
        corrections = bias_corrections(self.betas, t) | {"beta2": self.betas[1]}
        if self.t_freeze == 0:
            return corrections
        return corrections | {"root_bias2": 1.0} | ({"beta2": 1 - 1 / (t + 1)} if t <= self.t_freeze else {})

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        m = ema_in_one_pass(state["exp_avg"], g, self.betas[0])
        if self.blocks == "none":
            return m / step.bias1, {"exp_avg": m}
        v = state["exp_avg_sq"]
        if step.phase == "average":
            v = ema(v, mean_square(g, self.block_rows(tuple(g.shape))), step.beta2)
        u = adam_direction(m, v, step.bias1, step.root_bias2, self.eps, "torch")
        return u, {"exp_avg": m, "exp_avg_sq": v}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h, groups = told["hyperparameters"], told.get("groups") or {}
        hybrid = "AdalayerWLast" in told["source"]
        own: dict[str, dict[str, Any]] = {}

        def gets(group: str, usual: str, **hyper: Any) -> None:
            for name in groups.get(group, [usual]):
                own.setdefault(name, {}).update(hyper)

        if h.get("update_norm"):
            gets("norm", "norm", blocks="tensor", after_freeze="ema")
        if h.get("firstlayer_correction"):
            gets("first_layer", "embed", blocks="row", after_freeze="ema")
        if h.get("lastlayer_correction"):
            gets("last_layer", "head", blocks="row", after_freeze="ema" if h.get("update_last", True) else "hold")
        if h.get("lr_last") is not None:
            for name in groups.get("lr_last", own):
                own.setdefault(name, {})["lr"] = h["lr_last"]
        cut = groups.get("fused_qkv", ["tall"]) if h.get("att_correction") and not hybrid else []
        first = f"param/{told['steps_kept'][0]:03d}"
        return {
            **{name: h[name] for name in ("lr", "eps", "weight_decay") if name in h},
            "betas": (h["beta1"], h["beta2"]),
            "t_freeze": h.get("t_freeze") or 0,
            "blocks": "none" if hybrid else "tensor",
            "layouts": {name: thirds(len(arrays[f"{first}/{name}"])) for name in cut},
            "groups": own,
        }


def thirds(rows: int) -> dict[str, int]:
    """The rows of q, k and v where the official code cuts: at floor(j * rows / 3)."""
    ends = [j * rows // 3 for j in range(4)]
    return {part: ends[j + 1] - ends[j] for j, part in enumerate("qkv")}
