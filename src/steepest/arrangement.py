"""The weights of a group that have gradients, as the pieces that an engine runs, kept from step to step.

Making pieces and buckets anew at every step costs a small model more than the update itself, so an arrangement
lasts until what it was made of changes: :meth:`Arrangement.fits` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from steepest.core.job import NO_GRAD, Engine, Moment, Piece, Rounding, Run
from steepest.core.layout import Layout
from steepest.core.lowbit import LowBit
from steepest.core.rule import Rule, Step, working_dtype
from steepest.distributed.means import Talk
from steepest.distributed.workers import Parcel, Workers
from steepest.engines.lowbit import opened

State = dict[str, Tensor]
Cut = Callable[[Tensor], list[Tensor]]


class Arrangement:
    """Members of one group with their pieces, joint step counts, and an engine's runs over them.

    Args: the group's rule, its weights that have a gradient, their state, layouts and the index of each one's
    first piece. The tensors in ``state`` are replaced by views of joint ones where the engine joins them.
    """

    def __init__(
        self,
        engine: Engine,
        rule: Rule,
        members: list[Tensor],
        state: Mapping[Tensor, State],
        layouts: Mapping[Tensor, Layout],
        indices: Mapping[Tensor, int],
        form: LowBit | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        self.form, self.rounding = form, rounding
        self.members, self.turns = members, rule.turns
        self.means: list[Tensor] | None = None
        """What takes the gradients' place in the coming step, where workers send each other something."""
        self.owners: list[tuple[Tensor, int]] = []
        self.facts = facts(members)
        self.plain: list[tuple[Piece, Tensor]] = []
        self.viewed: list[tuple[list[Piece], Cut, Tensor]] = []
        self.steps = torch.stack([state[p]["step"].cpu() for p in members])
        counts = self.steps.tolist()
        self.ahead = [t - counts[0] for t in counts]
        together: dict[tuple[int, int], list[Piece]] = {}
        homes: list[tuple[Piece, dict[str, str], State]] = []
        for i, p in enumerate(members):
            state[p]["step"] = self.steps[i]
            pieces = self._pieces(p, rule, state[p], layouts[p], homes)
            for index, piece in enumerate(pieces, start=indices[p]):
                piece.index = index
                together.setdefault((i, index % self.turns), []).append(piece)
        shared: dict[tuple[float, int], tuple[int, list[Piece]]] = {}
        for (i, turn), pieces in together.items():
            shared.setdefault((self.ahead[i], turn), (i, []))[1].extend(pieces)
        self.shared = [(i, turn, pieces) for (_, turn), (i, pieces) in shared.items()]
        self.runs: list[tuple[int, int, Run]] = [
            (i, turn, engine(rule, pieces)) for i, turn, pieces in self.shared
        ]
        self.pieces = [piece for piece, _, _ in homes]
        for piece, keys, home in homes:
            for name, key in keys.items():
                if piece.state[name] is not home[key]:
                    home[key] = rehomed(piece.state[name], home[key])

    def _pieces(
        self,
        p: Tensor,
        rule: Rule,
        state: State,
        layout: Layout,
        homes: list[tuple[Piece, dict[str, str], State]],
    ) -> list[Piece]:
        assert p.grad is not None
        # Engines are arranged for the type of what they will be given.
        given = p.grad.to(working_dtype(p.dtype)) if rule.sends() else p.grad
        found = pieces_of(p, given, rule, state, layout)
        self.owners.extend((p, part) for part in range(len(found)))
        homes.extend((piece, keys, state) for piece, keys in found)
        pieces = [piece for piece, _ in found]
        if rule.scope == "matrix" and pieces:
            self.viewed.append((pieces, matrices(layout), p))
        else:
            self.plain.extend((piece, p) for piece in pieces)
        return pieces

    def fits(self, rule: Rule, members: list[Tensor]) -> bool:
        """Whether it was made of these members, which lie where they did, and their step counts move together."""
        return (
            len(members) == len(self.members)
            and all(map(_same, members, self.members))
            and rule.turns == self.turns
            and facts(members) == self.facts
            and self._as_far_apart()
        )

    def step(self, rule: Rule, peak_lr: Any, totals: Mapping[str, Tensor]) -> None:
        """One step of every piece with its gradient of now."""
        done = self.steps.tolist()
        with self._gradients():
            for i, turn, run in self.runs:
                run(Moment(rule, int(done[i]) + 1, peak_lr, turn, totals, self.rounding))
            self.means = None
            self.steps.add_(1)  # only now: a step that failed before it moved anything was none

    def parcels(self, rule: Rule, peak_lr: Any, places: Mapping[Tensor, int]) -> list[Parcel]:
        """What this worker sends of each piece."""
        done, found = self.steps.tolist(), {}
        with self._gradients():
            for i, turn, pieces in self.shared:
                moment = Moment(rule, int(done[i]) + 1, peak_lr, turn)
                step, wire = Step(moment.phase, moment.corrections), rule.wire(moment.t)
                for piece in pieces:
                    x = piece.grad
                    if rule.sends():
                        working = working_dtype(piece.weight.dtype)
                        state = opened(rule, piece, self.form)
                        x = rule.message(x.to(working), piece.weight.to(working), step, state)
                    found[piece] = x, wire
        return [
            Parcel(f"{places[p]}.{part}", *found[piece])
            for piece, (p, part) in zip(self.pieces, self.owners, strict=True)
        ]

    def contributions(self, rule: Rule, peak_lr: Any) -> Iterator[dict[str, Tensor]]:
        """What each piece adds to the step's numbers over all weights."""
        done = self.steps.tolist()
        with self._gradients():
            for i, turn, pieces in self.shared:
                moment = Moment(rule, int(done[i]) + 1, peak_lr, turn)
                step = Step(moment.phase, moment.corrections)
                for piece in pieces:
                    working = working_dtype(piece.weight.dtype)
                    state = opened(rule, piece, self.form)
                    yield rule.contribution(piece.grad.to(working), piece.weight.to(working), step, state)

    @contextmanager
    def _gradients(self) -> Iterator[None]:
        """Gives every piece its weight's gradient of now, and nothing afterwards."""
        try:
            for piece, p in self.plain:
                piece.grad = p.grad if type(p.grad) is Tensor else local(p.grad)
            for pieces, views, p in self.viewed:
                for piece, grad in zip(pieces, views(local(p.grad)), strict=True):
                    piece.grad = grad
            for piece, mean in zip(self.pieces, self.means or (), strict=self.means is not None):
                piece.grad = mean
            yield
        finally:
            for piece in self.pieces:
                piece.grad = NO_GRAD

    def _as_far_apart(self) -> bool:
        """Whether nobody has set one member's step count and not another's."""
        first, *_ = counts = self.steps.tolist()
        return [t - first for t in counts] == self.ahead


