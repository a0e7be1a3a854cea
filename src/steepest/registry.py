"""Names to rules and contenders: the built-in rules, a file of yours, any ``torch.optim`` class."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steepest.core.errors import BadInput, UnknownName
from steepest.core.lowbit import format_of
from steepest.core.rule import Rule, defaults, hyperparameters, text, variant_of
from steepest.faces import face
from steepest.optimizer import Optimizer, Params
from steepest.routing import Routing
from steepest.rules.adamw import AdamW
from steepest.settings import known, merged, roles_merged
from steepest.zeroth.ways import WAYS


@functools.cache
def rules() -> dict[str, type[Rule]]:
    """The built-in rules by name: every Rule of ``steepest.rules``, every wrapper over what it is known with."""
    known = dict(_plain())
    known |= {name: wrapped(name, known[module.OVER]) for name, module in wrappers().items()}
    return dict(sorted(known.items()))


@functools.cache
def _plain() -> dict[str, type[Rule]]:
    modules = [importlib.import_module(f"steepest.rules.{name}") for name in _modules("steepest.rules")]
    return {rule.name(): rule for module in modules for rule in _rules_of(module)}


@functools.cache
def wrappers() -> dict[str, Any]:
    """The modules of ``steepest.wrappers`` by name; a wrapper is the function of its module's name, from rule to
    rule, and ``OVER`` names the rule that its bare name means."""
    modules = {
        name: importlib.import_module(f"steepest.wrappers.{name}") for name in _modules("steepest.wrappers")
    }
    return {name: module for name, module in modules.items() if hasattr(module, "OVER")}


_WRAPPED: dict[tuple[str, Any], type[Rule]] = {}


def wrapped(wrapper: str, rule: type[Rule]) -> type[Rule]:
    """The rule that a wrapper makes of a rule, the same class for every call."""
    if (wrapper, rule) not in _WRAPPED:
        _WRAPPED[wrapper, rule] = getattr(wrappers()[wrapper], wrapper)(rule)
    return _WRAPPED[wrapper, rule]


def _modules(package: str) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]


def built_in(name: str) -> type[Rule] | None:
    """The built-in rule of that name, ``lion`` or wrapped, ``cautious-lion``; None if there is none."""
    outer, _, inner = name.partition("-")
    if name in rules() or outer not in wrappers():
        return rules().get(name)
    rule = built_in(inner)
    return None if rule is None else wrapped(outer, rule)


def rule_named(name: str) -> type[Rule]:
    """The built-in rule of that name. Raises: UnknownName with the nearest one."""
    rule = built_in(name)
    if rule is None:
        if name in WAYS:
            raise BadInput(
                f"{name} fine-tunes by losses alone and is nothing to pretrain with: in Python, "
                f"steepest.zeroth.ways.way({name!r})(model); `steepest show {name}` tells more"
            )
        known = [*rules(), *(f"{outer}-{inner}" for outer in wrappers() for inner in _plain())]
        raise UnknownName.among("optimizer", name, known, "(`steepest list` shows all)")
    return rule


def class_named(name: str) -> type[Optimizer]:
    """The optimizer class of a built-in rule by the rule's class name. Raises: AttributeError."""
    if (rule := _by_class(name)) is not None:
        return face(rule)
    raise AttributeError(str(UnknownName.among("name in steepest", name, [r.__name__ for r in rules().values()])))


def _by_class(name: str) -> type[Rule] | None:
    """``Lion``, ``Cautious``, ``CautiousLion``, ``CautiousGaLoreLion``; None if there is none."""
    for rule in rules().values():
        if rule.__name__ == name:
            return rule
    for outer in wrappers():
        prefix = outer.replace("_", "")
        if name.lower().startswith(prefix) and (inner := _by_class(name[len(prefix) :])) is not None:
            return wrapped(outer, inner)
    return None


def explain_routing(
    params: Params | Optimizer, optimizer: str | type[Optimizer] = "muon", **options: Any
) -> Routing:
    """Which weight of a model gets which rule and why, without keeping an optimizer.

    Args: a model (or parameters, or an optimizer made before), an optimizer's name or class, and the options
    ``roles``, ``layouts``, ``undecayed`` that its constructor would get. ``print`` the result.
    """
    if isinstance(params, Optimizer):
        return params.routing()
    made = face(rule_named(optimizer)) if isinstance(optimizer, str) else optimizer
    return made(params, **options).routing()


def rule_of_trajectory(told: Mapping[str, Any]) -> type[Rule] | None:
    """The rule that a recorded trajectory is of; None if there is none.

    A wrapper's module may tell with ``over(told)`` which rule was wrapped.
    """
    name = told["optimizer"]
    if hasattr(wrappers().get(name), "over"):
        return wrapped(name, rules()[wrappers()[name].over(told)])
    return next((rule for rule in rules().values() if rule.replays(told)), None)


