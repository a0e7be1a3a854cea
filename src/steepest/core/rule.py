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
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from steepest.core.errors import BadInput, UnknownName

Scope = Literal["element", "tensor", "matrix", "model"]
"""What one call must see whole: nothing beyond an element, a tensor of any shape, two dimensions, or the model."""

Decay = Literal["before", "after", "coupled", "independent"]
"""Where weight decay acts, see :func:`steepest.engines.write.stepped`."""

DECAYS: tuple[Decay, ...] = ("before", "after", "coupled", "independent")


@dataclass(frozen=True)
class Hyper:
    """What is known of a hyperparameter beside its default.

    ``grid`` is the first search grid, ascending (for a pair such as ``betas``: one grid each); ``options`` are
    the values of a choice. A number may change between steps and reaches a compiled rule as a 0-d tensor; a
    choice decides the text of the rule and reaches it as a Python value.
    """

    meaning: str
    grid: tuple[Any, ...] = ()
    options: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = math.inf

    @property
    def is_number(self) -> bool:
        return self.options is None

    def fault(self, value: Any, default: Any) -> str | None:
        """Why the value cannot be, in words that follow ``name=value``; None if it can."""
        if (value is None and default is None) or (isinstance(default, str) and not self.options):
            return None
        if self.options:
            return None if value in self.options else f"is not one of {', '.join(map(repr, self.options))}"
        several = isinstance(default, tuple)
        if several and not (isinstance(value, tuple | list) and len(value) == len(default)):
            return f"must be {len(default)} numbers, such as {default}"
        whole = not self.is_number and isinstance(default, int)
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
) -> Any:
    """A hyperparameter that decides the text of the rule. Without ``options`` any number from ``low`` on of the
    default's type."""
    return field(default=default, metadata={"hyper": Hyper(meaning, grid, options, low=low)})


@dataclass(frozen=True)
class Slot:
    """One tensor of state. ``dtype`` None: the working type, which is float32 for weights of less."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None


class Step:
    """The moment of an update: the calendar's phase, and the numbers that depend on the step alone.

    ``step.phase`` is a word from :meth:`Rule.phase`; every key of :meth:`Rule.corrections` is an attribute, a
    float or a 0-d tensor.
    """

    def __init__(self, phase: str, corrections: Mapping[str, Any]) -> None:
        self.phase = phase
        for name, value in corrections.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:  # reached only for a name that the rule does not compute
        raise AttributeError(f"corrections() gives no {name!r}")


@dataclass(frozen=True)
class Rule:
    """Base of every rule. See ``rules/lion.py`` for the shortest and ``rules/soap.py`` for the longest.

    ``lr``, ``weight_decay`` and ``decay`` are applied by the engine, so :meth:`update` never reads them; a
    subclass declares them again with its own defaults and grids.
    """

    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    code: ClassVar[str] = ""
    pseudocode: ClassVar[str] = ""
    scope: ClassVar[Scope] = "element"
    quirks: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    """Semantic version of the numbers: raised when the same inputs give other weights."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of hyperparameters, the first being the constructor's default."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """What a language-model race fixes unless told otherwise, with ``recipe_source`` saying where from."""
    recipe_source: ClassVar[str] = ""
    draws: ClassVar[Mapping[str, Literal["uniform", "normal", "rademacher"]]] = {}
    """Random tensors of the weight's shape that :meth:`update` reads as ``step.<name>``, see ``linalg/philox.py``.
    A rule that has some declares ``seed: int = choice(0, "seed of the random draws", low=0)``."""
    companion: ClassVar[Mapping[str, Any] | None] = None
    """Hyperparameters of the AdamW that takes embeddings, head, norms and biases, for a rule that is meant
    for hidden matrices alone; None for a rule that takes every weight."""

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

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The paper's box: (gradient, weight, step, state) to (direction, new state), out of place.

        Works over leading batch dimensions as far as ``scope`` says. The engine then moves the weight by
        ``- lr * direction``; a direction of None leaves the weight alone, decay included.
        """
        raise NotImplementedError

    @classmethod
    def of_trajectory(cls, hyperparameters: Mapping[str, Any], source: str, dtype: str) -> dict[str, Any]:
        """Constructor arguments from a recorded trajectory's JSON, for ``steepest verify``."""
        raise NotImplementedError

    @classmethod
    def injected(cls, name: str, shape: tuple[int, ...], slots: Mapping[str, Slot]) -> dict[str, str]:
        """State that a trajectory must be given after its first step because the first gradient leaves it
        undetermined: slot name to key of the trajectory file."""
        return {}

    def state_bytes(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
        """Bytes of state for one weight of this shape and type, the 4-byte step counter included."""
        working = working_dtype(dtype)
        return 4 + sum(
            math.prod(slot.shape) * (slot.dtype or working).itemsize for slot in self.slots(shape).values()
        )


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a weight of this type is updated: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def hyperparameters(rule: type[Rule]) -> dict[str, Hyper]:
    """The hyperparameters of a rule by name, in the order of its text."""
    return _hyperparameters(rule)  # type: ignore[arg-type]


@functools.cache
def _hyperparameters(rule: Any) -> dict[str, Hyper]:
    return {f.name: f.metadata["hyper"] for f in dataclasses.fields(rule) if "hyper" in f.metadata}


def defaults(rule: type[Rule], variant: str | None = None) -> dict[str, Any]:
    """Every hyperparameter's default, under a named variant if one is given.

    Keys of the variant that are no field of the rule (``companion``) are kept for the optimizer face.
    """
    values = {f.name: f.default for f in dataclasses.fields(rule) if "hyper" in f.metadata}
    if variant is not None:
        if variant not in rule.variants:
            raise UnknownName.among(f"variant of {rule.name()}", variant, rule.variants)
        values |= rule.variants[variant]
    return values


def with_tensors(rule: Rule, tensors: Mapping[str, Any]) -> Rule:
    """The same rule with some numbers replaced by 0-d tensors, unchecked: for compiled engines."""
    copy = object.__new__(type(rule))
    for f in dataclasses.fields(rule):
        object.__setattr__(copy, f.name, tensors.get(f.name, getattr(rule, f.name)))
    return copy


def text(rule: type[Rule]) -> str:
    """The source text of a rule, for records; empty where there is no file (a rule typed at a prompt)."""
    try:
        return inspect.getsource(rule)
    except (OSError, TypeError):
        return ""
