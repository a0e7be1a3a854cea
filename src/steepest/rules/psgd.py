from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.rule import DECAYS, Decay, Draw, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema_in_one_pass
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
from steepest.linalg.norm_bound import Probes, spd_bound
from steepest.linalg.philox import draw
from steepest.linalg.procrustes import asymmetry, rotated

PROBES = 32
"""Vectors from which the norm of a factor's gram is bounded."""
ROTATIONS = 10
"""Procrustes steps that PRO4P makes at most."""
SYMMETRIC = 1e-3
"""The relative asymmetry at which it stops."""
DECISION = 2**31
"""Stream of the draw that decides whether a step updates the preconditioner."""


@dataclass(frozen=True)
class PSGD(Rule):
    """PSGD Kron by its inventor: gradients or momentum whitened without inverses or triangular factors."""

    title = "PSGD (Kronecker whitening without inverses)"
    paper = (
        "Li, Preconditioned Stochastic Gradient Descent, arXiv 1512.04202; Pooladzandi & Li, Curvature-Informed "
        "SGD via General Purpose Lie-Group Preconditioners, arXiv 2402.04553; Li, arXiv 2402.11858"
    )
    code = "lixilinx/psgd_torch@a8616f1 psgd.py KronWhiten, wrapped_as_torch_optimizer_for_ddp.py KWNS4"
    pseudocode = """
        at first: Q_i <- s^(1 / dims) * I, s = init_scale or (max over weights of mean(g^4) + damping^4)^(-1/8)
        m <- b * m + (1 - b) * g,  b = min((t - 1) / t, momentum);  y <- g or m  (whiten_grad)
        at an update, before the step or after it (update_preconditioner_first):
          x <- y + (damping + eps |y|) * V,  V ~ N(0, 1);  h <- P x,  P = Q^T Q
          along each dimension i: T <- h h^T, c <- elements / size_i, l <- |T|_2 + c   (a lower bound of the norm)
          L_i <- max(betaL * L_i + (1 - betaL) * l, l);  a <- precond_lr / L_i;  E <- T - c I
          Q_i <- Q_i - a E Q_i, then rotated towards symmetry            (dQ Q0.5EQ1.5; PRO4P: the same on P)
          Q_i <- Q_i - a Q_i E                                           (QEQ)
          Q_i <- (I - a/2 E) Q_i (I - a/2 E), made symmetric             (QUAD)
          Q_i <- Q_i - a triu(E) Q_i, E = T1 - T2, l = |T1 + T2|_2,
            T1 <- A A^T, A = Q x;  T2 <- B B^T, B = Q^-T V               (EQ)
        u <- P m;  u <- u * min(1, clip_0 / rms(u));  u <- u clipped to +-clip_1
        w <- (1 - lr * weight_decay) * w - lr * u
        every balance_every steps with an update: factors to equal largest entries
    """
    scope = "matrix"
    advice = (
        "The inventor's present form of Kron: products alone, no triangular solves, so that factors may be "
        "bfloat16. No study of language models has tuned it: start from Kron's learning rate and decay. "
        "whiten_grad=False with momentum .9 (KWNS4) whitens what is applied, at a lr about four times lower. By "
        "default every step updates the preconditioner: lower update_probability once the loss falls slowly. Its "
        "state is the momentum and a factor for each side but the longer one of a skew matrix (max_skew)."
    )
    quirks = (
        "The official code draws one number a weight to balance once in 100 updates; here steps decide. Balancing "
        "changes neither P nor how it goes on.",
        "Weights with a gradient that is not finite are left out of the first scale, where the official code "
        "would spoil the factors of all; if all first gradients are zero it is 1, not the root of 1 / damping.",
        "Q0.5EQ1.5 stays only nearly symmetric: one second-order rotation a step.",
        "KWNS4 wants precond_lr to fall quickly from .5 to .1, and update_probability from 1 to .01 to .1: set "
        "them in the parameter groups.",
        "KWNS4 computes in bfloat16 throughout; factor_dtype keeps the factors so, and computes in float32.",
        "Filters are flattened to (out, rest) and stacks of matrices treated one by one; the official code gives "
        "every dimension of a larger tensor a factor.",
    )
    variants = {
        "kronwhiten": {},
        "kwns4": {
            "lr": 2e-4,
            "precond_lr": 0.5,
            "init_scale": 1.0,
            "momentum": 0.9,
            "whiten_grad": False,
            "weight_decay": 0.05,
            "factor_dtype": "bfloat16",
        },
    }
    recipe = {"momentum": 0.9, "weight_decay": 0.5}
    recipe_source = (
        "momentum .9 as in psgd_torch's KWNS4; decay .5 from arXiv 2509.02046's optimum of its relative Kron at "
        "the same learning rates (2e-3): no study has tuned this form"
    )

    lr: float = number(1e-3, "learning rate", grid=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2))
    momentum: float = number(0.0, "largest decay rate of the momentum", grid=(0.0, 0.9, 0.95), high=1.0)
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.5, 0.7))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    dQ: str = choice(
        "Q0.5EQ1.5",
        "geometry in which Q moves; PRO4P fits P itself",
        options=("Q0.5EQ1.5", "EQ", "QUAD", "QEQ", "PRO4P"),
    )
    precond_lr: float = number(0.1, "step of the factors", grid=(0.1, 0.2, 0.5), high=1.0)
    init_scale: float | None = number(None, "the first Q is so much times the identity; None: from gradients")
    betaL: float = number(0.9, "decay rate of the smoothness estimate L", grid=(0.9, 0.999), high=1.0)
    damping: float = number(1e-9, "noise added to what is whitened")
    clip: tuple[float, float] = number((2.0, 10.0), "largest root mean square, and element, of the update")
    whiten_grad: bool = choice(True, "P whitens gradients; else the momentum", options=(True, False))
    update_preconditioner_first: bool = choice(
        True, "P sees a gradient before it is applied to it", options=(True, False)
    )
    update_probability: float = number(1.0, "share of steps that update P, by chance")
    update_at: tuple[int, ...] = choice((), "further steps that update it", low=1)
    max_size: int = choice(2**31 - 1, "largest dimension with a dense factor", low=0)
    max_skew: float = choice(
        1.0, "a dimension's factor is dense if its square is at most max_skew times the elements", low=0.0
    )
    balance_every: int = choice(100, "steps between balancings of the factors; 0: none", low=0)
    least_rotations: int = choice(0, "Procrustes steps that PRO4P makes even where P is symmetric", options=(0, 1))
    factor_dtype: str = choice("auto", "type that factors are kept in", options=("auto", "bfloat16"))
    seed: int = choice(0, "seed of the random draws", low=0)

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        slots = {"momentum_buffer": Slot(shape)} if self.momentum != 0 else {}
        lead, dtype = shape[:-2], None if self.factor_dtype == "auto" else torch.bfloat16
        for side, (n, dense) in self._sides(shape).items():
            slots[f"Q_{side}"] = Slot((*lead, *factor_shape(n, side, dense)), dtype)
            slots[f"L_{side}"] = Slot((*lead, 1, 1))
        return slots

    def _sides(self, shape: tuple[int, ...]) -> dict[str, tuple[int, bool]]:
        """Size of each dimension that has a factor, those longer than 1, and whether that is dense."""
        rows, cols = (1, 1, *shape)[-2:]
        sizes = {side: n for side, n in zip(SIDES, (rows, cols), strict=True) if n > 1} or {"right": cols}
        return {
            side: (n, 1 < n <= self.max_size and n * n <= self.max_skew * rows * cols) for side, n in sizes.items()
        }

    def phase(self, t: int, turn: int = 0) -> str:
        chance = self.update_probability
        if 0 < chance < 1:
            chance = float(draw("uniform", 1, seed=self.seed, t=t, stream=DECISION)) < self.update_probability
        update = bool(chance) or t in self.update_at
        balance = update and self.balance_every > 0 and t % self.balance_every == 0
        words = {"first": t == 1, "balance": balance, "update": update}
        return " ".join(word for word, said in words.items() if said)

    def corrections(self, t: int) -> dict[str, float]:
        return {"beta": min((t - 1) / t, self.momentum)}

    def randoms(self, shape: tuple[int, ...], phase: str) -> dict[str, Draw]:
        """The damping noise, and probes named by length and number in the order in which they are used."""
        if "update" not in phase:
            return {}
        probes = {
            name: Draw("normal", (*shape[:-2], PROBES, n))
            for n, names in self._probes(n for n, dense in self._sides(shape).values() if dense).items()
            for name in names
        }
        return {"noise": Draw("normal", shape), **probes}

    def _probes(self, lengths: Iterable[int]) -> dict[int, list[str]]:
        """The names of all probes of each length, for dense factors of these lengths."""
        each = {"Q0.5EQ1.5": 2, "PRO4P": 1 + ROTATIONS}.get(self.dQ, 1)
        return {n: [f"probe_{n}_{i}" for i in range(each * sides)] for n, sides in Counter(lengths).items()}

    @property
    def totals(self) -> dict[str, Any]:
        return {"fourth": "max"} if self.init_scale is None else {}

    def contribution(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
        fourth = g.square().square().mean() if step.phase.startswith("first") else g.new_zeros(())
        return {"fourth": torch.where(fourth.isfinite(), fourth, 0)}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        new, m = {}, g
        if "momentum_buffer" in state:
            m = new["momentum_buffer"] = ema_in_one_pass(state["momentum_buffer"], g, step.beta)
        sides = [side for side in SIDES if f"Q_{side}" in state]
        factors = {side: state[f"Q_{side}"].to(g.dtype) for side in sides}
        if step.phase.startswith("first"):
            factors = self._first(factors, step)
        smooth = {side: state[f"L_{side}"] for side in sides}
        q = factors
        if "update" in step.phase:
            factors, smooth = self._fitted(q, smooth, g if self.whiten_grad else m, step)
            q = factors if self.update_preconditioner_first else q
        u = self._preconditioned(q, m)
        rms = u.square().mean(dim=(-2, -1), keepdim=True).sqrt()
        u = u / (rms / self.clip[0]).clamp(min=1)
        u = u.clamp(-self.clip[1], self.clip[1])
        for side in sides:
            new |= {f"Q_{side}": factors[side], f"L_{side}": smooth[side]}
        return u, new

    def _first(self, q: Mapping[str, Tensor], step: Step) -> dict[str, Tensor]:
        s: Any = self.init_scale
        if s is None:
            s = torch.where(step.fourth > 0, (step.fourth + self.damping**4) ** (-1 / 8), 1)
        power = (2 if self.dQ == "PRO4P" else 1) / len(q)
        return {side: scaled_identity(factor, s**power) for side, factor in q.items()}

    def _preconditioned(self, q: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return apply(q, x) if self.dQ == "PRO4P" else apply_transposed(q, apply(q, x))

    def _fitted(
        self, q: Mapping[str, Tensor], smooth: Mapping[str, Tensor], y: Tensor, step: Step
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Factors one step nearer to where P y is white, and the new estimates of how far such a step may go."""
        x = y + (self.damping + torch.finfo(y.dtype).eps * y.abs()) * step.noise
        by_groups = self.dQ == "EQ"
        h = apply(q, x) if by_groups else self._preconditioned(q, x)
        b = apply_inverse_transposed(q, step.noise) if by_groups else None
        names = self._probes(factor.shape[-1] for factor in q.values() if is_dense(factor))
        probes = Probes({n: [getattr(step, name) for name in own] for n, own in names.items()})
        found, constants = {}, {}
        for side, factor in q.items():
            dense = is_dense(factor)
            t = gram(h, side, dense)
            if b is not None:
                other = gram(b, side, dense)
                e, seen, c = t - other, t + other, 0.0
            else:
                c = math.prod(y.shape[-2:]) / y.shape[SIDES[side]]
                e, seen = t - scaled_identity(t, c), t
            bound = spd_bound(seen, probes.take(factor)) if dense else seen.amax(dim=(-2, -1), keepdim=True)
            size = bound + c
            level = torch.maximum(self.betaL * smooth[side] + (1 - self.betaL) * size, size)
            constants[side] = level
            e = self.precond_lr / level * e
            found[side] = self._moved(factor, e, probes) if dense else self._moved_diagonal(factor, e)
        if "balance" in step.phase:
            found = balanced(found)
        return found, constants

    def _moved(self, q: Tensor, e: Tensor, probes: Probes) -> Tensor:
        match self.dQ:
            case "EQ":
                return q - e.triu() @ q
            case "QEQ":
                return q - q @ e
            case "QUAD":
                p = q - e @ q / 2
                p = p - p @ e / 2
                return (p + p.mT) / 2
            case "Q0.5EQ1.5":
                return rotated(q - e @ q, probes.take(q))
        q = q - e @ q
        for i in range(ROTATIONS):
            skew = asymmetry(q) >= (SYMMETRIC if i >= self.least_rotations else 0)
            if not torch.compiler.is_compiling() and not skew.any():
                break
            q = torch.where(skew, rotated(q, probes.take(q, skew), order=3), q)
        return q

    def _moved_diagonal(self, q: Tensor, e: Tensor) -> Tensor:
        return q * (1 - e / 2).square() if self.dQ == "QUAD" else q * (1 - e)

    @classmethod
    def replays(cls, told: Mapping[str, Any]) -> bool:
        return told["optimizer"] == "psgd_kron" and "psgd_torch" in told["source"]

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = told["hyperparameters"]
        same = ("dQ", "betaL", "damping", "momentum", "weight_decay", "whiten_grad", "update_preconditioner_first")
        chance, skew = h["preconditioner_update_probability"], h["preconditioner_max_skew"]
        decisions = {int(key.split("/")[2]): arrays[key] for key in arrays if key.endswith("/000-rand--")}
        updated = [t for t, drawn in sorted(decisions.items()) if drawn < chance]
        rule = cls(max_skew=sys.float_info.max if skew == "inf" else skew)
        rotations = rule._rotations(arrays, updated[0], told["tensors"]) if updated and h["dQ"] == "PRO4P" else 0
        return {name: h[name] for name in same} | {
            "lr": h["lr_params"],
            "precond_lr": h["lr_preconditioner"],
            "init_scale": h["preconditioner_init_scale"],
            "max_skew": rule.max_skew,
            "clip": tuple(h["grad_clip_max_amps"]),
            "decay": "before" if h.get("decoupled_weight_decay", True) else "coupled",
            "update_probability": 0.0,
            "update_at": tuple(t + 1 for t in updated),
            "least_rotations": rotations,
        }

    def _rotations(self, arrays: Mapping[str, Any], t: int, names: Iterable[str]) -> int:
        """1 if at the first update, where nothing is skew yet, each factor took a second probe."""
        drawn = {name: self.drawn(arrays, t, name) for name in names}
        sides = [self._sides(arrays[keys["noise"]].shape).values() for keys in drawn.values()]
        factors = sum(dense for sizes in sides for _, dense in sizes)
        return int(sum(len(keys) - 1 for keys in drawn.values()) > factors)

    @classmethod
    def drawn(cls, arrays: Mapping[str, Any], t: int, name: str) -> dict[str, str]:
        """Keys extra/draw/<t>/<order>-<kind>-<weight>: the noise, then probes in the order of their use."""
        start, found, lengths = f"extra/draw/{t:03d}/", {}, Counter[int]()
        for key in sorted(key for key in arrays if key.startswith(start)):
            _, kind, weight = key.removeprefix(start).split("-", 2)
            if weight != name:
                continue
            if kind == "randn_like":
                found["noise"] = key
            elif kind == "randn":
                n = arrays[key].shape[-1]
                found[f"probe_{n}_{lengths[n]}"] = key
                lengths[n] += 1
        return found
