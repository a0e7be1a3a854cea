from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import adam_direction, bias_corrections, ema_in_one_pass, ema_of_square
from steepest.linalg.low_rank import into, nonzero, out_of, sides, singular_subspace


@dataclass(frozen=True)
class Conda(Rule):
    """Column-normalised Adam: its second moment lives in the basis of the first moment's singular vectors."""

    title = "Conda (column-normalised Adam)"
    paper = "Wang et al., Conda: Column-Normalized Adam, arXiv 2509.24218 (2025)"
    code = "jie040109/Conda@449af71 conda_torch/conda.py, projector.py"
    pseudocode = """
        m <- beta1 * m + (1 - beta1) * g
        every update_proj_gap steps, first step included: U S V^T <- SVD of the new m
          B <- V^T, p(x) = x B^T, back(y) = y B  (rows >= cols);  else B <- U, p(x) = U^T x, back(y) = U y
        v <- beta2 * v + (1 - beta2) * p(g)^2                     (not rotated when B changes)
        u <- sqrt(1 - beta2^t) / (1 - beta1^t) * p(m) / (sqrt(v) + eps)
        w <- w - lr * scale * back(u);  w <- (1 - lr * weight_decay) * w
        embeddings, head, norms, biases: companion AdamW (eps_form hf, decay after)
    """
    scope = "matrix"
    companion = {
        "lr_ratio": 1.0,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "eps_form": "hf",
        "decay": "after",
        "weight_decay": 0.0,
    }
    advice = (
        "Between Adam and Muon: steps per coordinate as Adam's, but in the directions in which the momentum is "
        "large or small, so that small directions are not drowned. Its paper claims 2 to 2.5 times AdamW's speed "
        "in steps and in time on LLaMA models up to 1B weights (abstract of arXiv 2509.24218); neither study of "
        "tuned optimizers has it. It costs AdamW's state and a square of the "
        "shorter side, three products with that square a step, and one decomposition of every matrix every "
        "update_proj_gap steps: in a short run more often than the default. In a run of 400 steps at 50k weights "
        "10 steps between bases ended at a loss of 3.85, 100 and 2,000 at 3.90. SOAP follows both sides' second "
        "moments instead."
    )
    quirks = (
        "Nothing is truncated: the basis is square and orthogonal, and since only squares enter v and m is kept "
        "unprojected, the signs of singular vectors do not matter.",
        "v keeps its numbers when the basis changes: for some 1 / (1 - beta2) steps coordinates are divided by "
        "other directions' sizes.",
        "The first basis is the first gradient's; with update_proj_gap=2000 it serves 2,000 steps.",
        "The official code decomposes in float32 whatever the type (svd_dtype float32); here in the working type, "
        "which is float32 for weights of less than float64.",
        "Its proj_type left, right, full and reverse_std fail wherever they change the gradient's shape, v having "
        "the weight's: not offered.",
        "A moment of zeros, or one that is not finite, leaves the basis as it is. An expert without a first "
        "gradient is moved by AdamW, the basis being the identity, until the next refresh.",
        "pytorch_optimizer's port (4.1.0) leaves the official path from the first refresh after the first step "
        "on, by 1 %, and takes every matrix for a hidden one.",
        "The rate of hidden matrices is lr * scale; decay and companion use lr.",
    )
    variants = {
        "conda": {},
        "official": {"svd_dtype": "float32"},
        "llama": {
            "lr": 1e-2,
            "betas": (0.9, 0.99),
            "scale": 0.25,
            "svd_dtype": "float32",
            "companion": {"betas": (0.9, 0.99)},
        },
        "gpt2": {
            "lr": 6e-3,
            "betas": (0.9, 0.99),
            "scale": 0.25,
            "weight_decay": 0.01,
            "svd_dtype": "float32",
            "companion": {"betas": (0.9, 0.99), "weight_decay": 0.01},
        },
    }
    recipe = {
        "betas": [0.9, 0.99],
        "scale": 0.25,
        "update_proj_gap": 10,
        "companion": {"betas": [0.9, 0.99]},
    }
    recipe_source = (
        "scripts of jie040109/Conda for LLaMA 60M to 1B (betas .9/.99, scale .25, no decay); their 2,000 steps "
        "between bases would leave a short race the first gradient's: 10 as SOAP's"
    )

    lr: float = number(1e-3, "learning rate", grid=(5e-3, 1e-2, 2e-2, 4e-2, 8e-2, 1.6e-1))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the first and the second moment",
        grid=((0.8, 0.9, 0.95, 0.98), (0.95, 0.98, 0.99, 0.999)),
        high=1.0,
    )
    eps: float = number(1e-8, "added to the root of the second moment", grid=(1e-15, 1e-8))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.01, 0.1))
    decay: Decay = choice("after", "where the decay acts", options=DECAYS)
    scale: float = number(1.0, "factor of the matrices' updates", grid=(0.125, 0.25, 0.5, 1.0))
    update_proj_gap: int = choice(2000, "steps between new bases", grid=(10, 50, 200, 2000), low=1)
    svd_dtype: str = choice(
        "working", "type of the decomposition: the weight's working type or float32",
        options=("working", "float32"),
    )  # fmt: skip
    spread: bool = choice(False, "new bases of different matrices fall on different steps", options=(False, True))
    correct_bias: bool = choice(True, "undo the moments' start at zero", options=(True, False))

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        *stack, rows, cols = (1, 1, *shape)[-max(2, len(shape)) :]
        short = min(rows, cols)
        return {
            "exp_avg": Slot(shape),
            "exp_avg_sq": Slot(shape, signed=False),
            "basis": Slot((*stack, short, short)),
        }

    def phase(self, t: int, turn: int = 0) -> str:
        return "refresh" if t == 1 or (t - 1 + turn) % self.update_proj_gap == 0 else "keep"

    @property
    def turns(self) -> int:
        return self.update_proj_gap if self.spread else 1

    def corrections(self, t: int) -> dict[str, float]:
        return bias_corrections(self.betas, t) if self.correct_bias else {"bias1": 1.0, "root_bias2": 1.0}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        (side,) = sides("std", *g.shape[-2:])
        m = ema_in_one_pass(state["exp_avg"], g, beta1)
        basis = self.refreshed(m, state["basis"], side) if step.phase == "refresh" else state["basis"]
        v = ema_of_square(state["exp_avg_sq"], into(g, {side: basis}), beta2)
        factor = self.scale * step.root_bias2  # in the hf form a factor of the whole: no pass of its own
        u = adam_direction(into(m, {side: basis}), v, step.bias1, factor, self.eps, "hf")
        return out_of(u, {side: basis}), {"exp_avg": m, "exp_avg_sq": v, "basis": basis}

    def refreshed(self, m: Tensor, old: Tensor, side: str) -> Tensor:
        """The singular vectors of m; the old basis, or at first the identity, where m has none."""
        x = m.float() if self.svd_dtype == "float32" else m
        new = singular_subspace(x, (side,), old.shape[-1], "lapack")[side].to(m.dtype)
        found = nonzero(m) & ~nonzero(new.isnan())
        identity = torch.eye(old.shape[-1], dtype=m.dtype, device=m.device)
        return torch.where(found, new, torch.where(nonzero(old), old, identity))

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        if (kind := h.pop("proj_type", "std")) != "std":
            raise BadInput(f"conda: proj_type={kind!r} fails in the official code and is not offered: use 'std'")
        same = {name: h[name] for name in ("lr", "eps", "weight_decay", "correct_bias") if name in h}
        same["betas"] = tuple(h["betas"])
        solver = "working" if "patched" in told["source"] else "float32"
        return {**h, **same, "svd_dtype": solver, "companion": same}
