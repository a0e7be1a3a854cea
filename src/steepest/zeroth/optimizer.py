"""The step: probe, measure, make the directions again, and let the rule move the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steepest.arrangement import totalled
from steepest.core.errors import BadInput, UnknownName, UnsupportedTensor
from steepest.core.rule import Rule, working_dtype
from steepest.faces import face
from steepest.optimizer import Optimizer, Params
from steepest.registry import rule_named
from steepest.routing import is_sharded
from steepest.zeroth import probes
from steepest.zeroth.directions import Directions, Key, Terms
from steepest.zeroth.log import Log, rounded
from steepest.zeroth.parts import parts_of
from steepest.zeroth.sparsity import Sparsity, ratios
from steepest.zeroth.streamed import Streamed

OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "sides": (2, 1),
    "estimator": ("spsa", "forward-gradient"),
    "sign": (None, "projected", "elementwise"),
    "conservative": (False, True, "official"),
    "sweep": ("gauss-seidel", "jacobi"),
    "restore": (None, "in-place", "copy"),
}
VERSION = 1
"""Of the numbers: raised when the same seed and losses give other steps."""


class ZerothOrder(torch.optim.Optimizer):
    """A rule run on an estimate of the gradient that takes forward passes and no backward one.

        optimizer = steepest.ZerothOrder(model, lr=1e-6)
        loss = optimizer.step(lambda: F.cross_entropy(model(x), y))

    The closure returns the loss of the same batch each time it is called, and is called without autograd. Put the
    model in eval mode: dropout would make every call another function. Weights are perturbed in place by
    regenerated random numbers, and the rule is handed the estimate block by block: beside the rule's own state,
    memory is that of inference.

    Args:
        params: as for every optimizer here; weights with requires_grad are moved.
        rule: an optimizer's name, or its class.
        lr: learning rate; the rule's default if None, which is meant for gradients, not for estimates.
        perturbation: eps, how far from the weights a loss is measured, in numbers of unit variance.
        sides: 2, at +eps z and -eps z; 1, at +eps z and at the weights.
        queries: directions a step, whose mean is the estimate.
        estimator: "spsa", or "forward-gradient": the exact derivative by forward-mode differentiation.
        sign: "projected", the measured slope's sign times z; "elementwise", the sign of slope times z.
        conservative: measure the loss at the new weights, at their mirror image and at the old ones, and go to the
            lowest. "official": by steps of +1, -2 and +1 or +2 estimates, which is inexact for a rule with state.
        noise: what z is: "normal", "sphere" (of radius sqrt(d)), "rademacher" (signs).
        blocks: probe and move these blocks in turn, see :func:`steepest.zeroth.parts.parts_of`.
        sweep: of blocks: "gauss-seidel", each is moved before the next is probed; "jacobi", all are probed first.
        shared_noise: every block begins with the same random numbers, as in the authors' code.
        sparsity: share of each direction that is zero, or a :class:`Sparsity`.
        restore: "in-place", by the same steps back, up to rounding, as the authors do; "copy", exactly, from a
            copy of the weights. None: in place, but a copy for weights narrower than float32, which would drift.
        first_order: an optimizer of the model's late weights, which get their gradient by backpropagation that
            ends where the weights moved here begin.
        seed: of the random directions.
        log: a :class:`Log` to which each step adds what it measured.
        options: the rule's own and the optimizer's: ``momentum``, ``undecayed``, ``by_role``, ``engine``, ...

    After a step, ``losses`` are the losses that were measured in their order, ``slopes`` what came of them, and
    ``decision`` where the conservative form went: -1 along the estimate, 0 nowhere, 1 against it. A loss that is
    not finite moves nothing: the step returns it.

    Raises: BadInput, UnknownName, UnsupportedTensor.
    """

    def __init__(
        self,
        params: Params,
        rule: str | type[Rule] | type[Optimizer] = "sgd",
        lr: float | Tensor | None = None,
        *,
        perturbation: float = 1e-3,
        sides: int = 2,
        queries: int = 1,
        estimator: str = "spsa",
        sign: str | None = None,
        conservative: bool | str = False,
        noise: str = "normal",
        blocks: str | Sequence[str] | None = None,
        sweep: str = "gauss-seidel",
        shared_noise: bool = False,
        sparsity: float | Sparsity | None = None,
        restore: str | None = None,
        first_order: torch.optim.Optimizer | None = None,
        seed: int = 0,
        log: Log | None = None,
        **options: Any,
    ) -> None:
        given = {"sides": sides, "estimator": estimator, "sign": sign, "conservative": conservative}
        for name, value in {**given, "sweep": sweep, "restore": restore}.items():
            if value not in OPTIONS[name]:
                raise UnknownName.among(f"value of {name}", str(value), list(map(str, OPTIONS[name])))
        if not (math.isfinite(perturbation) and perturbation > 0):
            raise BadInput(f"perturbation={perturbation!r} must be a finite number above 0, such as 1e-3")
        if queries < 1:
            raise BadInput(f"queries={queries!r} must be a whole number of at least 1")
        if conservative and (blocks is not None or first_order is not None):
            raise BadInput("conservative compares losses of whole steps: leave blocks and first_order out")
        if conservative == "official" and sign == "elementwise":
            raise BadInput("conservative='official' doubles a step, which a sign cannot: use conservative=True")
        if log is not None and first_order is not None:
            raise BadInput("a log cannot tell what first_order did: leave one of them out")
        self.perturbation, self.sides, self.queries, self.estimator = perturbation, sides, queries, estimator
        self.sign, self.conservative, self.noise, self.seed = sign, conservative, noise, seed
        self.blocks, self.sweep, self.shared_noise, self.restore = blocks, sweep, shared_noise, restore
        self.sparsity = Sparsity(sparsity) if isinstance(sparsity, int | float) else sparsity
        self.first_order, self.log = first_order, log
        made = rule_named(rule) if isinstance(rule, str) else rule
        kind = made if issubclass(made, Optimizer) else face(made)
        self.inner = kind(without(params, first_order), lr, **options)
        super().__init__(self.inner.param_groups, {})
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        self.steps = 0
        self.losses: tuple[float, ...] = ()
        self.slopes: tuple[float, ...] = ()
        self.decision = 0
        self._ratios: list[float] | None = None
        self._directions: dict[str, Directions] = {}
        self._streams: dict[Tensor, Streamed] = {}
        self.parts()

    # -- the weights -------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if hasattr(self, "steps"):
            self.inner.add_param_group(param_group)
        else:
            super().add_param_group(
                param_group
            )  # torch's own constructor, which takes the inner groups as they are

    def parts(self) -> dict[str, Directions]:
        """The blocks by name, in the order of a step."""
        weights = [p for p in self.inner.first_pieces() if p.requires_grad]
        known = {id(p) for one in self._directions.values() for p in one.weights}
        if known and known == set(map(id, weights)):
            return self._directions
        if not weights:
            raise BadInput("zeroth order has no weight to move: every parameter has requires_grad=False")
        for p in weights:
            if is_sharded(p) or p.is_complex():
                raise UnsupportedTensor("zeroth order moves real, unsharded weights: gather them first")
        routes = [self.inner.routes_of(p)[0] for p in weights]
        named = [(r.parameter.partition("[")[0], r.role, p) for r, p in zip(routes, weights, strict=True)]
        if self.sparsity is not None and (self._ratios is None or len(self._ratios) != len(weights)):
            self._ratios = ratios(weights, self.sparsity)
        own = dict(zip(weights, self._ratios or [], strict=False))
        found, first = {}, 0
        for name, members in parts_of(named, self.blocks).items():
            found[name] = self._directions_of(members, first, [own[p] for p in members if p in own])
            first = 0 if self.shared_noise else found[name].end
        self._directions, self._streams = found, {}
        return found

    def _directions_of(self, members: list[Tensor], first: int, own: Sequence[float]) -> Directions:
        return Directions(
            members, seed=self.seed, kind=self.noise, first=first, sparsity=self.sparsity, ratios=own
        )

    # -- the step ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> float:  # type: ignore[override]
        """Measure, move, and return the loss at the weights before the move (two-sided: the mean beside them)."""
        if closure is None:
            raise BadInput("zeroth order measures losses: call step(closure), whose closure returns the loss")
        if wanted := (*self.inner.owed(), *self.inner.asks()):
            raise BadInput(f"{self.inner.rule.name()} wants {wanted[0].kind}, which takes gradients: another rule")
        if self.inner.rule.sends() or self.inner.workers.world > 1:
            raise BadInput(f"{self.inner.rule.name()} here is one of several workers: another rule, and no group=")
        parts, self.decision = self.parts(), 0
        self.steps += 1
        seen: list[float] = []

        def loss() -> float:
            seen.append(float(closure()))
            return seen[-1]

        base = loss() if self.conservative else None
        late = self._backward(closure) if self.first_order is not None else None
        measured: list[tuple[Directions, list[float]]] = []
        values: list[float] = []
        for part in parts.values():
            slopes, value = self._measured(part, loss, closure, seen)
            measured.append((part, slopes))
            values.append(value)
            if self.sweep == "gauss-seidel" and len(parts) > 1:
                self._moved([measured[-1]])
        if base is not None and all(map(math.isfinite, measured[0][1])):
            self.decision = self._lowest(measured, base, loss)
        elif not self.conservative and (self.sweep == "jacobi" or len(parts) == 1):
            self._moved(measured)
        if self.first_order is not None and late is not None and math.isfinite(late):
            self.first_order.step()
        if self.first_order is not None:
            self.first_order.zero_grad()
        self.losses = tuple(seen)
        self.slopes = tuple(c for _, slopes in measured for c in slopes)
        self._note()
        return next((v for v in (base, late) if v is not None), values[0])

    def _measured(
        self, part: Directions, loss: probes.Loss, closure: Callable[[], Any], seen: list[float]
    ) -> tuple[list[float], float]:
        """The slope along each query's direction, and the loss."""
        slopes, values = list[float](), list[float]()
        copied = self._copied()
        for query in range(self.queries):
            key = Key(self.steps, query, self.queries)
            if self.estimator == "forward-gradient":
                slope, value = probes.along(part, key, closure)
                seen.append(value)
            elif self.sides == 2:
                slope, value = probes.two_sided(part, key, self.perturbation, loss, copied)
            else:
                known = values[0] if values else None
                slope, value = probes.one_sided(part, key, self.perturbation, loss, copied, known)
            slopes.append(rounded(slope, self._type()))
            values.append(value)
        return slopes, math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan

    def _backward(self, closure: Callable[[], Any]) -> float:
        """The late weights' gradients; the graph ends where the weights moved here begin."""
        early = [p for part in self._directions.values() for p in part.weights]
        for p in early:
            p.requires_grad_(False)
        try:
            with torch.enable_grad():
                loss = closure()
                loss.backward()
        finally:
            for p in early:
                p.requires_grad_(True)
        return float(loss.detach())

    # -- the move ----------------------------------------------------------------------------------------------

    def _moved(self, measured: Iterable[tuple[Directions, Sequence[float]]], factor: float = 1.0) -> None:
        """Hand the rule the estimate, times a factor."""
        found: dict[Tensor, tuple[Directions, Terms]] = {}
        for part, slopes in measured:
            if all(map(math.isfinite, slopes)):
                terms = [
                    (Key(self.steps, i, self.queries), factor * c) for i, c in enumerate(self._weighed(slopes))
                ]
                found.update((p, (part, terms)) for p in part.weights)
        moving = [
            (self._stream(p), group, rule, partial(self._estimate, p, *found[p]))
            for group in self.param_groups
            for rule in [self.inner.rule_of(group)]
            for p in group["params"]
            if p in found
        ]
        counted = [m for m in moving if m[2].totals and m[1]["rule"] == self.inner.rule.name()]
        added = [x for s, group, rule, z in counted for x in s.contributions(rule, group["peak_lr"], z)]
        totals = totalled([rule for _, _, rule, _ in counted], added)
        for stream, group, rule, estimate in moving:
            own = totals if group["rule"] == self.inner.rule.name() else {}
            stream.step(rule, group["peak_lr"], own, estimate)

    def _weighed(self, slopes: Sequence[float]) -> list[float]:
        if self.sign == "projected":
            slopes = [math.copysign(1.0, c) if c else 0.0 for c in slopes]
        return [c / len(slopes) for c in slopes]

    def _estimate(self, p: Tensor, part: Directions, terms: Terms, start: int, n: int) -> Tensor:
        masked = self.sparsity is None or self.sparsity.in_update
        return part.estimate(p, start, n, terms, self.sign == "elementwise", masked)

    def _stream(self, p: Tensor) -> Streamed:
        if p not in self._streams:
            self._streams[p] = Streamed(self.inner, p)
        return self._streams[p]

    def _lowest(
        self,
        measured: list[tuple[Directions, list[float]]],
        base: float,
        loss: probes.Loss,
        decided: int | None = None,
    ) -> int:
        """Try the step and its mirror image, and stay at the lowest loss; which that is."""
        weights = [p.detach() for part, _ in measured for p in part.weights]
        kept = [p.clone() for p in weights] if self._copies() else []

        def tried(factor: float, count: bool) -> None:
            self._moved(measured, factor)
            for p in () if count else weights_of(measured):
                self._stream(p).uncount()

        def mirrored() -> None:
            for p, start in zip(weights, kept, strict=True):
                wide = working_dtype(p.dtype)
                p.copy_(2 * start.to(wide) - p.to(wide))

        official = self.conservative == "official"
        # Without state or decay a step and its mirror image cancel: no copy is needed to go back.
        tried(1.0, count=official or bool(kept))
        minus = loss()
        if official:
            tried(-2.0, count=True)
        elif kept:
            mirrored()
        else:
            tried(-1.0, count=False)
            tried(-1.0, count=True)
        plus = loss()
        decision = lowest(base, minus, plus) if decided is None else decided
        if official and decision < 1:
            tried(1.0 - decision, count=True)
        elif kept and decision < 0:
            mirrored()
        elif kept and decision == 0:
            torch._foreach_copy_(weights, kept)
        elif not kept and not official:
            for _ in range(1 - decision):
                tried(1.0, count=False)
        return decision

    def _copied(self) -> bool:
        """Whether the weights are restored from a copy."""
        if self.restore is None:
            weights = (p for part in self._directions.values() for p in part.weights)
            return any(p.dtype != working_dtype(p.dtype) for p in weights)
        return self.restore == "copy"

    def _copies(self) -> bool:
        """Whether the conservative form needs the old weights to go back to them."""
        if self.conservative == "official":
            return False
        if self._copied():
            return True
        rules = [self.inner.rule_of(group) for group in self.param_groups]
        return any(rule.slots((2, 2)) or rule.weight_decay != 0 or rule.writes_weight for rule in rules)

    # -- the record --------------------------------------------------------------------------------------------

    def _type(self) -> str:
        weights = (p for part in self._directions.values() for p in part.weights)
        return "d" if any(p.dtype == torch.float64 for p in weights) else "f"

    def told(self) -> dict[str, Any]:
        """What a log's numbers depend on, beside the first weights and the learning rates."""
        kept = ("queries", "sign", "conservative", "noise", "sweep", "shared_noise", "seed")
        return {
            "version": VERSION,
            "rule": self.inner.rule.name(),
            "type": self._type(),
            "width": len(self.parts()) * self.queries + bool(self.conservative),
            "first": self.steps,
            "blocks": {name: [list(p.shape) for p in part.weights] for name, part in self.parts().items()},
            "sparsity": None if self.sparsity is None else [*vars(self.sparsity).values(), *(self._ratios or [])],
            **{name: getattr(self, name) for name in kept},
        }

    def _note(self) -> None:
        if self.log is None:
            return
        if not self.log.told:
            self.log.begin({**self.told(), "first": self.steps - 1})
        self.log.append([*self.slopes, *([float(self.decision)] if self.conservative else [])])

    @torch.no_grad()
    def replay(self, log: Log, after: Callable[[], Any] = lambda: None) -> None:
        """Make the steps of a log from the weights with which it began, without a closure.

        ``after`` is called after each, for a scheduler's step. Raises: BadInput for the log of another run.
        """
        log.begin(self.told())
        self._opt_called = True  # torch's schedulers look whether a step was made before theirs
        parts = list(self.parts().values())
        for row in log.rows:
            self.steps += 1
            slopes = [row[i * self.queries : (i + 1) * self.queries] for i in range(len(parts))]
            measured = [(part, list(own)) for part, own in zip(parts, slopes, strict=True)]
            if not self.conservative:
                self._moved(measured)
            elif all(map(math.isfinite, measured[0][1])):
                self.decision = self._lowest(measured, 0.0, lambda: 0.0, int(row[-1]))
            after()

    def state_dict(self) -> dict[str, Any]:
        """The rule's state, with the seed and the number of steps: that is all of the directions."""
        own = {"version": VERSION, "seed": self.seed, "steps": self.steps, "ratios": self._ratios}
        return {**self.inner.state_dict(), "zeroth": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a state of the same arguments was saved. Raises: BadInput for another optimizer's."""
        own = state_dict.get("zeroth")
        if own is None or own["version"] != VERSION:
            raise BadInput("this state is of no zeroth-order optimizer of this version: begin without it")
        self.inner.load_state_dict({key: value for key, value in state_dict.items() if key != "zeroth"})
        self.seed, self.steps, self._ratios = own["seed"], own["steps"], own["ratios"]
        self._directions = {}
        self.parts()


def lowest(base: float, minus: float, plus: float) -> int:
    """Where the loss is lowest: -1 at the step, 0 where it began, 1 at its mirror image, which wins ties."""
    minus, plus = (math.inf if math.isnan(x) else x for x in (minus, plus))
    if minus > base:
        return 0 if base < plus else 1
    return -1 if minus < plus else 1


def weights_of(measured: Iterable[tuple[Directions, Any]]) -> list[Tensor]:
    return [p for part, _ in measured for p in part.weights]


def without(params: Params, other: torch.optim.Optimizer | None) -> Params:
    """The parameters that the other optimizer does not have."""
    if other is None:
        return params
    late = {p for group in other.param_groups for p in group["params"]}
    if isinstance(params, nn.Module):
        params = list(params.named_parameters())
    rest = [item for item in params if (item[1] if isinstance(item, tuple) else item) not in late]
    if not rest:
        raise BadInput("first_order has every weight: leave the early ones to zeroth order")
    return rest
