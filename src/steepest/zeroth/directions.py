"""Random directions z, made again whenever they are needed: nothing of them is ever kept.

A number of z depends on the seed, the step and query, the block of 65,536 consecutive numbers of a weight that it
lies in, and its place there (``linalg/philox.py``): whoever asks for any block gets the same numbers. Where a
compiler is, a CPU makes them in one kernel with what they are added to, twenty times quicker than torch can.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from steepest.core.errors import BuildFailed, UnknownName
from steepest.core.job import Moment, Piece, Run
from steepest.core.rule import Rule, Slot, Step, choice, number, working_dtype
from steepest.engines.native import Inexpressible, native
from steepest.linalg.philox import KINDS, philox
from steepest.zeroth.sparsity import Sparsity

BLOCK = 65536
"""Numbers of a weight that share a counter word: part of what the numbers are."""
ON_GPU = 16
"""Blocks made together on another device than a CPU, where a hundred small launches each would take the time."""
MASKS = 0x5BD1E995
"""What makes another seed of one, so that masks and directions share no numbers."""
KIND = {"normal": "normal", "rademacher": "rademacher", "sphere": "normal"}
"""What each kind of direction is made of; "sphere" is normal, scaled to the length sqrt(d)."""


@dataclass(frozen=True)
class Added(Rule):
    """w <- w + size z: an update rule too, so that the engines' kernels make it."""

    scope = "element"
    draws = {"z": "normal"}  # noqa: RUF012 - declared ClassVar in Rule
    seed: int = choice(0, "seed of the random draws", low=0)
    size: float = number(1.0, "how much of z", low=-math.inf)

    @property
    def writes_weight(self) -> bool:
        return True

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return w + self.size * step.z, {}


@dataclass(frozen=True)
class AddedSigns(Added):
    """The same with signs for z."""

    draws = {"z": "rademacher"}  # noqa: RUF012 - declared ClassVar in Rule


@dataclass(frozen=True)
class Thinned(Added):
    """w <- 0 where u is below the size."""

    draws = {"z": "uniform"}  # noqa: RUF012 - declared ClassVar in Rule

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.where(step.z < self.size, torch.zeros_like(w), w), {}


class Key(NamedTuple):
    """Which direction: of a step, the query of so many."""

    step: int
    query: int
    queries: int

    @property
    def t(self) -> int:
        return self.step * self.queries + self.query


Terms = Sequence[tuple[Key, float]]
"""A sum of directions with their factors: an estimate of the gradient."""