@dataclass(frozen=True)
class Contender:
    """An optimizer as a race or a training run names it.

    ``name`` is the spec as typed, ``options`` the hyperparameters in it; ``lr_grid`` the first search grid,
    ascending; ``recipe`` the other hyperparameters that a language-model run fixes unless told otherwise, these
    options among them, JSON-able.
    """

    name: str
    kind: type[torch.optim.Optimizer]
    lr_grid: tuple[float, ...]
    recipe: dict[str, Any]
    recipe_source: str = ""
    source: str = field(default="", repr=False)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What a table calls it: a built-in rule by its class's name, with options if any; others as typed."""
        if not self.is_built_in:
            return self.name
        _, _, options = self.name.partition(":")
        return self.kind.__name__ + (f" ({options})" if options else "")

    @property
    def rule(self) -> type[Rule] | None:
        """The rule behind it; None for a foreign class."""
        return self.kind.rule if issubclass(self.kind, Optimizer) else None

    @property
    def is_built_in(self) -> bool:
        """Whether the rule, or what wraps it, is the project's own."""
        return self.rule is not None and built_in(self.rule.name()) is self.rule

    def hyperparameters(self, **overrides: Any) -> dict[str, Any]:
        """The recipe with overrides, companions merged key by key."""
        return tables_merged(self.rule, self.recipe, overrides)

    def of_run(self, steps: int, **overrides: Any) -> Contender:
        """The same for a run of so many steps: where the rule has a hyperparameter ``total_steps`` that nobody
        set, neither here nor in the overrides, it is the run's own length."""
        if self.rule is None or "total_steps" not in hyperparameters(self.rule):
            return self
        given = self.recipe | overrides
        values = defaults(self.rule, given.get("variant")) | given
        told = {"total_steps": steps} if values["total_steps"] is None else {}
        return dataclasses.replace(self, recipe=self.recipe | told)

    def build(
        self,
        model: nn.Module | Sequence[tuple[str, nn.Parameter]],
        *,
        lr: float,
        engine: str = "auto",
        **overrides: Any,
    ) -> torch.optim.Optimizer:
        """The optimizer over the weights of a model or over named ones, the recipe applied, then the overrides."""
        values = self.hyperparameters(**overrides)
        if self.rule is not None:
            return self.kind(model, lr=lr, engine=engine, **values)  # type: ignore[arg-type, call-arg]
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        params = list(model.parameters()) if isinstance(model, nn.Module) else [p for _, p in model]
        try:
            return self.kind(params, lr=lr, **values)  # type: ignore[call-arg]
        except (TypeError, ValueError) as error:
            raise BadInput(f"{self.name}: {error}") from error

    def identity(self, lr: float, **overrides: Any) -> dict[str, Any]:
        """What determines the numbers of a run with this optimizer, JSON-able."""
        values = self.hyperparameters(**overrides)
        if self.rule is None:
            kind = f"{self.kind.__module__}.{self.kind.__qualname__}"
            return {"class": kind, **self._text(), "hyperparameters": _jsonable({"lr": lr, **values})}
        variant = values.pop("variant", None)
        full, own = defaults(self.rule, variant), variant_of(self.rule, variant)
        companion = merged(self.rule.companion or {}, own.get("companion", {}), values.pop("companion", {}))
        by_role = roles_merged(self.rule, self.rule.by_role, own.get("by_role", {}), values.pop("by_role", {}))
        extras = {k: values.pop(k) for k in _FACE if k in values}
        form = format_of(extras.pop("state", None))
        extras |= {"state": form.told()} if form is not None else {}
        if extras.get("rounding") == "nearest":
            del extras["rounding"]
        full |= known(self.rule, values)
        told: dict[str, Any] = {"rule": self.rule.name(), "version": self.rule.version}
        told |= {k: v for k, v in extras.items() if v} | self._text()
        if by_role:
            told["by_role"] = by_role
        if self.rule.companion is not None:
            told["companion"] = {"version": AdamW.version, **merged(defaults(AdamW), companion)}
        return dict(_jsonable(told | {"hyperparameters": full | {"lr": lr}}))

    def _text(self) -> dict[str, str]:
        """A file of the user's has no version to raise: its text is the version."""
        own = bool(self.source) and not self.is_built_in
        return {"text_sha256": hashlib.sha256(self.source.encode()).hexdigest()} if own else {}

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the rule comes from: paper, code, and its complete text."""
        if self.rule is None:
            return {"class": f"{self.kind.__module__}.{self.kind.__qualname__}", "torch": torch.__version__}
        return {
            "paper": self.rule.paper,
            "code": self.rule.code,
            "text": self.source,
            "recipe": self.recipe_source,
        }

    def routing(self, model: nn.Module, **overrides: Any) -> list[dict[str, Any]]:
        """Rows of which weight gets which rule and why."""
        if self.rule is None:
            kind = self.kind.__name__
            return [
                {
                    "parameter": n,
                    "shape": list(p.shape),
                    "role": "",
                    "rule": kind,
                    "why": "takes every weight",
                }
                for n, p in model.named_parameters()
            ]
        built = self.build(model, lr=self.lr_grid[0], **overrides)
        assert isinstance(built, Optimizer)
        return [route.row() for route in built.routing()]

    def state_bytes(self, model: nn.Module, **overrides: Any) -> int:
        """Bytes of state that this optimizer keeps for this model, from a step on a copy of it."""
        trial = copy.deepcopy(model)
        optimizer = self.build(trial, lr=self.lr_grid[0], **overrides)
        if self.rule is None:
            for p in trial.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
        return held_bytes(optimizer)


def held_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of state that an optimizer holds now."""
    tensors = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


