"""Step inside backward (gradient release): each weight moves when its gradient is complete, which is then freed.

A weight's gradient is complete when backward has passed all of its uses, and nothing later in that pass reads the
weight: moved there, it takes the step that ``optimizer.step()`` would have given it, and gradients take the memory
of the largest one instead of all (LOMO, arXiv 2306.09782). What needs all gradients at once, the global norm or a
rule's numbers over all weights, is measured in a backward pass of its own, which moves nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import is_
from typing import Any, Literal

import torch
from torch import Tensor

from steepest.arrangement import Arrangement
from steepest.core.errors import BadInput
from steepest.core.rule import Rule
from steepest.engines import settled
from steepest.optimizer import Optimizer

HORIZON = 1000
"""Steps among which a rule is searched for one that wants measurements; calendars are shorter."""

KERNELS = ("auto", "compiled")
"""Engines that run element rules in native kernels on a CPU."""

Doing = Literal["moving", "holding", "measuring"]

_OPEN: weakref.WeakKeyDictionary[Optimizer, Release] = weakref.WeakKeyDictionary()


class Release:
    """An optimizer whose weights move inside backward, until :meth:`close` or the end of a ``with`` block.

    >>> with steepest.release(optimizer):
    ...     model(x).loss.backward()  # every weight has moved, every gradient is freed

    ``optimizer.step()`` then finds nothing left to do, or moves what has a gradient and was not moved: a weight
    that only an earlier micro-batch has reached, or that was added later. Learning rates are read as each weight
    moves, so a scheduler steps before backward or after it, never within.

    Attributes:
        norm: the global norm of the last step's gradient where :meth:`backward` has noted it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        loss_scale: float | None = None,
        skip_nonfinite: bool = False,
        note_norm: bool = False,
    ) -> None:
        if reason := why_not(optimizer):
            raise BadInput(reason)
        for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value), ("loss_scale", loss_scale)):
            if value is not None and not value > 0:
                raise BadInput(f"release: {name}={value}: it must be above 0, or None for none")
        if optimizer in _OPEN:
            raise BadInput("this optimizer steps inside backward already: close() its first release")
        self.optimizer = optimizer
        self.clip_norm, self.clip_value, self.loss_scale = clip_norm, clip_value, loss_scale
        self.skip_nonfinite, self.note_norm = skip_nonfinite, note_norm
        self.norm: Tensor | None = None
        self._doing: Doing = "moving"
        self._called = False
        self._norms: dict[Tensor, Tensor] = {}
        self._added: dict[Tensor, list[dict[str, Tensor]]] = {}
        self._factor: Tensor | None = None
        self._totals: Mapping[str, Tensor] = {}
        self._places: dict[Tensor, int] = {}
        self._firsts: dict[Tensor, int] = {}
        self._kept: dict[Tensor, tuple[Arrangement, tuple[Tensor, ...]]] = {}
        self._reads_totals = self._has_totals()
        if clip_norm is not None and self._reads_totals:
            raise BadInput(
                f"{optimizer.rule.name()} reads numbers over all gradients as they are after clipping: with "
                "clip_norm that takes a third backward pass; leave clip_norm out"
            )
        self._handles = [
            p.register_post_accumulate_grad_hook(self._complete)
            for group in optimizer.param_groups
            for p in group["params"]
            if p.requires_grad
        ]
        _OPEN[optimizer] = self

    def __enter__(self) -> Release:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """From now on backward leaves gradients, and ``optimizer.step()`` moves the weights."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _OPEN.pop(self.optimizer, None)

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Within it backward adds to gradients and nothing moves: for all micro-batches of a step but the last.

        All gradients are then in memory, until the last backward moves each weight by its sum.
        """
        with self._while("holding"):
            yield

    def backward(self, loss: Tensor) -> Tensor | None:
        """``loss.backward()`` with all that one pass cannot do: the loss scale, and where the global norm or a
        rule's numbers over all weights are wanted, one pass that measures and drops every gradient, and one that
        moves. The graph is kept for the second; gradients accumulated before make one pass suffice.

        Returns: the global norm where it was wanted.
        """
        loss = loss if self.loss_scale is None else loss * self.loss_scale
        with self._by_us():
            if self._doing == "holding":
                loss.backward()
                return None
            self.norm, self._factor, self._totals = None, None, {}
            self._reads_totals = self._has_totals()
            try:
                if not self._two_passes():
                    loss.backward()
                    self._each_left(self._complete)
                    self._put_together()
                    return self.norm
                return self._measured_then_moved(loss)
            finally:
                self._norms, self._added, self._totals, self._factor = {}, {}, {}, None

    def _measured_then_moved(self, loss: Tensor) -> Tensor | None:
        held = any(p.grad is not None for p in self._weights())
        with self._while("holding" if held else "measuring"):
            loss.backward(retain_graph=not held)
        self._each_left(self._measure)
        self._put_together()
        if self.skip_nonfinite and self.norm is not None and not bool(self.norm.isfinite()):
            self.optimizer.zero_grad(set_to_none=True)
            return self.norm
        if held:
            self._each_left(self._move)
        else:
            loss.backward()
            self._each_left(self._complete)
        return self.norm

    # -- one weight ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _complete(self, p: Tensor) -> None:
        """Called by backward when a weight's gradient is complete."""
        if not self._called and (self.loss_scale is not None or (self._doing != "holding" and self._two_passes())):
            wanted = "loss_scale" if self.loss_scale is not None else "what needs all gradients at once"
            raise BadInput(f"release: {wanted} is not in reach of loss.backward(): call release.backward(loss)")
        if self._doing == "holding":
            return
        if self._doing == "measuring":
            self._measure(p)
            p.grad = None
            return
        self._prepare(p)
        self._move(p)

    @torch.no_grad()
    def _measure(self, p: Tensor) -> None:
        """Notes what a complete gradient adds to the numbers over all."""
        self._prepare(p)
        rule = self._rule(p)
        if rule.totals:
            self._added[p] = list(self._arrangement(p, rule).contributions(rule, self._group(p)["peak_lr"]))

    def _prepare(self, p: Tensor) -> None:
        """The gradient without the loss's scale, its norm noted, clipped by value; the norm is that before."""
        assert p.grad is not None
        if self.loss_scale is not None:
            p.grad.div_(self.loss_scale)
        if self.norm is None and self._called and (self.note_norm or self._norm_first()):
            self._norms[p] = torch.linalg.vector_norm(p.grad)
        if self.clip_value is not None:
            p.grad.clamp_(-self.clip_value, self.clip_value)

    @torch.no_grad()
    def _move(self, p: Tensor) -> None:
        assert p.grad is not None
        if self._factor is not None:
            p.grad.mul_(self._factor.to(p.device))
        group, rule = self._group(p), self._rule(p)
        totals = self._totals if rule.totals else {}
        self._arrangement(p, rule).step(rule, group["peak_lr"], totals)
        p.grad = None
        # A kernel writes behind autograd's back: a graph that reads the weight later must be told.
        torch.autograd.graph.increment_version(p)
        self.optimizer._opt_called = True  # type: ignore[attr-defined]  # else torch's schedulers warn

    def _arrangement(self, p: Tensor, rule: Rule) -> Arrangement:
        """Kept for native kernels, a table of pointers; made anew for engines that would keep memory for it."""
        optimizer, state = self.optimizer, self.optimizer.state[p]
        if p in self._kept:
            found, held = self._kept[p]
            if len(held) == len(state) and all(map(is_, held, state.values())) and found.fits(rule, [p]):
                return found
        if len(self._firsts) != len(optimizer._routes):
            self._firsts = optimizer.first_pieces()
        # One weight leaves nothing to stack: its pieces run one by one, in the bits of the loop.
        plain = rule.scope != "element" and optimizer._engine != "compiled"
        found = optimizer.arranged(rule, [p], self._firsts, "loop" if plain else None)
        if rule.scope == "element" and p.device.type == "cpu" and settled(optimizer._engine) in KERNELS:
            self._kept[p] = found, tuple(optimizer.state[p].values())
        return found

    # -- all weights ---------------------------------------------------------------------------------------------

    def _put_together(self) -> None:
        """The numbers over all weights, added in the order in which torch's clip and a plain step add them."""
        if norms := [self._norms[p] for p in self.optimizer._routes if p in self._norms]:
            self.norm = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
        if self.clip_norm is not None and self.norm is not None:
            self._factor = (self.clip_norm / (self.norm + 1e-6)).clamp(max=1.0)
        added = [x for p in self._weights() for x in self._added.get(p, ())]
        how = {name: kind for p in self._added for name, kind in self._rule(p).totals.items()}
        self._totals = {
            name: getattr(torch.stack([x[name] for x in added]), "amax" if kind == "max" else "sum")()
            for name, kind in how.items()
        }

    def _norm_first(self) -> bool:
        return self.clip_norm is not None or self.skip_nonfinite

    def _two_passes(self) -> bool:
        return self._norm_first() or self._reads_totals

    def _has_totals(self) -> bool:
        return any(self.optimizer.rule_of(group).totals for group in self.optimizer.param_groups)

    def _each_left(self, do: Any) -> None:
        """What backward has not called for: gradients of earlier micro-batches, weights that were added later."""
        for p in self._weights():
            if p.grad is not None:
                do(p)

    def _weights(self) -> Iterator[Tensor]:
        return (p for group in self.optimizer.param_groups for p in group["params"])

    def _group(self, p: Tensor) -> dict[str, Any]:
        groups = self.optimizer.param_groups
        if p not in self._places:
            self._places = {q: i for i, group in enumerate(groups) for q in group["params"]}
        return groups[self._places[p]]

    def _rule(self, p: Tensor) -> Rule:
        return self.optimizer.rule_of(self._group(p))

    @contextmanager
    def _while(self, doing: Doing) -> Iterator[None]:
        before, self._doing = self._doing, doing
        try:
            yield
        finally:
            self._doing = before

    @contextmanager
    def _by_us(self) -> Iterator[None]:
        self._called = True
        try:
            yield
        finally:
            self._called = False