class Directions:
    """The directions in the space of some weights, which are probed together.

    ``first`` counts the blocks of the weights before them, so that no two weights share numbers.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        *,
        seed: int = 0,
        kind: str = "normal",
        first: int = 0,
        sparsity: Sparsity | None = None,
        ratios: Sequence[float] = (),
    ) -> None:
        if kind not in KIND:
            raise UnknownName.among("kind of direction", kind, KIND)
        self.weights, self.seed, self.kind, self.sparsity = list(weights), seed, kind, sparsity
        self.shares = {p: sparsity.share(r) for p, r in zip(weights, ratios, strict=True)} if sparsity else {}
        self.firsts = dict[Tensor, int]()
        for p in self.weights:
            self.firsts[p] = first
            first += -(-p.numel() // BLOCK)
        self.end = first
        self.size = sum(p.numel() for p in self.weights)
        self._buffers = dict[tuple[torch.dtype, torch.device], Tensor]()
        self._makers = dict[tuple[type, int, int, torch.dtype], Run | None]()
        self._lengths = dict[Key, float]()
        self._mover: tuple[list[int], Run | None, list[Tensor]] | None = None

    # -- what the optimizer asks for

    def move(self, key: Key, size: float) -> None:
        """Every weight moves by ``size`` z, in place."""
        rest = self.weights
        if self.sparsity is None:
            run, rest = self._quick()
            if run is not None:
                run(self._moment(key, size * self.factor(key)))
        for p in rest:
            for start, part in blocks(p):
                z = self.estimate(p, start, part.numel(), [(key, size)]).view(part.shape)
                part.copy_(part.to(z.dtype) + z)

    def estimate(
        self, p: Tensor, start: int, n: int, terms: Terms, signs: bool = False, masked: bool = True
    ) -> Tensor:
        """The sum of the terms at ``n`` numbers of a weight from ``start`` on, flat, in the working type.

        Of at most a block's size it is a buffer, which the next call writes anew.
        """
        if n > chunk(p):
            whole = torch.empty(n, dtype=working_dtype(p.dtype), device=p.device)
            for low, part in zip(range(start, start + n, chunk(p)), whole.split(chunk(p)), strict=True):
                part.copy_(self.estimate(p, low, part.numel(), terms, signs, masked))
            return whole
        sizes = [size * self.factor(key) for key, size in terms]  # first: a length is measured in the same buffer
        out = self._buffer(p, n).zero_()
        for (key, _), size in zip(terms, sizes, strict=True):
            self._add(out, p, start, key, size)
        if signs:
            out.sign_()
        if self.sparsity is not None and masked and terms:
            self._thin(out, p, start, terms[0][0].step)
        return out

    def factor(self, key: Key) -> float:
        """What the normal numbers are multiplied with: 1, or what brings them to the sphere of radius sqrt(d)."""
        if self.kind != "sphere":
            return 1.0
        if key not in self._lengths:
            self._lengths.clear()  # of one query at a time: the same key is asked for again and again
            squares = 0.0
            for p in self.weights:
                for start in range(0, p.numel(), chunk(p)):
                    out = self._buffer(p, min(chunk(p), p.numel() - start)).zero_()
                    squares += float(self._add(out, p, start, key, 1.0).double().square().sum())
            self._lengths[key] = math.sqrt(self.size / squares) if squares else 1.0
        return self._lengths[key]

    # -- how the numbers are made

    def _add(self, out: Tensor, p: Tensor, start: int, key: Key, size: float) -> Tensor:
        """``out`` grows by ``size`` z of the numbers from ``start`` on."""
        made = self._maker(out, p, start, self._moment(key, size).rule)
        if made is not None:
            made(self._moment(key, size))
            return out
        index = torch.arange(start, start + out.numel(), device=out.device)
        return out.add_(self._drawn(KIND[self.kind], p, index, (self.seed, key.t), out.dtype), alpha=size)

    def _drawn(self, kind: str, p: Tensor, index: Tensor, seed: tuple[int, int], dtype: torch.dtype) -> Tensor:
        counter = (index % BLOCK, 0, self.firsts[p] + index // BLOCK, 0)
        words = philox(counter, seed)
        return KINDS[kind](words[0], words[1], dtype)

    def _thin(self, out: Tensor, p: Tensor, start: int, step: int) -> None:
        """Zeros where the mask of this step has them."""
        assert self.sparsity is not None
        own = self.sparsity.seed if self.sparsity.seed is not None else self.seed
        seed, epoch = own ^ MASKS, (step - 1) // self.sparsity.every
        made = self._maker(out, p, start, Thinned())
        if made is not None:
            made(Moment(Thinned(seed=seed, size=self.shares[p]), epoch, 1.0))
        else:
            index = torch.arange(start, start + out.numel(), device=out.device)
            out.masked_fill_(self._drawn("uniform", p, index, (seed, epoch), out.dtype) < self.shares[p], 0.0)

    def _moment(self, key: Key, size: float) -> Moment:
        rule = AddedSigns if self.kind == "rademacher" else Added
        return Moment(rule(seed=self.seed, size=size), key.t, 1.0)

    def _buffer(self, p: Tensor, n: int) -> Tensor:
        key = (working_dtype(p.dtype), p.device)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(chunk(p), dtype=key[0], device=key[1])
        return self._buffers[key][:n]

    def _maker(self, out: Tensor, p: Tensor, start: int, rule: Rule) -> Run | None:
        """The kernel of a rule on a buffer, for the block of a weight that begins there."""
        if start % BLOCK or not 0 < out.numel() <= BLOCK:
            return None
        index = self.firsts[p] + start // BLOCK
        key = (type(rule), index, out.numel(), out.dtype)
        if key not in self._makers:
            self._makers[key] = self._kernel([Piece(out, out, {}, index)], rule)
        return self._makers[key]

    def _quick(self) -> tuple[Run | None, list[Tensor]]:
        """One kernel for all weights that lie dense on a CPU, and the other weights."""
        places = [p.data_ptr() for p in self.weights]
        if self._mover is None or self._mover[0] != places:
            dense = [p for p in self.weights if p.device.type == "cpu" and p.is_contiguous()]
            pieces = [
                Piece(part, part, {}, self.firsts[p] + start // BLOCK) for p in dense for start, part in blocks(p)
            ]
            run = self._kernel(pieces, self._moment(Key(0, 0, 1), 1.0).rule)
            quick = set(map(id, dense)) if run is not None else set()
            self._mover = (places, run, [p for p in self.weights if id(p) not in quick])
        return self._mover[1:]

    def _kernel(self, pieces: list[Piece], rule: Rule) -> Run | None:
        if not pieces:
            return None
        try:
            return native(rule, pieces)
        except (Inexpressible, BuildFailed):
            return None


def chunk(p: Tensor) -> int:
    """How many numbers of a weight are made together."""
    return BLOCK * (1 if p.device.type == "cpu" else ON_GPU)


def blocks(p: Tensor) -> Iterator[tuple[int, Tensor]]:
    """A weight as flat views, each with the number it starts at; one that has no flat view whole."""
    if not p.numel():
        return
    weight = p.detach()
    if not weight.is_contiguous():
        yield 0, weight
        return
    for i, part in enumerate(weight.view(-1).split(chunk(p))):
        yield i * chunk(p), part
