from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import adam_direction, bias_corrections, ema_in_one_pass, ema_of_square
from steepest.linalg.blocks import block_shape, cut, join
from steepest.linalg.eigenbasis import eigenbasis, refreshed, reordered
from steepest.linalg.symmetric import ema_of_gram

SIDES = {"left": -2, "right": -1}
"""Rows have a left factor L = E[g g^T] with basis Q_left, columns a right one."""


@dataclass(frozen=True)
class SOAP(Rule):
    """SOAP: Adam in the slowly turning eigenbasis of Shampoo's two Kronecker factors."""

    title = "SOAP (Adam in Shampoo's eigenbasis)"
    paper = "Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, arXiv 2409.11321, Algorithm 3"
    code = "nikhilvyas/SOAP@a1e5535 soap.py"
    pseudocode = """
        in each block of at most block_size, if that is given:
        first step: L <- (1 - beta_s) g g^T, R <- (1 - beta_s) g^T g; Q_L, Q_R <- eigenvectors, largest
          first; the weight does not move and Adam's step count k stays 0
        later: g' <- Q_L^T g Q_R
        M <- beta1 * M + (1 - beta1) * g';  V <- beta2 * V + (1 - beta2) * g'^2       (both in the basis)
        u <- Q_L [sqrt(1 - beta2^k) / (1 - beta1^k) * M / (sqrt(V) + eps)] Q_R^T
        w <- w - lr * u;  w <- (1 - lr * weight_decay) * w
        L <- beta_s * L + (1 - beta_s) g g^T;  R likewise
        every f steps: sort columns of Q by diag(Q^T L Q), V with them; Q <- QR(L Q);  M into the new basis
        order levanter: k counts the first step, which decays; bases are refreshed at steps f, 2f, ... from the
          factors before the current gradient
    """
    scope = "matrix"
    version = 2  # normalize_grads leaves Adam's corrections in, as the official code does
    advice = (
        "Where tokens are scarce, runs are long and memory is not: level with Muon or ahead of it from eight times"
        " the Chinchilla budget on (differences within the noise of one seed, arXiv 2509.02046), ahead of AdamW "
        "everywhere. It keeps three times AdamW's state for a square matrix, its bases are refreshed by QR "
        "factorisations, and it wants them in float32. Every weight is its own, so that nothing has to be routed; "
        "precondition_frequency trades time for tokens, spread levels the slow steps."
    )
    quirks = (
        "The first call only sets the basis: no movement, no decay; Adam's step count is one behind.",
        "V is permuted with the columns but never rotated into the new basis.",
        "A dimension above max_precond_dim (a vocabulary) keeps the identity as its basis.",
        "After the first gradient of a matrix that is not square one factor is rank-deficient: the basis of "
        "its null space is whatever the eigensolver returns, and two correct programs differ there.",
        "The official code solves eigenproblems in float32 whatever the weights' type; here in the working "
        "type, which is float32 for float32 and bfloat16 weights.",
        "Vectors are treated by the same Adam without a basis, unless precondition_1d.",
        "The official code gives every dimension of a larger tensor a factor; here filters of convolutions "
        "are flattened to (out, rest) and stacks of expert matrices are treated one by one.",
        "Blocks are SOAP by themselves; a dimension without a basis is not cut. Levanter fills them up to "
        "block_size even where the dimension is smaller, which changes no number, and adds eps to the factors "
        "whose first bases it takes.",
    )
    variants = {
        "official": {},
        "levanter": {
            "shampoo_beta": 0.95,
            "eps": 1e-15,
            "decay": "before",
            "max_precond_dim": 9999,
            "precondition_1d": True,
            "block_size": 256,
            "order": "levanter",
            "by_role": {role: {"weight_decay": 0.0} for role in ("embed", "norm", "bias", "vector")},
        },
    }
    recipe = {
        "betas": [0.95, 0.98],
        "shampoo_beta": 0.95,
        "precondition_frequency": 10,
        "max_precond_dim": 1023,
        "weight_decay": 0.1,
    }
    recipe_source = (
        "arXiv 2509.02046, phase I optimum of SOAP at 130M (betas .95/.98, shampoo beta .95, decay .1); refresh "
        "every 10 steps as in arXiv 2409.11321; the largest dimension lies below a small race's vocabulary of "
        "1,024, which both papers leave without a basis"
    )

    lr: float = number(3e-3, "learning rate", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    betas: tuple[float, float] = number(
        (0.95, 0.95),
        "decay rates of the first and the second moment",
        grid=((0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.99)),
        high=1.0,
    )
    shampoo_beta: float | None = number(
        None, "decay rate of L and R; None: beta2", grid=(0.9, 0.95, 0.98, 0.99), high=1.0
    )
    eps: float = number(1e-8, "added to the root of the second moment", grid=(1e-15, 1e-8))
    weight_decay: float = number(1e-2, "weight decay", grid=(0.0, 0.1, 0.2))
    decay: Decay = choice("after", "where the decay acts", options=DECAYS)
    precondition_frequency: int = choice(10, "steps between refreshes of the bases", grid=(1, 5, 10), low=1)
    max_precond_dim: int = choice(10000, "largest dimension that gets a basis", low=0)
    block_size: int | None = choice(
        None, "largest block that gets bases of its own; None: the whole matrix", grid=(128, 256, 512), low=1
    )
    precondition_1d: bool = choice(False, "vectors get a basis too", options=(False, True))
    normalize_grads: bool = choice(
        False, "each update is brought to RMS 1, before Adam's corrections", options=(False, True)
    )
    spread: bool = choice(False, "refreshes of different matrices fall on different steps", options=(False, True))
    correct_bias: bool = choice(True, "Adam's bias corrections", options=(False, True))
    order: str = choice("official", "whose order of operations", options=("official", "levanter"))

    def sides(self, shape: tuple[int, ...]) -> list[str]:
        """The dimensions that get a basis; a vector is one row, without a left one."""
        if len(shape) < 2 and not self.precondition_1d:
            return []
        return [s for s, dim in SIDES.items() if len(shape) >= -dim and shape[dim] <= self.max_precond_dim]

    def cuts(self, sides: list[str]) -> tuple[int | None, int | None]:
        """The largest block's rows and columns: a dimension without a basis is not cut."""
        return tuple(self.block_size if side in sides else None for side in SIDES)  # type: ignore[return-value]

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        sides = self.sides(shape)
        if self.block_size is not None:
            shape = (*shape[:-2], *block_shape((1, 1, *shape)[-2:], self.cuts(sides)))
        slots = {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}
        for side in sides:
            size = shape[SIDES[side]]
            slots[f"GG_{side}"] = slots[f"Q_{side}"] = Slot((*shape[:-2], size, size))
        return slots

    def phase(self, t: int, turn: int = 0) -> str:
        if t == 1:
            return "first"
        return "refresh" if (self.count(t) + turn) % self.precondition_frequency == 0 else "keep"

    @property
    def turns(self) -> int:
        return self.precondition_frequency if self.spread else 1

    def count(self, t: int) -> int:
        """Adam's steps so far: the first call sets the bases alone."""
        return t if self.order == "levanter" else t - 1

    def corrections(self, t: int) -> dict[str, float]:
        if not self.correct_bias or t == 1:
            return {"bias1": 1.0, "root_bias2": 1.0}
        return bias_corrections(self.betas, self.count(t))

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        sides = [side for side in SIDES if f"Q_{side}" in state]
        beta = beta2 if self.shampoo_beta is None else self.shampoo_beta
        if self.block_size is not None:
            g = cut(g, self.cuts(sides))
        seen = {side: g if side == "left" else g.mT for side in sides}
        if step.phase == "first":
            # Rounded alike by every engine: it decides what the basis of a null space is.
            factors = {f"GG_{side}": (1 - beta) * (x @ x.mT) for side, x in seen.items()}
            bases = {f"Q_{side}": eigenbasis(factors[f"GG_{side}"]) for side in sides}
            return torch.zeros_like(w) if self.order == "levanter" else None, state | factors | bases
        factors = {f"GG_{side}": ema_of_gram(state[f"GG_{side}"], x, beta) for side, x in seen.items()}
        q = {side: state[f"Q_{side}"] for side in sides}
        projected = into(g, q)
        m = ema_in_one_pass(state["exp_avg"], projected, beta1)
        v = ema_of_square(state["exp_avg_sq"], projected, beta2)
        u = out_of(adam_direction(m, v, step.bias1, step.root_bias2, self.eps, "hf"), q)
        if self.block_size is not None:
            u = join(u, w.shape)
        if self.normalize_grads:
            rms = u.square().mean(dim=(-2, -1), keepdim=True).sqrt()
            u = step.root_bias2 / step.bias1 * u / (1e-30 + rms)
        if step.phase == "refresh":
            m = out_of(m, q)
            for side in sides:
                factor = (state if self.order == "levanter" else factors)[f"GG_{side}"]
                q[side], order = refreshed(factor, q[side])
                v = reordered(v, order, SIDES[side])
            m = into(m, q)
        return u, {"exp_avg": m, "exp_avg_sq": v, **factors, **{f"Q_{side}": q[side] for side in sides}}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        if h["shampoo_beta"] < 0:  # the official code's word for "use beta2"
            h["shampoo_beta"] = None
        return {"betas": (h.pop("beta1"), h.pop("beta2")), **h}

    @classmethod
    def fed(cls, t: int, name: str, shape: tuple[int, ...], slots: Mapping[str, Slot]) -> dict[str, str]:
        """Bases of factors that t + 1 gradients leave rank-deficient: their null space is any program's own."""
        sizes = {side: slots[f"Q_{side}"].shape[-1] for side in SIDES if f"Q_{side}" in slots}
        deficient = [side for side, size in sizes.items() if math.prod(shape) // size * (t + 1) < size]
        return {f"Q_{side}": f"extra/Q/{t:03d}/{name}/{SIDES[side] % len(shape)}" for side in deficient}

    def refitted(self, state: Mapping[str, Tensor], fed: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The first moment is kept in the bases, and goes with them."""
        own = {side: state[f"Q_{side}"] for side in SIDES if f"Q_{side}" in state}
        new = {side: fed.get(f"Q_{side}", q) for side, q in own.items()}
        return {**fed, "exp_avg": into(out_of(state["exp_avg"], own), new)}


def into(x: Tensor, q: Mapping[str, Tensor]) -> Tensor:
    """Q_L^T x Q_R, without the sides that have no basis."""
    x = q["left"].mT @ x if "left" in q else x
    return x @ q["right"] if "right" in q else x


def out_of(x: Tensor, q: Mapping[str, Tensor]) -> Tensor:
    """Q_L x Q_R^T, back from the basis."""
    x = q["left"] @ x if "left" in q else x
    return x @ q["right"].mT if "right" in q else x