def resolve(spec: str) -> Contender:
    """A contender from what a user types.

    ``muon``, ``muon:variant=kimi,momentum=0.9,companion.lr=3e-3`` (a built-in rule, with options),
    ``./mine.py:MyRule`` (a Rule or an optimizer class in a file), ``torch:AdamW`` (a class of torch.optim),
    ``package.module:Class``; options may follow each after another colon.

    Raises: UnknownName with the nearest name; BadInput for a file or option that cannot be used.
    """
    head, _, rest = spec.partition(":")
    if (own := built_in(head)) is not None:
        return _of_rule(spec, own, _options(rest, spec), text(own))
    if not rest:
        rule_named(head)  # no colon: only a built-in rule can be meant
    name, _, options = rest.partition(":")
    if head.endswith(".py"):
        module, source = _module_of(Path(head))
    elif head == "torch":
        module, source = torch.optim, ""
    else:
        try:
            module, source = importlib.import_module(head), ""
        except ImportError as error:
            known_heads = [*rules(), "torch"]
            raise UnknownName.among("optimizer", spec, known_heads, f"({error})") from error
    kind = getattr(module, name, None)
    if not isinstance(kind, type):
        classes = [n for n, v in vars(module).items() if isinstance(v, type)]
        raise UnknownName.among(f"class in {head}", name, classes)
    if issubclass(kind, Rule):
        return _of_rule(spec, kind, _options(options, spec), source or text(kind))
    if issubclass(kind, Optimizer):
        return _of_rule(spec, kind.rule, _options(options, spec), source or text(kind.rule))
    if not issubclass(kind, torch.optim.Optimizer):
        raise BadInput(f"{spec}: {name} is neither a steepest Rule nor a torch.optim.Optimizer")
    told = _options(options, spec)
    return Contender(spec, kind, hyperparameters(Rule)["lr"].grid, told, "the class's own defaults", options=told)


def _of_rule(spec: str, rule: type[Rule], options: dict[str, Any], source: str) -> Contender:
    variant = variant_of(rule, options.get("variant"))
    # A named variant is somebody's own choice: where it speaks, the general recipe is silent.
    recipe = {k: v for k, v in rule.recipe.items() if k not in variant}
    known(rule, {k: v for k, v in options.items() if k not in _FACE})
    recipe = tables_merged(rule, recipe, options)
    grid = variant.get("lr_grid") or hyperparameters(rule)["lr"].grid or hyperparameters(Rule)["lr"].grid
    return Contender(spec, face(rule), tuple(grid), dict(_jsonable(recipe)), rule.recipe_source, source, options)


_FACE = ("variant", "companion", "by_role", "undecayed", "roles", "layouts", "state", "rounding")


def tables_merged(
    rule: type[Rule] | None, recipe: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options over a recipe, the companion's and each role's key by key."""
    values = {**recipe, **options}
    if rule is not None:
        companions = merged(recipe.get("companion", {}), options.get("companion", {}))
        by_role = roles_merged(rule, recipe.get("by_role", {}), options.get("by_role", {}))
        values |= ({"companion": companions} if companions else {}) | ({"by_role": by_role} if by_role else {})
    return values


def _options(written: str, spec: str) -> dict[str, Any]:
    """``betas=(0.9,0.95),companion.lr=3e-3,by_role.head.lr_ratio=0.1`` as a dictionary of dictionaries."""
    options: dict[str, Any] = {}
    for item in filter(None, re.split(r",(?=\s*[A-Za-z_][\w.]*\s*=)", written)):
        key, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"{spec}: option {item!r} is not name=value")
        # A parameter's name, which a layout or a role is declared for, has points of its own.
        *tables, last = key.strip().split(".", 2 if key.strip().startswith("by_role.") else 1)
        target: dict[str, Any] = options
        for table in tables:
            target = target.setdefault(table, {})
        target[last] = literal(value)
    return options


def literal(value: str) -> Any:
    """A number, tuple, True, None as Python reads it; anything else as text."""
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return value.strip()


def _module_of(path: Path) -> tuple[Any, str]:
    if not path.is_file():
        raise BadInput(f"no file {path}: give the path of a Python file with a Rule, as ./mine.py:MyRule")
    name = f"steepest_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look the module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadInput(f"{path} does not import: {type(error).__name__}: {error}") from error
    return module, path.read_text()


def _rules_of(module: Any) -> list[type[Rule]]:
    own = (v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__)
    return [v for v in own if issubclass(v, Rule)]


def _jsonable(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {k: _jsonable(v) for k, v in values.items()}
    return [_jsonable(v) for v in values] if isinstance(values, list | tuple) else values
