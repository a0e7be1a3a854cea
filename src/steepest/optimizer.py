"""The torch.optim face of a rule: parameters, groups, state, checkpoints. One class for every rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from steepest.arrangement import Arrangement, exchanged, pieces_of, totalled
from steepest.checkpoints import fitting, matched, owned
from steepest.core.errors import BadInput, RoutingError, UnknownName, UnsupportedTensor
from steepest.core.job import ROUNDINGS, Engine, Rounding
from steepest.core.layout import Layout
from steepest.core.lowbit import LowBit, format_of
from steepest.core.naming import Family, Named, named_of
from steepest.core.rule import Ask, Rule, defaults, hyperparameters, variant_of, working_dtype
from steepest.distributed.means import Talk, dense_mean
from steepest.distributed.workers import workers_of
from steepest.engines import engine as engine_of
from steepest.engines import low_bit
from steepest.engines.lowbit import close, opened
from steepest.heads import by_head_dim, with_head_dims
from steepest.routing import Route, Routing, check, check_patterns, check_roles, layout_of, role_of, routes_of
from steepest.rules.adamw import AdamW
from steepest.settings import known, merged, roles_merged
from steepest.storage import allocated, converted

Params = nn.Module | Iterable[Any]


class Optimizer(torch.optim.Optimizer):
    """A rule as a ``torch.optim.Optimizer``.

    Args:
        params: a model, or what torch optimizers take: tensors, (name, tensor) pairs, or groups of either.
        lr: learning rate, a float or a 0-d tensor; the rule's default if None.
        variant: a named set of hyperparameters (``steepest show NAME`` lists them).
        companion: hyperparameters of the AdamW that takes what a matrix rule is not meant for: ``lr``, or
            ``lr_ratio`` times this lr, ``betas``, ``eps``, ``weight_decay`` and so on.
        by_role: role to the rule's own hyperparameters for weights of that role, over what the rule itself says
            (``steepest show NAME``), such as ``{"head": {"lr_ratio": 0.1}, "norm": {"weight_decay": 0.0}}``.
        roles: parameter name or pattern to role, where the inferred role is wrong.
        layouts: parameter name or pattern to layout, for fused or stacked weights (see core/layout.py).
        undecayed: roles whose weights are not decayed, such as ("embed", "norm", "bias").
        state: how state lies in memory: "full", "8bit", "4bit", or a :class:`steepest.core.lowbit.LowBit` (or its
            fields) with a block size of one's own.
        rounding: of weights narrower than float32: "nearest", "stochastic" (bfloat16) or "kahan", which keeps what
            is lost in one more slot of the weight's type.
        engine: "loop", "batched", "compiled" or "auto".
        group: the process group whose workers train these weights together, "world" for all: each gives the
            gradient of its own batch, and the optimizer averages what the rule sends (do not average before it).
        hyperparameters: the rule's own, by name.

    Each group of ``params`` becomes one torch group per rule and set of hyperparameters, so one scheduler moves
    all of them and one ``state_dict`` holds them. In a group that holds both the rule's and the companion's
    weights, its keys are the rule's, and a ``companion`` key is the companion's; otherwise they are the weights'
    own.

    Raises: BadInput, UnknownName for hyperparameters; RoutingError, UnsupportedTensor for weights.
    """

    rule: ClassVar[type[Rule]]
    _arranged: dict[int, Arrangement]
    _held: list[int]
    _late: tuple[Ask, ...]
    _needed: tuple[Ask, ...] | None

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        *,
        variant: str | None = None,
        companion: Mapping[str, Any] | None = None,
        by_role: Mapping[str, Mapping[str, Any]] | None = None,
        roles: Mapping[str, str] | None = None,
        layouts: Mapping[str, Layout | str | Mapping[str, int]] | None = None,
        undecayed: Iterable[str] = (),
        state: str | LowBit | Mapping[str, Any] | None = None,
        rounding: Rounding = "nearest",
        engine: str = "auto",
        group: Any = None,
        **hyper: Any,
    ) -> None:
        values, own = defaults(self.rule, variant), variant_of(self.rule, variant)
        companions = merged(self.rule.companion or {}, own.get("companion", {}), companion or {})
        if companion and self.rule.companion is None:
            raise BadInput(
                f"{self.rule.name()} takes every weight: companion={dict(companion)} has nothing to move"
            )
        values |= known(self.rule, hyper) | ({} if lr is None else {"lr": lr})
        # Checks the values before anything is allocated; each group resolves its own.
        self._made = self.rule(**self.rule.resolved(values))
        self._by_role = roles_merged(self.rule, self.rule.by_role, own.get("by_role", {}), by_role or {})
        self._rules = {rule.name(): rule for rule in (AdamW, self.rule)}
        self._companion = companions
        self._roles, self._layouts = dict(roles or {}), dict(layouts or {})
        self._undecayed = tuple(undecayed)
        check_roles((*self._roles.values(), *self._undecayed))
        self._form = format_of(state)
        if rounding not in ROUNDINGS:
            raise UnknownName.among("rounding", rounding, ROUNDINGS)
        self._rounding = rounding
        self._engine = engine
        engine_of(engine)
        self.workers = workers_of(group)
        self._layout: dict[Tensor, Layout] = {}
        self._routes: dict[Tensor, list[Route]] = {}
        self._modules: dict[Tensor, Named] = {}
        self._forget()
        if isinstance(params, nn.Module):
            found = with_head_dims(named_of(params), params)
            self._modules = {n.parameter: n for n in found}
            params = [(n.name, n.parameter) for n in found]
        super().__init__(params, values)
        names = [name for group in self.param_groups for name in group.get("param_names", ())]
        names += [name for n in self._modules.values() for name in n.also]
        check_patterns("roles", self._roles, names)
        check_patterns("layouts", self._layouts, names)

    # -- groups ------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, now or later: its weights are routed, and their state is allocated at once."""
        given = dict(param_group)
        members = list(self._named(given.pop("params")))
        companion = merged(self._companion, given.pop("companion", {}))
        family = Family(members)
        routed: dict[tuple[str, bool, tuple[tuple[str, Any], ...]], list[Named]] = defaultdict(list)
        if (
            self.rule.companion is not None
            and not any(n.name for n in members)
            and not self._made.takes("embed")
            and len({n.parameter.ndim >= 2 for n in members}) > 1
        ):
            raise RoutingError(
                f"{self.rule.name()} is for hidden matrices, and unnamed parameters do not tell which these are: "
                f"pass the model, model.named_parameters(), or the matrices alone"
            )
        for named in members:
            role, why = role_of(named, self._roles, family)
            rule = self.rule if self._made.takes(role) else AdamW
            check(named, rule, self.workers.world)
            layout, shape_why = layout_of(named, role, rule, self._layouts, family)
            self._layout[named.parameter] = layout
            self._routes[named.parameter] = routes_of(
                named, role, rule, "; ".join(filter(None, (why, shape_why))), layout
            )
            own_role = self._by_role.get(role, {}) if rule is self.rule else {}
            routed[rule.name(), role in self._undecayed, tuple(own_role.items())].append(named)
        mixed = len({name for name, _, _ in routed}) > 1
        for (name, undecayed, differs), part in routed.items():
            own = name == self.rule.name()
            values = {k: v for k, v in self.defaults.items() if k in hyperparameters(self.rule)} if own else {}
            if not own:
                lr = companion.get("lr", companion.get("lr_ratio", 0) * given.get("lr", self.defaults["lr"]))
                values = defaults(AdamW) | {k: v for k, v in companion.items() if k != "lr_ratio"} | {"lr": lr}
            if own or not mixed:
                values |= known(self._rules[name], {k: v for k, v in given.items() if k != "param_names"})
            lr = values["lr"]
            values |= {k: v for k, v in differs if k != "lr_ratio" and k not in given}
            if isinstance(lr, Tensor) and not isinstance(values["lr"], Tensor):
                values["lr"] = torch.full_like(lr, values["lr"])
            values = self._rules[name].resolved(values)
            if "lr_ratio" in (ratio := dict(differs)):
                values["lr"] = ratio["lr_ratio"] * values["lr"]
            if undecayed:
                values["weight_decay"] = 0.0
            for told, alike in by_head_dim(values, part, name):
                self._rules[name](**told)
                self._add(name, told, alike)

    def _add(self, rule: str, values: dict[str, Any], part: list[Named]) -> None:
        params: list[Any] = [(n.name, n.parameter) if n.name else n.parameter for n in part]
        super().add_param_group({"params": params, "rule": rule, "peak_lr": values["lr"], **values})
        group = self.param_groups[-1]
        for foreign in set(group) & set(self.defaults) - set(values):
            del group[foreign]  # torch fills every group with the defaults of the main rule
        made = self.rule_of(group)
        for p in group["params"]:
            if p.requires_grad:
                self._allocate(p, made)

    def _named(self, params: Any) -> Iterable[Named]:
        for item in [params] if isinstance(params, Tensor) else params:
            name, p = item if isinstance(item, tuple) else ("", item)
            if not isinstance(p, Tensor):
                raise BadInput(f"{self.rule.name()}: params holds a {type(p).__name__}, not a tensor")
            yield self._modules.get(p, Named(name, p))

    def rule_of(self, group: dict[str, Any]) -> Rule:
        """The rule of a group with the hyperparameters that the group holds now."""
        rule = self._rules[group["rule"]]
        return rule(**{name: group[name] for name in hyperparameters(rule)})

    def routes_of(self, p: Tensor) -> tuple[Route, ...]:
        """Which rule a weight got, or each part of it, and why."""
        return tuple(self._routes[p])

    def layout_of(self, p: Tensor) -> Layout:
        """How a weight holds its matrices."""
        return self._layout[p]

    def routing(self) -> Routing:
        """Which weight got which rule and why, in the order in which the weights were given."""
        held = {p for group in self.param_groups for p in group["params"]}
        return Routing(route for p, routes in self._routes.items() if p in held for route in routes)

    # -- the step ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every weight that has a gradient. Gradients are read, never changed."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.workers.hold(self.talk())
        return loss

    def talk(self) -> Talk[None]:
        """The step, as this worker's part of a conversation with the others; a single worker says nothing."""
        if missing := self.owed():
            raise BadInput(
                f"{self.rule.name()} asked for {missing[0].kind} before this step and was given none: call "
                "observe(ask, {parameter: tensor}) for each of owed(), see steepest.estimates"
            )
        if (held := self._held_state()) != self._held:
            self._arranged.clear()  # somebody put other tensors into the state
        yield from self._agree()
        asked = self.asks()
        moving: list[tuple[Arrangement, Rule, dict[str, Any]]] = []
        for index, group in enumerate(self.param_groups):
            rule = self.rule_of(group)
            if members := [p for p in group["params"] if p.grad is not None]:
                moving.append((self._arrangement(index, rule, members), rule, group))
        yield from exchanged(self.workers, [(a, rule, g["peak_lr"]) for a, rule, g in moving], self._places())
        totals = self._totals(moving)
        for arrangement, rule, group in moving:
            arrangement.step(rule, group["peak_lr"], totals if group["rule"] == self.rule.name() else {})
        self._late, self._needed = asked, None
        if held != self._held:
            self._held = self._held_state()

    def _agree(self) -> Talk[None]:
        """Only what all workers have alike can be averaged."""
        members = list(self._places()) if self.workers.world > 1 else []
        moving, state = [p.grad is not None for p in members], [[p, *self.state[p].values()] for p in members]
        yield from self.workers.agree([self._label(p) for p in members], moving, state)

    def _places(self) -> dict[Tensor, int]:
        return {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}

    def _totals(self, moving: list[tuple[Arrangement, Rule, dict[str, Any]]]) -> dict[str, Tensor]:
        """The numbers over all weights that the rule reads in this step."""
        own = [(a, rule, g) for a, rule, g in moving if g["rule"] == self.rule.name() and rule.totals]
        return totalled(
            [rule for _, rule, _ in own],
            [x for a, rule, group in own for x in a.contributions(rule, group["peak_lr"])],
        )

    # -- what is measured beside the gradient ------------------------------------------------------------------

    def asks(self) -> tuple[Ask, ...]:
        """What the coming step wants measured: each is handed to :meth:`observe` after ``step()``."""
        groups = self._own_groups() if self.rule.measures() else ()
        return self.rule_of(groups[0]).asks(self._done() + 1) if groups else ()

    def owed(self) -> tuple[Ask, ...]:
        """What :meth:`observe` must be given before the coming step: what the last one asked for and was not given
        yet; when it has that, what the coming step needs for itself."""
        if self._needed is None:
            groups = self._own_groups() if self.rule.measures() else ()
            self._needed = self.rule_of(groups[0]).needs(self._done() + 1) if groups else ()
        return self._late or self._needed

    def _own_groups(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["rule"] == self.rule.name()]

    def _done(self) -> int:
        """Steps that the rule has made, of its weights' counts the largest."""
        counted = (self.state[p] for group in self._own_groups() for p in group["params"])
        return max((int(state["step"]) for state in counted if state), default=0)

    @torch.no_grad()
    def observe(self, ask: Ask, measured: Mapping[Tensor, Tensor]) -> None:
        """Take a measurement that is owed: each parameter's tensor, of its shape.

        Parameters of the companion are passed over. Raises: BadInput for one that was not asked for.
        """
        if ask not in self.owed():
            raise BadInput(f"{self.rule.name()} did not ask for {ask}, or has it: observe what owed() tells")
        if self.workers.world > 1:
            means = self.workers.hold(dense_mean(list(measured.values()), self.workers.world))
            measured = dict(zip(measured, means, strict=True))
        for group in self._own_groups():
            rule = self.rule_of(group)
            for p in group["params"]:
                if p not in measured or not self.state[p]:
                    continue
                for piece, _ in pieces_of(p, measured[p], rule, self.state[p], self._layout[p]):
                    working = working_dtype(piece.weight.dtype)
                    x, w = piece.grad.to(working), piece.weight.to(working)
                    close(rule, piece, rule.observe(ask.kind, x, w, opened(rule, piece, self._form)), self._form)
        left = tuple(owed for owed in self.owed() if owed != ask)
        if self._late:
            self._late = left
        else:
            self._needed = left

    def _held_state(self) -> list[int]:
        """Which tensors are the state; they cannot be freed and their numbers used again while it is arranged."""
        return [id(t) for state in self.state.values() for t in state.values()]

    def _arrangement(self, index: int, rule: Rule, members: list[Tensor]) -> Arrangement:
        found = self._arranged.get(index)
        if found is None or not found.fits(rule, members):
            found = self._arranged[index] = self.arranged(rule, members, self.first_pieces())
            self._held = []
        return found

    def arranged(
        self, rule: Rule, members: list[Tensor], firsts: Mapping[Tensor, int], engine: str | Engine | None = None
    ) -> Arrangement:
        """These weights of one rule, which have gradients, made ready to be moved together, by this optimizer's
        engine unless another is given. Raises: UnsupportedTensor for a sparse gradient."""
        for p in members:
            if p.grad is not None and p.grad.layout != torch.strided:
                raise UnsupportedTensor(
                    f"{rule.name()}: the gradient of {self._label(p)} is sparse: "
                    "build its Embedding with sparse=False"
                )
            if not self.state[p]:
                self._allocate(p, rule)
        made = engine or self._engine
        if isinstance(made, str):
            made = engine_of(made) if self._form is None else low_bit(made, self._form)
        return Arrangement(made, rule, members, self.state, self._layout, firsts, self._form, self._rounding)

    @property
    def in_codes(self) -> bool:
        """Whether state is kept in codes of few bits."""
        return self._form is not None

    def first_pieces(self) -> dict[Tensor, int]:
        """The index of each weight's first piece among all pieces of its rule, on which random draws depend."""
        firsts, counts = {}, dict.fromkeys(self._rules, 0)
        for p, routes in self._routes.items():
            firsts[p] = counts[routes[0].rule]
            counts[routes[0].rule] += len(routes)
        return firsts

    def _allocate(self, p: Tensor, rule: Rule) -> None:
        self.state[p] = allocated(p, rule, self._layout[p], self._form, self._rounding)

    def _label(self, p: Tensor) -> str:
        return self._routes[p][0].parameter

    # -- checkpoints -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """torch's layout: state under flat keys, tensors only, and lr a float even where it is a tensor here.

        A tensor that is part of a joint one is copied, so that one saved alone does not write its neighbours too.
        """
        packed: dict[str, Any] = super().state_dict()
        packed["state"] = {
            key: {name: owned(tensor) for name, tensor in state.items()} for key, state in packed["state"].items()
        }
        for group in packed["param_groups"]:
            for key in ("lr", "peak_lr"):
                group[key] = float(group[key])
            if self._form is not None:
                group["state_format"] = self._form.told()
        if self.workers.world > 1:
            packed["workers"] = self.workers.told()
        return packed

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of the same weights, matched by name where both sides have names.

        Tensors keep the type they were saved with (torch would cast them to the weight's). A state saved by
        ``torch.optim.AdamW`` loads into :class:`AdamW`. Nothing is changed unless everything fits.

        Raises: BadInput naming the group, weight or slot that does not fit.
        """
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = changed if changed is not None else state_dict
        saved_groups = state_dict["param_groups"]
        if len(saved_groups) != len(self.param_groups):
            raise BadInput(
                f"{self.rule.name()}: the checkpoint has {len(saved_groups)} parameter groups, this optimizer "
                f"{len(self.param_groups)}: build it with the same arguments as when it was saved"
            )
        new: dict[Tensor, dict[str, Tensor]] = {}
        places, mine = {}, self._places()
        for index, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=True)):
            if saved.get("rule", group["rule"]) != group["rule"]:
                raise BadInput(f"group {index} was saved by {saved['rule']!r}, not by {group['rule']!r}")
            for p, key in matched(index, group, saved):
                places[key] = mine[p], p
                if key in state_dict["state"]:
                    theirs, form = state_dict["state"][key], format_of(saved.get("state_format"))
                    if form != self._form:
                        theirs = converted(theirs, p, self.rule_of(group), self._layout[p], form, self._form)
                    new[p] = fitting(self._label(p), p, self.state[p], theirs)
        errors = self.workers.fitting(state_dict.get("workers"), places)
        for group, saved in zip(self.param_groups, saved_groups, strict=True):
            for key, value in saved.items():
                if key in ("params", "param_names", "state_format"):
                    continue
                if key in ("lr", "peak_lr") and isinstance(group.get(key), Tensor):
                    group[key].fill_(float(value))
                elif key in group or key == "initial_lr":
                    group[key] = tuple(value) if isinstance(value, list) else value
        self.workers.errors, self.workers.compared = errors, False
        self._late, self._needed = (), None  # a state is saved between steps, when nothing is pending
        for p, state in new.items():
            self.state[p] = state
        for post in self._optimizer_load_state_dict_post_hooks.values():
            post(self)

    def __getstate__(self) -> dict[str, Any]:
        own = "_rules _companion _by_role _made _roles _layouts _undecayed "
        own += "_engine _form _rounding _layout _routes _modules workers"
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own.split()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()

    def _forget(self) -> None:
        self._late, self._needed = (), None
        self._arranged = {}
        self._held = []
