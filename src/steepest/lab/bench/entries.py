"""Optimizers made ready to be timed: ours under each engine, foreign classes, peers of the same rule."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from steepest import estimates
from steepest.core.errors import BadInput, RoutingError
from steepest.core.lowbit import format_of
from steepest.core.rule import hyperparameters
from steepest.lab.bench.bounds import Types, Work, period, work_of
from steepest.lab.bench.peers import LOW_BIT, PEERS, Peer, absent, fused, present
from steepest.lab.bench.shapes import Shapes
from steepest.lab.bench.timing import Block, extra_bytes, once, timed
from steepest.optimizer import Optimizer
from steepest.registry import Contender, resolve

LR = 1e-6
"""So small that the weights, which all entries move together, stay where they were."""
RUN = 10_000
"""Steps of the run that the timed ones are taken from, for rules that want to know."""
REFERENCE = "torch AdamW fused"
FEWEST = 3
"""Steps in a block of an optimizer whose steps are all alike."""
MOST = 100
"""Steps in a block at most: a longer calendar is not averaged over."""
Weights = list[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Candidate:
    """What is to be timed, before it has any memory.

    ``work`` is None for a class whose rule is not known: it is counted when the optimizer stands. ``steps``: of
    a block, a whole turn of the calendar.
    """

    name: str
    spec: str
    engine: str
    build: Callable[[Weights], list[torch.optim.Optimizer]]
    work: Work | None
    steps: int
    state: float


class Entry:
    """A candidate with weights, gradients and state. Weights and gradients are the same memory for all entries,
    unless one writes into its gradients."""

    def __init__(self, candidate: Candidate, weights: Weights, device: torch.device) -> None:
        self.candidate, self.device = candidate, device
        mine: Weights = [(name, nn.Parameter(p.detach())) for name, p in weights]
        self.pairs: list[tuple[nn.Parameter, Tensor]] = []
        for (_, parameter), (_, shared) in zip(mine, weights, strict=True):
            assert shared.grad is not None
            parameter.grad = shared.grad
            self.pairs.append((parameter, shared.grad))
        versions = [grad._version for _, grad in self.pairs]
        kept = [] if candidate.engine else [grad.clone() for _, grad in self.pairs]
        self.optimizers = candidate.build(mine)
        self.first_step = once(self.step, device)
        self.refill = any(parameter.grad is None for parameter, _ in self.pairs)
        if kept and versions != [grad._version for _, grad in self.pairs]:
            torch._foreach_copy_([grad for _, grad in self.pairs], kept)
            self.pairs = [(parameter, own) for (parameter, _), own in zip(self.pairs, kept, strict=True)]
            self.refill = True
        del kept
        self.work = self._counted() if candidate.work is None else candidate.work
        self.block()
        self.extra = extra_bytes(self.block, device)

    def step(self) -> None:
        for optimizer in self.optimizers:
            if isinstance(optimizer, Optimizer):  # an estimate is the model's work: the gradient stands for it
                estimates.step(optimizer, lambda ask: dict(self.pairs))
            else:
                optimizer.step()

    def block(self) -> Block:
        """As many steps as a block has, timed."""
        return timed(self._refilled if self.refill else self.step, self.candidate.steps, self.device)

    def _refilled(self) -> None:
        for parameter, grad in self.pairs:
            parameter.grad = grad
        self.step()

    @property
    def state_bytes(self) -> int:
        """Bytes of all tensors of state."""
        return sum(
            tensor.numel() * tensor.element_size()
            for optimizer in self.optimizers
            for state in optimizer.state.values()
            for tensor in _tensors(state)
        )

    def _counted(self) -> Work:
        """Of a foreign class: its tensors of state read and written, the products that torch sees in one step."""
        weights = sum(3 * p.numel() * p.element_size() for p, _ in self.pairs)
        held = [t for o in self.optimizers for state in o.state.values() for t in _tensors(state) if t.ndim]
        side = max((min(p.shape) for p, _ in self.pairs if p.ndim == 2), default=1)
        with FlopCounterMode(display=False) as counter:
            self._refilled()
        flops = float(counter.get_total_flops())
        products: dict[tuple[int, Types], float] = {(side, ("float32", "bfloat16")): flops} if flops else {}
        return Work(float(weights + 2 * sum(t.numel() * t.element_size() for t in held)), products)


def _tensors(state: Any) -> list[Tensor]:
    """Every tensor in a nest of dictionaries and lists."""
    if isinstance(state, Tensor):
        return [state]
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for value in inner for tensor in _tensors(value)]


def contenders(
    specs: Sequence[str], engines: Sequence[str], shapes: Shapes, dtype: torch.dtype, with_peers: bool
) -> list[Candidate]:
    """The reference, the optimizers under each engine, and their peers: each of these once, for the first spec."""
    ours = [c for spec in specs for c in candidates(spec, engines, shapes, dtype)]
    theirs = [c for spec in specs for c in peers(spec, shapes, dtype)] if with_peers else []
    once = {candidate.name: candidate for candidate in reversed(theirs)}
    return [reference(shapes, dtype), *ours, *reversed(once.values())]


def reference(shapes: Shapes, dtype: torch.dtype) -> Candidate:
    """torch's fused AdamW on every weight."""
    return _of_peers("adamw", [Peer(REFERENCE, "torch", fused)], shapes, dtype)[0]