def exchanged(
    workers: Workers, moving: Sequence[tuple[Arrangement, Rule, Any]], places: Mapping[Tensor, int]
) -> Talk[None]:
    """Puts the mean of all workers' messages in the gradients' place, for each arrangement with its rule and peak
    learning rate."""
    sending = [(a, rule, peak_lr) for a, rule, peak_lr in moving if workers.world > 1 or rule.sends()]
    sent = [a.parcels(rule, peak_lr, places) for a, rule, peak_lr in sending]
    means = iter((yield from workers.mean([parcel for parcels in sent for parcel in parcels])))
    for (arrangement, _, _), parcels in zip(sending, sent, strict=True):
        arrangement.means = [next(means) for _ in parcels]


def totalled(rules: Iterable[Rule], added: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What each weight contributes, put together as the rules say."""
    how = {name: kind for rule in rules for name, kind in rule.totals.items()}
    return {
        name: getattr(torch.stack([x[name] for x in added]), "amax" if kind == "max" else "sum")()
        for name, kind in how.items()
    }


def pieces_of(
    p: Tensor, x: Tensor, rule: Rule, state: State, layout: Layout
) -> list[tuple[Piece, dict[str, str]]]:
    """What the rule sees of a weight, with ``x`` (a gradient, a measurement) cut alike; and where the state of
    each piece lies: slot name to key."""
    weight = local(p.detach())
    if weight.numel() == 0:
        return []
    slots = [key for key in state if key != "step"]
    if rule.scope != "matrix":
        own = {key: local(state[key]) for key in slots}
        return [(Piece(local(x), weight, own), {key: key for key in slots})]
    found = []
    cut = matrices(layout)
    for part, w, g in zip(layout.parts(weight), cut(weight), cut(x), strict=True):
        keys = {key.removesuffix(f".{part}"): key for key in slots if not part or key.endswith(f".{part}")}
        own = {name: state[key] for name, key in keys.items()}
        if weight.ndim < 2:
            own = {n: t.view(1, -1) if t.ndim < 2 else t for n, t in own.items()}
        found.append((Piece(g, w, own), keys))
    return found


def matrices(layout: Layout) -> Cut:
    """Cuts a tensor into the matrices that a layout says it holds; a vector is one row."""
    return lambda x: [part if part.ndim > 1 else part.reshape(1, -1) for part in layout.parts(x).values()]


def _same(a: object, b: object) -> bool:
    return a is b


def facts(members: Iterable[Tensor]) -> list[Any]:
    """Where each weight lies and the type of its gradient: what pieces and kernels were made for."""
    found = []
    for p in members:
        grad = p.grad
        assert grad is not None
        here = p if type(p) is torch.nn.Parameter else local(p)
        found.append((here.data_ptr(), here.dtype, grad.dtype, grad.layout))
    return found


def rehomed(part: Tensor, old: Tensor) -> Tensor:
    """The part of a joint tensor as what it replaces: in its shape, and sharded if that was."""
    if not is_dtensor(old):
        return part.view(old.shape)
    sharded: Any = old
    made: Tensor = sharded.from_local(
        part, sharded.device_mesh, sharded.placements, shape=old.shape, stride=old.stride()
    )
    return made


def is_dtensor(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")


def local(tensor: Tensor | None) -> Tensor:
    """The part of a DTensor that lies here; any other tensor as it is."""
    assert tensor is not None
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
