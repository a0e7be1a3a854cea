"""Sparse momentum: an element-wise rule on a random share of each weight's entries, drawn anew now and then."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput, UnsupportedTensor
from steepest.core.rule import Draw, Rule, Slot, Step, choice
from steepest.wrappers.made import above, below

MASK = "mask"
SPARE = 6.0
"""Standard deviations of a random mask's count for which there is room: beyond lies one mask in 1e9."""


class Scope:
    """Element by element without masks, a tensor at a time with them; the class's is the former."""

    def __get__(self, rule: Any, kind: Any = None) -> str:
        return "tensor" if rule is not None and rule.thinned else "element"


def sparse(rule: type[Rule]) -> type[Rule]:
    """A subclass of a rule with a ``density``; below 1 only so many entries, and their state, are moved."""
    element = rule.scope == "element"
    # Not super(): torch.compile takes a property that it finds there for its value.
    below_writes: Callable[[Any], bool] = rule.writes_weight.fget  # type: ignore[attr-defined]

    @dataclass(frozen=True)
    class Sparse(rule):  # type: ignore[valid-type, misc]
        if element:
            scope = Scope()

        density: float | None = choice(
            None,
            "share of each weight's entries that has state and moves, drawn anew at each reset; None or 1: all",
            low=0.0,
        )
        seed: int = choice(0, "seed of the random draws", low=0)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.density is not None and not 0 < self.density <= 1:
                raise BadInput(f"{self.name()}: density={self.density!r} must be in (0, 1], or None")
            if not self.thinned:
                return
            if self.scope != "tensor":
                raise BadInput(
                    f"{self.name()}: density={self.density:g} keeps state of single entries, and this rule sees a "
                    f"whole {self.scope}: leave density out"
                )
            if below_writes(self):
                raise BadInput(
                    f"{self.name()}: the rule below writes the weight itself, and there is no direction for the "
                    "masked entries: leave density out"
                )
            if self.decay == "independent":
                raise BadInput(f"{self.name()}: decay='independent' is not for masked weights: use 'before'")

        @property
        def thinned(self) -> bool:
            return self.density is not None and self.density < 1

        @property
        def writes_weight(self) -> bool:
            """With masks: entries outside are not decayed either."""
            return self.thinned or below_writes(self)

        def redraws(self, t: int) -> bool:
            """Whether the mask changes after step t."""
            return False

        def mask_sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
            """Entries in the first mask, and how many there is room for: later masks vary in their count."""
            n, d = math.prod(shape), self.density or 1.0
            return max(1, int(d * n)), min(n, max(1, int(d * n) + math.ceil(SPARE * math.sqrt(n * d * (1 - d)))))

        def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
            if not self.thinned:
                return super().slots(shape)
            return {**super().slots(self.mask_sizes(shape)[1:]), MASK: Slot(shape, torch.bool)}

        def phase(self, t: int, turn: int = 0) -> str:
            words = {"first": t == 1, "redraw": self.redraws(t)}
            word = "+".join(word for word, said in words.items() if said) or "keep"
            return above(word if self.thinned else "all", super().phase(t, turn))

        def randoms(self, shape: tuple[int, ...], phase: str) -> dict[str, Draw]:
            word, _, inner = phase.partition(" ")
            if not self.thinned:
                return super().randoms(shape, inner)
            own = {f"mask_{one}": Draw("uniform", shape) for one in ("first", "redraw") if one in word}
            return super().randoms(self.mask_sizes(shape)[1:], inner) | own

        def mask_packed(
            self, state: dict[str, Tensor], shape: tuple[int, ...]
        ) -> tuple[dict[str, Tensor], Places]:
            """The rule's own state, and the places of the entries that it is of."""
            own = {name: x for name, x in state.items() if name != MASK}
            room = self.mask_sizes(shape)[1:]
            if state[MASK].shape != shape or any(own[n].shape != s.shape for n, s in super().slots(room).items()):
                raise UnsupportedTensor(f"{self.name()}: density is not for sharded weights: leave density out")
            return own, Places(state[MASK], *room)

        def contribution(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
            _, step = below(step)
            if self.thinned:
                state, places = self.mask_packed(state, tuple(g.shape))
                g, w = places.take(g), places.take(w)
            return super().contribution(g, w, step, state)

        def observe(self, kind: str, x: Tensor, w: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
            if self.thinned:
                state, places = self.mask_packed(state, tuple(x.shape))
                x, w = places.take(x), places.take(w)
            return super().observe(kind, x, w, state)

        def update(
            self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            word, step = below(step)
            if not self.thinned:
                return super().update(g, w, step, state)
            shape = tuple(g.shape)
            if "first" in word:  # unless one was given
                first = exactly(step.mask_first, self.mask_sizes(shape)[0])
                state = {**state, MASK: torch.where(state[MASK].any(), state[MASK], first)}
            own, places = self.mask_packed(state, shape)
            if self.decay == "coupled":
                g = g + self.weight_decay * w
            u, new = super().update(places.take(g), places.take(w), step, own)
            mask = step.mask_redraw < self.density if "redraw" in word else state[MASK]
            moved = None if u is None else self.stepped_along(w, places.put(u))
            return None if moved is None else torch.where(places.kept, moved, w), {**new, MASK: mask}

        def stepped_along(self, w: Tensor, u: Tensor) -> Tensor:
            """The weight after a step along u, decay included."""
            shrink = 1 - self.lr * self.weight_decay
            if self.decay == "joined":
                u = u + self.weight_decay * w
            moved = (w * shrink if self.decay == "before" else w) - self.lr * u
            return moved * shrink if self.decay == "after" else moved

    return Sparse


class Places:
    """Where the entries of a mask are, the first ``room`` of them in the order of memory."""

    def __init__(self, mask: Tensor, room: int) -> None:
        flat = mask.reshape(-1)
        rank = flat.cumsum(0) - 1
        kept = flat & (rank < room)
        # One place more than there is room for takes what is not in the mask.
        places = rank.new_zeros(room + 1)
        order = torch.arange(flat.shape[0], device=mask.device)
        self.index = places.scatter(0, torch.where(kept, rank, room), order)[:room]
        self.rank, self.kept = rank.clamp(0, room - 1), kept.view(mask.shape)

    def take(self, x: Tensor) -> Tensor:
        """The entries one after the other; what is beyond them belongs to none."""
        return x.reshape(-1).gather(0, self.index)

    def put(self, entries: Tensor) -> Tensor:
        """A tensor with these entries in their places; what is elsewhere belongs to none."""
        return entries.gather(0, self.rank).view(self.kept.shape)


def exactly(draw: Tensor, count: int) -> Tensor:
    """A mask of so many entries, those with the smallest draws."""
    rank = draw.reshape(-1).argsort(stable=True).argsort(stable=True)
    return (rank < count).view(draw.shape)