def candidates(spec: str, engines: Sequence[str], shapes: Shapes, dtype: torch.dtype) -> list[Candidate]:
    """One for each engine, or a single one of a class that has none. Raises the errors of registry and routing."""
    contender = told_run(resolve(spec), shapes)
    if contender.rule is None:
        build = functools.partial(_ours, contender, "auto")
        return [Candidate(contender.label, spec, "", build, None, FEWEST, 8.0 * shapes.weights)]
    facts = _facts(planned(contender, shapes, dtype), dtype)
    return [
        Candidate(contender.label, spec, engine, functools.partial(_ours, contender, engine), *facts)
        for engine in engines
    ]


def peers(spec: str, shapes: Shapes, dtype: torch.dtype) -> list[Candidate]:
    """The peers of the spec's rule; one that is not installed says so when it is built."""
    contender = resolve(spec)
    if contender.rule is None:
        return []
    form = format_of(contender.recipe.get("state"))
    of = PEERS if form is None else LOW_BIT if form.bits == 8 else {}
    return _of_peers(spec, of.get(contender.rule.name(), ()), shapes, dtype)


def told_run(contender: Contender, shapes: Shapes) -> Contender:
    """The contender with the width of a head and the length of a run, where its rule wants to know them."""
    contender = contender.of_run(RUN)
    wants = contender.rule is not None and "head_dim" in hyperparameters(contender.rule)
    if not wants or shapes.head_dim is None or "head_dim" in contender.recipe:
        return contender
    return dataclasses.replace(contender, recipe=contender.recipe | {"head_dim": shapes.head_dim})


def planned(contender: Contender, shapes: Shapes, dtype: torch.dtype) -> Optimizer:
    """The optimizer over weights without memory: which weight gets which rule, and what that holds."""
    try:
        plan = told_run(contender, shapes).build(shapes.allocated("meta", dtype), lr=LR)
    except RoutingError as error:
        option = "head_dim=64" if "head_dim" in str(error) else "layouts.NAME=whole"
        own = f"{contender.name}{',' if ':' in contender.name else ':'}{option}"
        raise BadInput(f"{error} (on the command line: {own})") from error
    assert isinstance(plan, Optimizer)
    return plan


def _facts(plan: Optimizer, dtype: torch.dtype) -> tuple[Work, int, float]:
    turns = math.lcm(*(len(period(plan.rule_of(group))) for group in plan.param_groups))
    state = sum(t.numel() * t.element_size() for held in plan.state.values() for t in _tensors(held))
    return work_of(plan, dtype), turns if 1 < turns <= MOST else FEWEST, float(state)


def _ours(contender: Contender, engine: str, weights: Weights) -> list[torch.optim.Optimizer]:
    return [contender.build(weights, lr=LR, engine=engine)]


def _of_peers(spec: str, of: Sequence[Peer], shapes: Shapes, dtype: torch.dtype) -> list[Candidate]:
    plan = planned(resolve(spec), shapes, dtype)
    facts, main = _facts(plan, dtype), plan.rule.name()
    values: dict[str, dict[str, Any]] = {}
    hidden: set[str] = set()
    for group in plan.param_groups:
        values[group["rule"]] = {key: group[key] for key in hyperparameters(type(plan.rule_of(group)))}
        hidden.update(group["param_names"] if group["rule"] == main else ())
    return [
        Candidate(peer.name, spec, "", functools.partial(_theirs, peer, values, main, hidden), *facts)
        for peer in of
    ]


def _theirs(
    peer: Peer, values: dict[str, dict[str, Any]], main: str, hidden: set[str], weights: Weights
) -> list[torch.optim.Optimizer]:
    if not present(peer):
        raise absent(peer)
    own = [p for name, p in weights if name in hidden or not peer.matrices]
    rest = [p for name, p in weights if name not in hidden and peer.matrices]
    made = [peer.make(own, values[main])] if own else []
    return [*made, fused(rest, values["adamw"])] if rest else made
