"""What GaLore, APOLLO and Fira share: an element-wise rule in a low-rank subspace of each matrix's gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import Draw, Rule, Slot, Step, choice
from steepest.linalg.low_rank import into, nonzero, sides, singular_subspace
from steepest.wrappers.made import above, below

ADAM_OF_HF: Mapping[str, Any] = {"eps": 1e-6, "eps_form": "hf", "decay": "after", "weight_decay": 0.0}
"""The AdamW that both official codes are built on, projected and not."""
RATES = (5e-3, 1e-2, 2e-2, 4e-2, 8e-2, 1.6e-1)
"""First search grid of the learning rate over AdamW: from the .01 of both READMEs up, where small models lie."""


def low_rank(rule: type[Rule], wrapper: str) -> type[Rule]:
    """A subclass of an element-wise rule that has a subspace for each matrix and the rule's state in it.

    Raises: BadInput for a rule that has no low-rank form.
    """
    if fault := why_not(rule):
        raise BadInput(f"{wrapper} over {rule.name()}: {fault}; wrap an element-wise rule such as adamw or lion")

    @dataclass(frozen=True)
    class LowRank(rule):  # type: ignore[valid-type, misc]
        scope = "matrix"
        companion = {
            # As far from this lr as the two rules' defaults are apart.
            "lr_ratio": 1.0 if rule.name() == "adamw" else 1e-3 / rule.lr,
            "betas": (0.9, 0.999),
            **ADAM_OF_HF,
        }
        recorded = "extra/proj/"
        """Where trajectories keep projectors."""

        rank: float = choice(
            0.25,
            "dimensions of the subspace; below 1: that share of the shorter side",
            grid=(0.125, 0.25, 0.5),
            low=0.0,
        )
        update_proj_gap: int = choice(
            200, "steps between new subspaces; 0: never, projectors are put into the state by hand",
            grid=(50, 200, 500), low=0,
        )  # fmt: skip
        proj: str = choice(
            "svd", "subspace of the gradient's singular vectors, or a random one", options=("svd", "random")
        )
        proj_type: str = choice(
            "std",
            "projected side: the shorter one, the longer one, always left or right, or both",
            options=("std", "reverse_std", "left", "right", "full"),
        )
        svd_dtype: str = choice(
            "working", "type of the decomposition: the weight's working type or float32",
            options=("working", "float32"),
        )  # fmt: skip
        signs: str = choice(
            "largest", "sign of a singular vector: its largest entry is positive, or as LAPACK returns it",
            options=("largest", "lapack"),
        )  # fmt: skip
        spread: bool = choice(
            False, "new subspaces of different matrices fall on different steps", options=(False, True)
        )
        seed: int = choice(0, "seed of the random subspaces", low=0)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.rank == 0 or (self.rank >= 1 and self.rank != int(self.rank)):
                raise BadInput(f"{self.name()}: rank={self.rank!r} must be a whole number, or a share in (0, 1)")
            if self.writes_weight:
                raise BadInput(f"{self.name()}: {rule.name()} writes the weight itself with these options")

        def rank_of(self, rows: int, cols: int) -> int:
            short = min(rows, cols)
            asked = int(self.rank) if self.rank >= 1 else max(1, round(self.rank * short))
            return asked if self.proj == "random" else min(short, asked)

        def factors(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
            """Shapes of the projectors by side."""
            *stack, rows, cols = (1, 1, *shape)[-max(2, len(shape)) :]
            rank = self.rank_of(rows, cols)
            shapes = {"left": (*stack, rows, rank), "right": (*stack, rank, cols)}
            return {side: shapes[side] for side in sides(self.proj_type, rows, cols)}

        def low_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
            *stack, rows, cols = (1, 1, *shape)[-max(2, len(shape)) :]
            factors = self.factors(shape)
            return (*stack, factors.get("left", (rows,))[-1], factors.get("right", (cols, 0))[-2])

        def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
            projectors = {f"projector_{side}": Slot(factor) for side, factor in self.factors(shape).items()}
            return super().slots(self.low_shape(shape)) | projectors

        def phase(self, t: int, turn: int = 0) -> str:
            gap = self.update_proj_gap
            new = gap > 0 and (t == 1 or (t - 1 + turn) % gap == 0)
            word = "refresh" if new else ("keep" if gap else "given")
            return above(word, super().phase(t, turn))

        @property
        def turns(self) -> int:
            return max(1, self.update_proj_gap) if self.spread else 1

        def randoms(self, shape: tuple[int, ...], phase: str) -> dict[str, Draw]:
            word, _, inner = phase.partition(" ")
            drawn = self.factors(shape) if self.proj == "random" and word == "refresh" else {}
            own = {f"projector_{side}": Draw("normal", factor) for side, factor in drawn.items()}
            return super().randoms(self.low_shape(shape), inner) | own

        def subspace(self, g: Tensor, step: Step, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            """The projectors of this step by side."""
            word, rank = step.phase.partition(" ")[0], self.rank_of(*g.shape[-2:])
            old = {side: state[f"projector_{side}"] for side in sides(self.proj_type, *g.shape[-2:])}
            if word == "keep":
                return old
            if word == "given":  # one that was not given must not freeze the weight unseen
                return {side: torch.where(nonzero(p), p, torch.nan) for side, p in old.items()}
            if self.proj == "random":
                return {side: getattr(step, f"projector_{side}") / math.sqrt(rank) for side in old}
            x = g.float() if self.svd_dtype == "float32" else g
            new = singular_subspace(x, tuple(old), rank, self.signs)
            # A gradient of zeros has no subspace: the old one stays, if there is one.
            return {
                side: torch.where(nonzero(g) | ~nonzero(p), new[side].to(g.dtype), p) for side, p in old.items()
            }

        def within(
            self, g: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[dict[str, Tensor], Tensor, Tensor | None, dict[str, Tensor]]:
            """One step in the subspace: projectors, the gradient there, the direction there, new state.

            The weight has no form there: a rule that reads it gets nan, which shows.
            """
            subspace = self.subspace(g, step, state)
            low = into(g, subspace)
            own = {name: slot for name, slot in state.items() if not name.startswith("projector_")}
            nowhere = torch.full((), torch.nan, dtype=g.dtype, device=g.device)
            u, new = super().update(low, nowhere, below(step)[1], own)
            return subspace, low, u, new | {f"projector_{side}": p for side, p in subspace.items()}

        @classmethod
        def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
            """Recorded projectors are given; without them the rule finds its own, with LAPACK's signs."""
            h = told["hyperparameters"]
            adam = {name: h[name] for name in ("lr", "eps", "weight_decay", "correct_bias") if name in h}
            betas = h["betas"] if "betas" in h else (h["beta1"], h["beta2"])
            adam |= {"betas": tuple(betas), "eps_form": "hf", "decay": "after"}
            own = {
                name: h[name] for name in ("rank", "scale", "proj", "proj_type", "update_proj_gap") if name in h
            }
            if h["proj_type"] != "full" and any(key.startswith(cls.recorded) for key in arrays):
                own["update_proj_gap"] = 0
            patched = "patched" in told["dtype"] + told["source"]
            solver = {"signs": "lapack", "svd_dtype": "working" if patched else "float32"}
            return {**adam, **own, **solver, "companion": adam}

        @classmethod
        def fed(cls, t: int, name: str, shape: tuple[int, ...], slots: Mapping[str, Slot]) -> dict[str, str]:
            """A recorded projector of step t + 1, where there is one side."""
            projectors = [slot for slot in slots if slot.startswith("projector_")]
            return dict.fromkeys(projectors, f"{cls.recorded}{t + 1:03d}/{name}") if len(projectors) == 1 else {}

    return LowRank


def why_not(rule: type[Rule]) -> str | None:
    """Why a rule cannot run on projected gradients; None if it can."""
    if rule.scope != "element":
        return f"this rule must see a whole {rule.scope}, not its projection"
    if rule().writes_weight:
        return "this rule writes the weight itself, of which the subspace has no form"
    if rule.measures() or rule.contribution is not Rule.contribution:
        return "what this rule measures beside the gradient has no form in the subspace"
    return None
