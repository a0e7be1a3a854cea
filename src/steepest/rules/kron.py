from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.rule import Decay, Draw, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema_in_one_pass
from steepest.linalg.blocks import block_shape, cut, join
from steepest.linalg.kron import (
    SIDES,
    apply,
    apply_inverse_transposed,
    apply_transposed,
    balanced,
    factor_shape,
    gram,
    is_dense,
    scaled_identity,
)
from steepest.linalg.norm_bound import column_bound, tiny
from steepest.linalg.norms import frobenius

EPS = math.sqrt(torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class Kron(Rule):
    """PSGD Kron: momentum whitened by a Kronecker product of triangular factors, fitted on a Lie group."""

    title = "PSGD Kron (triangular factors)"
    paper = (
        "Li, Preconditioned Stochastic Gradient Descent, arXiv 1512.04202; Li, Stochastic Hessian Fittings with "
        "Lie Groups, arXiv 2402.11858, the Kronecker product form with dQ = E Q"
    )
    code = (
        "evanatyourservice/kron_torch@884427c kron_torch/kron.py; "
        "stanford-crfm/levanter@9263f81 src/levanter/optim/kron.py"
    )
    pseudocode = """
        g <- g / (|g| + 1e-16)                                               (normalize_grads)
        m <- momentum * m + (1 - momentum) * g;  x <- m / (1 - momentum^t)
        at first: Q_i <- precond_init_scale^(1 / dims) * I, upper triangular, or diagonal
        at an update (x or g: momentum_into_precond_update):
          x' <- x + sqrt(2^-23) * mean|x| * V,  V ~ N(0, 1)                  (keep_noise: x <- x')
          A <- Q x';  B <- Q^-T V;  along each dimension i: T1 <- A A^T, T2 <- B B^T
          Q_i <- Q_i - precond_lr * triu(T1 - T2) / |T1 + T2|_2 Q_i          (a lower bound of the norm)
          diagonal: q_i <- q_i - precond_lr * (T1 - T2) / max(T1 + T2) * q_i
        u <- Q^T Q x;  u <- u * min(1, clip_rms / (rms(u) + 1e-12))
        w <- w - lr * (u + weight_decay * w);  1-D weights are not decayed
        a counter grows by 1 a step; once it reaches 1 / p, Q is updated and it starts again, where
          p <- exp(-decay_rate * (steps before - flat)) in [least_probability, 1]
        every balance_every updates: factors to equal largest entries
    """
    scope = "matrix"
    by_role = {role: {"weight_decay": 0.0} for role in ("norm", "bias", "vector")}
    advice = (
        "Where tokens are scarce and memory is not: with Muon and SOAP one of the matrix methods that beat every "
        "elementwise one from 130M to 520M, 1.13 to 1.28 times AdamW's tokens (one seed, arXiv 2509.02046; "
        "not run at 1.2B). Its lr is a quarter of AdamW's and its decay "
        "five to seven times as large. A step that updates the factors costs several times one that does not; "
        "after 2,000 steps only every twentieth does. Three times the weights' memory for square matrices, less "
        "in blocks. Every weight is its own: nothing has to be routed."
    )
    quirks = (
        "The official code leaves the damping noise in the momentum that it then preconditions (keep_noise) and, "
        "where the preconditioner sees gradients, in p.grad; here both stay clean.",
        "A gradient and momentum of zeros tell nothing: Q stays, where the official code lets it grow by a tenth.",
        "The norm by which a step of Q is divided is a lower bound, within a factor of sqrt(2) in practice.",
        "The official code balances at random, once in 100 updates, with Python's generator seeded 42; balancing "
        "changes neither Q^T Q nor how it goes on.",
        "Tensors of more than two dimensions are flattened to (out, rest) or treated as stacks; the official code "
        "folds them to the matrix nearest to a square.",
        "Blocks (levanter): each has factors of its own; the last one of a side is filled up with zeros that "
        "neither damping nor probe touches, so that it is the smaller block; levanter lets its probe reach them.",
        "Solves and factors are float32 for bfloat16 weights, as in the official code.",
    )
    variants = {
        "mended": {},
        "official": {"keep_noise": True},
        "levanter": {
            "lr": 2e-3,
            "momentum": 0.95,
            "weight_decay": 0.7,
            "precond_lr": 0.2,
            "normalize_grads": True,
            "block_size": 256,
            "max_size_triangular": 25000,
            "least_probability": 0.05,
            "flat": 2000,
            "by_role": {"embed": {"weight_decay": 0.0}},
        },
    }
    recipe = {
        "momentum": 0.95,
        "weight_decay": 0.5,
        "precond_lr": 0.2,
        "normalize_grads": True,
        "block_size": 256,
        "least_probability": 0.05,
        "flat": 2000,
    }
    recipe_source = (
        "arXiv 2509.02046, phase I optimum of Kron at 130M and 2x to 8x Chinchilla (momentum .95, decay .5, "
        "preconditioner lr .2, probability .05 after 2000 steps at 1, blocks of 256, normalised gradients)"
    )

    lr: float = number(3e-4, "learning rate", grid=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2))
    momentum: float = number(0.9, "decay rate of the momentum", grid=(0.9, 0.95, 0.98), high=1.0)
    weight_decay: float = number(0.0, "weight decay of matrices", grid=(0.0, 0.5, 0.7, 0.9))
    # Before or after, the weight is rounded twice: a third of what a float32 trajectory is allowed.
    decay: Decay = choice("joined", "where the decay acts: it joins the update", options=("joined",))
    precond_lr: float = number(0.1, "step of the factors", grid=(0.1, 0.2), high=1.0)
    precond_init_scale: float = number(1.0, "the first Q is so much times the identity")
    clip_rms: float = number(1.1, "largest root mean square of the update")
    update_probability: float | None = number(
        None, "share of steps that update Q; None: falls from 1 after `flat` steps"
    )
    least_probability: float = number(0.03, "where the share ends", grid=(0.05, 0.1))
    flat: int = number(500, "steps that all update Q", grid=(500, 1000, 2000))
    decay_rate: float = number(0.001, "rate at which the share falls")
    momentum_into_precond_update: bool = choice(
        True, "Q whitens the momentum; else gradients", options=(True, False)
    )
    max_size_triangular: int = choice(8192, "largest dimension with a triangular factor", low=0)
    min_ndim_triangular: int = choice(2, "fewest dimensions of a weight with triangular factors", low=0)
    memory_save_mode: str | None = choice(
        None,
        "which factors are diagonal: the largest dimension's, only if it is strictly larger, all",
        options=(None, "one_diag", "smart_one_diag", "all_diag"),
    )
    block_size: int = choice(
        0, "side of the blocks with factors of their own; 0: whole", grid=(128, 256, 512), low=0
    )
    normalize_grads: bool = choice(False, "bring each gradient to length 1", options=(False, True))
    keep_noise: bool = choice(False, "leave the damping noise in the momentum", options=(False, True))
    balance_every: int = choice(100, "updates between balancings of the factors; 0: none", low=0)
    balance_at: tuple[int, ...] = choice((), "further steps that balance them", low=1)
    seed: int = choice(0, "seed of the random draws", low=0)

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        dense = self._dense(shape)
        lead, (rows, cols) = shape[:-2], (1, 1, *shape)[-2:]
        if self.block_size:
            n, rows, cols = block_shape((rows, cols), self._block(dense))
            lead = (*lead, n)
        sizes = {"left": rows, "right": cols}
        factors = {
            f"Q_{side}": Slot((*lead, *factor_shape(sizes[side], side, is_triangular)))
            for side, is_triangular in dense.items()
        }
        return {"momentum_buffer": Slot(shape), **factors}

    def _dense(self, shape: tuple[int, ...]) -> dict[str, bool]:
        """The sides that have a factor, and whether it is triangular."""
        sizes = dict(zip(tuple(SIDES)[-max(1, len(shape[-2:])) :], shape[-2:] or (1,), strict=True))
        diagonal = set(sizes) if self.memory_save_mode == "all_diag" else set()
        largest = max(sizes, key=lambda side: (sizes[side], side == "right"))
        if self.memory_save_mode == "one_diag" or (
            self.memory_save_mode == "smart_one_diag" and len(set(sizes.values())) > 1
        ):
            diagonal.add(largest)
        small = len(sizes) < self.min_ndim_triangular
        return {
            side: not (small or side in diagonal or n == 1 or n > self.max_size_triangular)
            for side, n in sizes.items()
        }

    def _block(self, dense: Mapping[str, bool]) -> tuple[int | None, int | None]:
        """Sides with a diagonal factor are not cut."""
        left, right = (self.block_size if dense.get(side) else None for side in SIDES)
        return left, right

    def phase(self, t: int, turn: int = 0) -> str:
        probability = (self.update_probability, self.least_probability, self.flat, self.decay_rate)
        nth = updates(probability, max(1024, 1 << t.bit_length())).get(t)
        due = nth is not None and self.balance_every > 0 and nth % self.balance_every == 0
        words = {"first": t == 1, "balance": due or t in self.balance_at, "update": nth is not None}
        return " ".join(word for word, said in words.items() if said)

    def corrections(self, t: int) -> dict[str, float]:
        return {"bias1": 1 - self.momentum**t}

    def randoms(self, shape: tuple[int, ...], phase: str) -> dict[str, Draw]:
        return {"probe": Draw("normal", shape)} if "update" in phase else {}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.normalize_grads:
            g = g / (frobenius(g) + 1e-16)
        m = ema_in_one_pass(state["momentum_buffer"], g, self.momentum)
        x = m / step.bias1
        q = {side: state[f"Q_{side}"] for side in SIDES if f"Q_{side}" in state}
        size = self._block(self._dense(tuple(g.shape[-len(q) :]))) if self.block_size else None
        if "first" in step.phase:
            q = {s: scaled_identity(factor, self.precond_init_scale ** (1 / len(q))) for s, factor in q.items()}
        if "balance" in step.phase:
            q = balanced(q)
        if "update" in step.phase:
            seen = x if self.momentum_into_precond_update else g
            mean = seen.abs().mean(dim=(-2, -1), keepdim=True)
            noisy = seen + EPS * mean * step.probe
            fitted = self._fitted(q, blocks(noisy, size), blocks(step.probe, size))
            told = mean > 0 if size is None else mean.unsqueeze(-3) > 0
            q = {side: torch.where(told, fitted[side], q[side]) for side in q}
            if self.keep_noise and self.momentum_into_precond_update:
                x = noisy
        u = apply_transposed(q, apply(q, blocks(x, size)))
        u = u if size is None else join(u, g.shape)
        rms = u.square().mean(dim=(-2, -1), keepdim=True).sqrt()
        u = u * (self.clip_rms / (rms + 1e-12)).clamp(max=1)
        return u, {
            "momentum_buffer": m,
            **{f"Q_{side}": factor for side, factor in q.items()},
        }

    def _fitted(self, q: Mapping[str, Tensor], x: Tensor, probe: Tensor) -> dict[str, Tensor]:
        """One step of Q towards E[Q x (Q x)^T] = E[Q^-T v (Q^-T v)^T], relative to Q itself."""
        a, b = apply(q, x), apply_inverse_transposed(q, probe)
        new = {}
        for side, factor in q.items():
            dense = is_dense(factor)
            t1, t2 = gram(a, side, dense), gram(b, side, dense)
            if dense:
                e = (t1 - t2).triu() * (self.precond_lr / (column_bound(t1 + t2) + tiny(x)))
                new[side] = factor - e @ factor
            else:
                most = (t1 + t2).amax(dim=(-2, -1), keepdim=True) + tiny(x)
                new[side] = factor - self.precond_lr * (t1 - t2) / most * factor
        return new

    @classmethod
    def replays(cls, told: Mapping[str, Any]) -> bool:
        return told["optimizer"] == "psgd_kron" and "kron_torch" in told["source"]

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        probability = h.pop("preconditioner_update_probability")
        return {
            "variant": "official",
            "momentum": h.pop("b1"),
            "update_probability": None if probability == "schedule" else probability,
            "balance_every": 0,
            "balance_at": tuple(t + 1 for t in told["groups"].get("balance_at_steps", ())),
            **h,
        }

    @classmethod
    def drawn(cls, arrays: Mapping[str, Any], t: int, name: str) -> dict[str, str]:
        key = f"extra/V/{t:03d}/{name}"
        return {"probe": key} if key in arrays else {}


def blocks(x: Tensor, size: tuple[int | None, int | None] | None) -> Tensor:
    return x if size is None else cut(x, size)


@functools.lru_cache(maxsize=64)
def updates(probability: tuple[float | None, float, int, float], horizon: int) -> dict[int, int]:
    """The steps up to ``horizon`` that update the preconditioner, and the how manieth update each is.

    A counter that grows by 1 a step makes an update once it reaches 1 / p, and starts again.
    """
    constant, least, flat, rate = probability
    found: dict[int, int] = {}
    last = 0
    for t in range(1, horizon + 1):
        falling = math.exp(min(0.0, -rate * (t - 1 - flat)))
        p = max(least, falling) if constant is None else constant
        if p > 0 and t - last >= 1 / p:
            found[t] = len(found) + 1
            last = t
    return found
