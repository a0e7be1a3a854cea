from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import adam_direction, bias_corrections, ema_in_one_pass, ema_of_square
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
        first step: L <- (1 - beta_s) g g^T, R <- (1 - beta_s) g^T g; Q_L, Q_R <- eigenvectors, largest
          first; the weight does not move and Adam's step count k stays 0
        later: g' <- Q_L^T g Q_R
        M <- beta1 * M + (1 - beta1) * g';  V <- beta2 * V + (1 - beta2) * g'^2       (both in the basis)
        u <- Q_L [sqrt(1 - beta2^k) / (1 - beta1^k) * M / (sqrt(V) + eps)] Q_R^T
        w <- w - lr * u;  w <- (1 - lr * weight_decay) * w
        L <- beta_s * L + (1 - beta_s) g g^T;  R likewise
        every f steps: sort columns of Q by diag(Q^T L Q), V with them; Q <- QR(L Q);  M into the new basis
    """
    scope = "matrix"
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
    )
    variants = {"official": {}}
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
    precondition_1d: bool = choice(False, "vectors get a basis too", options=(False, True))
    normalize_grads: bool = choice(False, "each update is brought to RMS 1", options=(False, True))
    spread: bool = choice(False, "refreshes of different matrices fall on different steps", options=(False, True))
    correct_bias: bool = choice(True, "Adam's bias corrections", options=(False, True))

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        slots = {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape)}
        if len(shape) >= 2 or (len(shape) == 1 and self.precondition_1d):
            for side, dim in SIDES.items():
                size = shape[dim] if len(shape) >= -dim else None  # a vector is one row: no left factor
                if size is not None and size <= self.max_precond_dim:
                    for kind in ("GG", "Q"):
                        slots[f"{kind}_{side}"] = Slot((*shape[:-2], size, size))
        return slots

    def phase(self, t: int, turn: int = 0) -> str:
        if t == 1:
            return "first"
        return "refresh" if (t - 1 + turn) % self.precondition_frequency == 0 else "keep"

    @property
    def turns(self) -> int:
        return self.precondition_frequency if self.spread else 1

    def corrections(self, t: int) -> dict[str, float]:
        if not self.correct_bias or t == 1:
            return {"bias1": 1.0, "root_bias2": 1.0}
        return bias_corrections(self.betas, t - 1)

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        sides = [side for side in SIDES if f"Q_{side}" in state]
        beta = beta2 if self.shampoo_beta is None else self.shampoo_beta
        seen = {side: g if side == "left" else g.mT for side in sides}
        if step.phase == "first":
            # Rounded alike by every engine: it decides what the basis of a null space is.
            factors = {f"GG_{side}": (1 - beta) * (x @ x.mT) for side, x in seen.items()}
            return None, state | factors | {f"Q_{side}": eigenbasis(factors[f"GG_{side}"]) for side in sides}
        factors = {f"GG_{side}": ema_of_gram(state[f"GG_{side}"], x, beta) for side, x in seen.items()}
        q = {side: state[f"Q_{side}"] for side in sides}
        projected = into(g, q)
        m = ema_in_one_pass(state["exp_avg"], projected, beta1)
        v = ema_of_square(state["exp_avg_sq"], projected, beta2)
        u = out_of(adam_direction(m, v, step.bias1, step.root_bias2, self.eps, "hf"), q)
        if self.normalize_grads:
            u = u / (1e-30 + u.square().mean(dim=(-2, -1), keepdim=True).sqrt())
        if step.phase == "refresh":
            m = out_of(m, q)
            for side in sides:
                q[side], order = refreshed(factors[f"GG_{side}"], q[side])
                v = reordered(v, order, SIDES[side])
            m = into(m, q)
        return u, {"exp_avg": m, "exp_avg_sq": v, **factors, **{f"Q_{side}": q[side] for side in sides}}

    @classmethod
    def of_trajectory(cls, hyperparameters: Mapping[str, Any], source: str, dtype: str) -> dict[str, Any]:
        h = dict(hyperparameters)
        if h["shampoo_beta"] < 0:  # the official code's word for "use beta2"
            h["shampoo_beta"] = None
        return {"betas": (h.pop("beta1"), h.pop("beta2")), **h}

    @classmethod
    def injected(cls, name: str, shape: tuple[int, ...], slots: Mapping[str, Slot]) -> dict[str, str]:
        """Bases of a matrix of which a factor is rank-deficient after one gradient: a longer side that has one."""
        sizes = {side: slots[f"Q_{side}"].shape[-1] for side in SIDES if f"Q_{side}" in slots}
        if len(shape) != 2 or all(size <= min(shape) for size in sizes.values()):
            return {}
        return {f"Q_{side}": f"extra/Q/000/{name}/{dim % 2}" for side, dim in SIDES.items() if side in sizes}


def into(x: Tensor, q: Mapping[str, Tensor]) -> Tensor:
    """Q_L^T x Q_R, without the sides that have no basis."""
    x = q["left"].mT @ x if "left" in q else x
    return x @ q["right"] if "right" in q else x


def out_of(x: Tensor, q: Mapping[str, Tensor]) -> Tensor:
    """Q_L x Q_R^T, back from the basis."""
    x = q["left"] @ x if "left" in q else x
    return x @ q["right"].mT if "right" in q else x