def release(
    optimizer: Optimizer,
    *,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    loss_scale: float | None = None,
    skip_nonfinite: bool = False,
    note_norm: bool = False,
) -> Release:
    """Step inside backward: every weight moves as soon as its gradient is complete, and the gradient is freed.

    Args:
        optimizer: one of this package's, of any scope but the whole model; its companion's weights move alike.
        clip_norm: greatest global norm of the gradient, as ``clip_grad_norm_``; takes a second backward pass, made
            by :meth:`Release.backward`.
        clip_value: greatest size of an element of the gradient.
        loss_scale: the loss is multiplied by it in :meth:`Release.backward`, the gradients divided again.
        skip_nonfinite: no weight moves in a step whose gradient has an infinite or undefined norm; takes the
            second pass, too.
        note_norm: the global norm is noted on the way, without a second pass: :meth:`Release.backward` returns it.

    Raises: BadInput for a rule that wants measurements beside the gradient, and for another package's optimizer.
    """
    return Release(
        optimizer,
        clip_norm=clip_norm,
        clip_value=clip_value,
        loss_scale=loss_scale,
        skip_nonfinite=skip_nonfinite,
        note_norm=note_norm,
    )


def why_not(optimizer: torch.optim.Optimizer) -> str | None:
    """Why an optimizer cannot step inside backward, in one line; None if it can."""
    if not isinstance(optimizer, Optimizer):
        return (
            f"{type(optimizer).__name__} is not of this package: only steepest's optimizers step inside backward"
        )
    for group in optimizer.param_groups:
        rule = optimizer.rule_of(group)
        if rule.sends() or optimizer.workers.world > 1:
            return f"{rule.name()}: workers exchange all messages at once: call optimizer.step() after backward"
        if rule.scope == "model":
            return f"{rule.name()} must see the whole model at once: call optimizer.step() after backward"
        asked = (
            (ask for t in range(1, HORIZON) for ask in (*rule.needs(t), *rule.asks(t))) if rule.measures() else ()
        )
        if (ask := next(iter(asked), None)) is not None:
            return (
                f"{rule.name()} wants {ask.kind} measured at all weights of one moment, and inside backward they "
                "move one after another: call estimates.step after backward"
            )
    return None
