"""What an optimizer's update rule is: hyperparameters, state slots, scope, and one pure function.

A rule is a frozen dataclass. Its fields are the hyperparameters (:func:`number`, :func:`choice`), its class
attributes say who wrote it, what it must see whole and what it keeps between steps, and :meth:`Rule.update`
is the paper's box. Nothing here, and nothing in a rule, knows how the rule is run: that is an engine's work.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from steepest.core.errors import BadInput, UnknownName
from steepest.core.naming import HIDDEN

Scope = Literal["element", "tensor", "matrix", "model"]
"""What one call must see whole: nothing beyond an element, a tensor of any shape, two dimensions, or the model."""

Decay = Literal["before", "after", "coupled", "independent", "joined", "fixed"]
"""Where weight decay acts, see :func:`steepest.engines.write.stepped`."""

DECAYS: tuple[Decay, ...] = ("before", "after", "coupled", "independent")


@dataclass(frozen=True)
class Hyper:
    """What is known of a hyperparameter beside its default.

    ``grid`` is the first search grid, ascending (for a pair such as ``betas``: one grid each); ``options`` are
    the values of a choice. A number may change between steps and reaches a compiled rule as a 0-d tensor; a
    choice decides the text of the rule and reaches it as a Python value. ``optional``: None is a value too.
    """

    meaning: str
    grid: tuple[Any, ...] = ()
    options: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = math.inf
    optional: bool = False

    @property
    def is_number(self) -> bool:
        return self.options is None

    def fault(self, value: Any, default: Any) -> str | None:
        """Why the value cannot be, in words that follow ``name=value``; None if it can."""
        if value is None and (default is None or self.optional):
            return None
        if isinstance(default, str) and not self.options:
            return None
        if self.options:
            return None if value in self.options else f"is not one of {', '.join(map(repr, self.options))}"
        several = isinstance(default, tuple)
        if several and not isinstance(value, tuple | list):
            return f"must be {len(default) or 'a tuple of'} numbers, such as {default or (1, 10)}"
        if several and default and len(value) != len(default):
            return f"must be {len(default)} numbers, such as {default}"
        whole = not self.is_number and (isinstance(default, int) or default == ())
        return next(filter(None, (self._fault(one, whole) for one in (value if several else (value,)))), None)

    def _fault(self, one: Any, whole: bool) -> str | None:
        if isinstance(one, Tensor):
            return None  # the caller's own lr on a device: reading it would wait for that device at every step
        number = isinstance(one, int if whole else Real) and not isinstance(one, bool)
        if number and self.low <= one < self.high and math.isfinite(one):
            return None
        kind = f"must be a {'whole' if whole else 'finite'} number"
        if self.high < math.inf:
            return f"{kind} in [{self.low:g}, {self.high:g})"
        return f"{kind} of at least {self.low:g}" if self.low > -math.inf else kind


def number(
    default: Any, meaning: str, *, grid: tuple[Any, ...] = (), low: float = 0.0, high: float = math.inf
) -> Any:
    """A hyperparameter that is a number, or a pair of numbers, in [low, high)."""
    return field(default=default, metadata={"hyper": Hyper(meaning, grid, low=low, high=high)})


def choice(
    default: Any,
    meaning: str,
    *,
    options: tuple[Any, ...] = (),
    grid: tuple[Any, ...] = (),
    low: float = -math.inf,
    optional: bool = False,
) -> Any:
    """A hyperparameter that decides the text of the rule. Without ``options`` any number from ``low`` on of the
    default's type; with a default of () any number of whole ones."""
    return field(default=default, metadata={"hyper": Hyper(meaning, grid, options, low=low, optional=optional)})


@dataclass(frozen=True)
class Slot:
    """One tensor of state.

    ``dtype`` None: the working type, which is float32 for weights of less. ``signed``: False where it holds no
    negative number, such as a mean of squares, so that codes of few bits need no sign.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None
    signed: bool = True


Random = Literal["uniform", "normal", "rademacher"]
Probe = Literal["normal", "rademacher"]


@dataclass(frozen=True)
class Draw:
    """A random tensor that an update reads, see ``linalg/philox.py``."""

    kind: Random
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Ask:
    """What a rule wants measured beside the gradient, at the weights ``before`` or ``after`` the step's move.

    gauss_newton_bartlett: the gradient of the mean loss on labels that the model itself draws. hutchinson: a
    random vector, drawn from ``probe``, times the Hessian's product with it. next_gradient: the gradient on the
    next step's batch. ``whole``: on all of the step's batch, however small a part may do for other estimates.
    """

    kind: Literal["gauss_newton_bartlett", "hutchinson", "next_gradient"]
    at: Literal["before", "after"]
    probe: Probe = "normal"
    whole: bool = False


@dataclass(frozen=True)
class Wire:
    """How a step's messages cross to the other workers, see ``distributed/``.

    ``onebit``: as signs with one scale each; what that loses is kept and added to the next message. ``joined``:
    all of them as one vector, with one scale.
    """

    onebit: bool = False
    joined: bool = False


DENSE = Wire()


class Step:
    """The moment of an update: the calendar's phase, and the numbers that depend on the step alone.

    ``step.phase`` is a word from :meth:`Rule.phase`; every key of :meth:`Rule.corrections`, of
    :attr:`Rule.totals` (floats or 0-d tensors) and of :meth:`Rule.randoms` is an attribute.
    """

    def __init__(self, phase: str, corrections: Mapping[str, Any]) -> None:
        self.phase = phase
        for name, value in corrections.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:  # reached only for a name that the rule does not compute
        raise AttributeError(f"neither corrections(), totals nor randoms() gives a {name!r}")


@dataclass(frozen=True)
class Rule:
    """Base of every rule. See ``rules/lion.py`` for the shortest and ``rules/soap.py`` for the longest.

    ``lr``, ``weight_decay`` and ``decay`` are applied by the engine, so :meth:`update` never reads them (unless
    :attr:`writes_weight`); a subclass declares them again with its own defaults and grids.
    """

    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    code: ClassVar[str] = ""
    pseudocode: ClassVar[str] = ""
    scope: ClassVar[Scope] = "element"
    quirks: ClassVar[tuple[str, ...]] = ()
    advice: ClassVar[str] = ""
    """When to use it and when not, in a few plain sentences with what is known of it: for its page."""
    version: ClassVar[int] = 1
    """Semantic version of the numbers: raised when the same inputs give other weights."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of hyperparameters, the first being the constructor's default. Beside these a variant may hold
    ``by_role`` and ``companion``, and its own ``lr_grid`` where its learning rate is of another size."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """What a language-model race fixes unless told otherwise, with ``recipe_source`` saying where from."""
    recipe_source: ClassVar[str] = ""
    draws: ClassVar[Mapping[str, Random]] = {}
    """Random tensors of the weight's shape that :meth:`update` reads as ``step.<name>``, see ``linalg/philox.py``.
    A rule that has some declares ``seed: int = choice(0, "seed of the random draws", low=0)``."""
    companion: ClassVar[Mapping[str, Any] | None] = None
    """Hyperparameters of the AdamW that moves the weights that the rule is not meant for, see :meth:`takes`; None
    for a rule that takes every weight."""
    recorded_as: ClassVar[tuple[str, ...]] = ()
    """Other names under which its trajectories are recorded."""
    by_role: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The rule's own hyperparameters for weights of a role, where they differ; ``lr_ratio``, times lr, is one."""

    lr: float = number(1e-3, "learning rate", grid=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)

    def __post_init__(self) -> None:
        given = {f.name: f.default for f in dataclasses.fields(self)}
        for name, hyper in hyperparameters(type(self)).items():
            if fault := hyper.fault(getattr(self, name), given[name]):
                raise BadInput(f"{type(self).name()}: {name}={getattr(self, name)!r} {fault}")

    @classmethod
    def name(cls) -> str:
        """The rule's name on the command line and in records: the class name in lower case."""
        return cls.__name__.lower()

    @classmethod
    def resolved(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters that a group holds, from those that a user gave: where one decides another, such as
        an lr of None. Raises: BadInput where two contradict each other."""
        return dict(values)

    def takes(self, role: str) -> bool:
        """Whether the rule itself moves weights of this role; its companion moves the others."""
        return self.companion is None or role in HIDDEN

    @property
    def writes_weight(self) -> bool:
        """Whether :meth:`update` returns the new weight instead of a direction: a rule whose paper has its own
        decay, or keeps the learning rate inside its state."""
        return False

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        """The state of one weight of this shape, by name; torch's names where torch has the same thing."""
        raise NotImplementedError

    def phase(self, t: int, turn: int = 0) -> str:
        """The calendar: which branch of the text step t (1, 2, ...) takes. One compiled kernel per phase.

        ``turn`` in [0, turns) is the piece's place in a calendar that is spread over steps.
        """
        return ""

    @property
    def turns(self) -> int:
        """Over how many steps the calendar's work is spread: pieces of different turns have different phases."""
        return 1

    def corrections(self, t: int) -> dict[str, float]:
        """Numbers that depend on the step alone (bias corrections), computed once a step in double precision."""
        return {}

    def randoms(self, shape: tuple[int, ...], phase: str) -> dict[str, Draw]:
        """The random tensors that an update in this phase reads as ``step.<name>``, for a piece of this shape.

        In a stack they, like state, have the stack's dimension in front: a number for each matrix is (1, 1).
        An element rule draws in the weight's shape alone: it declares ``draws``. A rule with any needs ``seed``.
        """
        return {name: Draw(kind, shape) for name, kind in self.draws.items()}

    @property
    def totals(self) -> Mapping[str, Literal["sum", "max"]]:
        """Numbers over all weights that the rule moves in a step, read as ``step.<name>``, and how what each
        weight contributes is put together."""
        return {}

    def contribution(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What one weight adds to :attr:`totals`, each a 0-d tensor; called before any weight moves."""
        raise NotImplementedError

    def needs(self, t: int) -> tuple[Ask, ...]:
        """What step t itself reads beside the gradient: measured on its batch, at the weights before it, and
        handed to :meth:`observe` before the step."""
        return ()

    def asks(self, t: int) -> tuple[Ask, ...]:
        """What must be measured for step t beside the gradient, and handed to :meth:`observe` after the step."""
        return ()

    @classmethod
    def measures(cls) -> bool:
        """Whether the rule may want anything measured at all."""
        return cls.asks is not Rule.asks or cls.needs is not Rule.needs

    def observe(self, kind: str, x: Tensor, w: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The slots that change with a measurement ``x`` of the weight's shape, out of place."""
        raise NotImplementedError

    def message(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> Tensor:
        """What a worker makes of its own gradient and sends: :meth:`update` gets the mean of all workers' messages
        in the gradient's place, of a single worker its message."""
        return g

    def wire(self, t: int) -> Wire:
        """How the messages of step t cross."""
        return DENSE

    @classmethod
    def sends(cls) -> bool:
        """Whether workers send anything but their gradients."""
        return cls.message is not Rule.message

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The paper's box: (gradient, weight, step, state) to (direction, new state), out of place.

        Works over leading batch dimensions as far as ``scope`` says. The engine then moves the weight by
        ``- lr * direction``; a direction of None leaves the weight alone, decay included.
        """
        raise NotImplementedError

    # How ``steepest verify`` replays a recorded trajectory; t counts its steps from 0.

    @classmethod
    def replays(cls, told: Mapping[str, Any]) -> bool:
        """Whether a trajectory's JSON is of this rule; several rules may share the name of an optimizer."""
        # A wrapper inherits from the rule that it wraps, and is not recorded under that rule's names.
        return told["optimizer"] in (cls.name(), *vars(cls).get("recorded_as", ()))

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments from a trajectory's JSON and arrays. ``groups`` among them gives tensors
        hyperparameters of their own, ``roles`` and ``layouts`` what their names do not tell, ``released`` the
        options of :func:`steepest.release` where the steps were made inside backward."""
        raise NotImplementedError

    @classmethod
    def fed(cls, t: int, name: str, shape: tuple[int, ...], slots: Mapping[str, Slot]) -> dict[str, str]:
        """State that is given after step t (-1: before the first) because gradients leave it undetermined: slot
        name to key of the trajectory's arrays."""
        return {}

    def refitted(self, state: Mapping[str, Tensor], fed: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The slots to write when some are fed: these, and what is kept in terms of them."""
        return fed

    @classmethod
    def observed(cls, t: int, name: str) -> dict[str, str]:
        """Measurements of step t, observed before or after it as the rule wants them: kind to key, used where the
        arrays have the key."""
        return {}

    @classmethod
    def drawn(cls, arrays: Mapping[str, Any], t: int, name: str) -> dict[str, str]:
        """Recorded random tensors of step t: name of the draw to key of the trajectory's arrays."""
        return {}

    @classmethod
    def workers(cls, told: Mapping[str, Any]) -> tuple[str, ...]:
        """Where the arrays hold the gradients of each worker, as what comes before "/step/tensor"; none: all have
        the shared ones."""
        return ()

    def state_bytes(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
        """Bytes of state for one weight of this shape and type, the 4-byte step counter included."""
        working = working_dtype(dtype)
        return 4 + sum(
            math.prod(slot.shape) * (slot.dtype or working).itemsize for slot in self.slots(shape).values()
        )


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a weight of this type is updated: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def run_length(rule: Any) -> int:
    """The rule's ``total_steps``, which the lab supplies where it is None (``Contender.of_run``); elsewhere only
    the caller knows how long the run is. Raises: BadInput where nobody told."""
    if rule.total_steps is None:
        raise BadInput(
            f"{rule.name()}: total_steps=None: nothing tells how long the run is: give total_steps=, the number "
            "of optimizer steps of the whole run"
        )
    return int(rule.total_steps)


def hyperparameters(rule: type[Rule]) -> dict[str, Hyper]:
    """The hyperparameters of a rule by name, in the order of its text."""
    return _hyperparameters(rule)  # type: ignore[arg-type]


@functools.cache
def _hyperparameters(rule: Any) -> dict[str, Hyper]:
    return {f.name: f.metadata["hyper"] for f in dataclasses.fields(rule) if "hyper" in f.metadata}


def defaults(rule: type[Rule], variant: str | None = None) -> dict[str, Any]:
    """Every hyperparameter's default, under a named variant if one is given."""
    values = {f.name: f.default for f in dataclasses.fields(rule) if "hyper" in f.metadata}
    return values | {k: v for k, v in variant_of(rule, variant).items() if k in values}


def variant_of(rule: type[Rule], variant: str | None) -> Mapping[str, Any]:
    """What a named variant sets: hyperparameters, and ``companion`` and ``by_role`` for the optimizer face."""
    if variant is None:
        return {}
    if variant not in rule.variants:
        raise UnknownName.among(f"variant of {rule.name()}", variant, rule.variants)
    return rule.variants[variant]


def with_tensors(rule: Rule, tensors: Mapping[str, Any]) -> Rule:
    """The same rule with some numbers replaced by 0-d tensors, unchecked: for compiled engines."""
    copy = object.__new__(type(rule))
    for f in dataclasses.fields(rule):
        object.__setattr__(copy, f.name, tensors.get(f.name, getattr(rule, f.name)))
    return copy


def text(rule: type[Rule]) -> str:
    """The source text of a rule, for records, with those that it is made of below it; empty where there is no file
    (a rule typed at a prompt)."""
    made_of = [one for one in rule.__mro__ if issubclass(one, Rule) and one is not Rule]
    return "\n".join(filter(None, [_source(one) for one in made_of]))  # type: ignore[arg-type]


@functools.cache
def _source(rule: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(rule))
    except (OSError, TypeError):
        return ""
