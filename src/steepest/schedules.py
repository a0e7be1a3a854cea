"""Learning-rate schedules: factors of the peak learning rate, pure functions of the step.

    factor(t) = rise(t) · floor(profile(progress(t)))

A *profile* falls from 1 to its end while progress goes from 0 to 1. *Sampling* says at which progress it is read:
anew at every step, or held in between; a step decay is a profile read seldom (REX, arXiv 2107.04197). The *rise*
is the warm-up. :class:`Schedule` puts them together, ``SCHEDULES`` names the usual ones.

Conventions. Steps count from 0; the factor of step t is the one that the optimizer's step t uses, so the last is
t = total - 1. Warm-up is linear, (t + 1) / warmup: no step is spent at zero, and step warmup - 1 is the first at
the peak. Progress is (t - warmup) / (total - warmup): a decay would reach its end at t = total, one past the last
step, so that the last step still moves the weights. The end of every decay is ``minimum``, a factor of the peak,
reached by rescaling: minimum + (1 - minimum) · profile. ``freeze`` first steps at zero come before all this, for a
rule that gathers state before it moves (Adalayer, frozen). Each has alternatives, for schedules of other programs.
"""

from __future__ import annotations

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from steepest.core.errors import BadInput, UnknownName

Profile = Callable[[float], float]
"""From progress in [0, 1] to a factor: 1 at 0, never rising."""

Rise = Callable[[float, float], float]
"""From a step and the length of the warm-up to a factor: 1 from the warm-up's end on."""


# ---- profiles


def constant(x: float) -> float:
    """1"""
    return 1.0


def linear(x: float) -> float:
    """1 - x"""
    return 1.0 - x


def cosine(x: float) -> float:
    """(1 + cos πx) / 2"""
    return 0.5 * (1.0 + math.cos(math.pi * x))


def mirror_cosine(x: float) -> float:
    """2 (1 - x) - (1 + cos πx) / 2: the cosine mirrored at the straight line"""
    return 2.0 * linear(x) - cosine(x)


def square(x: float) -> float:
    """1 - x²"""
    return 1.0 - x * x


def sqrt(x: float) -> float:
    """1 - √x"""
    # The root of a progress that is 0 but for rounding would be seen.
    return 1.0 - math.sqrt(x) if x > 1e-12 else 1.0


def rex(x: float, *, d: float = 0.5) -> float:
    """(1 - x) / (1 - d x): d = 1/2 is REX, the reflected exponential; d = 0 is linear"""
    return (1.0 - x) / (1.0 - d * x)


def exponential(x: float, *, final: float = 0.01) -> float:
    """final^x: a fixed share less at every step"""
    return float(final**x)


def polynomial(x: float, *, power: float = 2.0) -> float:
    """(1 - x)^power"""
    return float((1.0 - x) ** power)


def inverse_sqrt(x: float, *, timescale: float) -> float:
    """√(s / (s + t)) t steps after the warm-up, s the timescale"""
    return math.sqrt(timescale / (timescale + x))


def steps(x: float, *, milestones: tuple[float, ...] = (0.5, 0.75), gamma: float = 0.1) -> float:
    """gamma^n, n the milestones passed"""
    return float(gamma ** bisect_right(milestones, x))


# ---- warm-ups


def counted(step: float, warmup: float) -> float:
    """(t + 1) / W: the first step moves, and step W - 1 is at the peak."""
    return (step + 1) / warmup if step < warmup else 1.0


def climb(step: float, warmup: float, *, start: float = 0.0, shape: Profile = linear) -> float:
    """From ``start`` at step 0 to the peak at step W: transformers starts at 0 (a step that moves nothing), epfml
    at 1/100, torch's LinearLR at 1/3."""
    return 1.0 - (1.0 - start) * shape(step / warmup) if step < warmup else 1.0


def cycle(step: float, warmup: float, *, start: float = 1 / 25, shape: Profile = cosine) -> float:
    """From ``start`` at step 0 to the peak at step W - 1, as torch's OneCycleLR."""
    return climb(step, warmup - 1, start=start, shape=shape)


# ---- the composition

FLOORS: dict[str, Callable[[float, float], float]] = {
    "rescale": lambda value, minimum: minimum + (1.0 - minimum) * value,
    "add": lambda value, minimum: minimum + value,
    "clamp": lambda value, minimum: max(minimum, value),
}
"""How a profile meets the minimum: squeezed in between it and the peak, put on top of it, or cut off at it."""


@dataclass(frozen=True)
class Schedule:
    """The factor of every step; call it with a step from 0 on. Steps from ``total`` on keep the schedule's end.

    Args:
        total: steps of the run.
        warmup, rise: steps of the warm-up, and how it climbs.
        minimum, floor: the factor where the profile ends, and how it is met, see ``FLOORS``.
        decay: the share of all steps in which the profile falls, after a hold at the peak; None is all of them.
        tail: the share of all steps that stay at the end of the decay.
        sampling: k reads the profile at every k-th step and holds it in between; fractions read it at 0 and there.
        over: whether progress counts what is left after the warm-up ("rest") or all steps ("all").
        ends: whether progress 1 lies one step after the last ("after") or at the last ("last").
        freeze: first steps at zero; what follows is the schedule of the steps that are left.
    """

    total: int
    profile: Profile = linear
    warmup: float = 0
    rise: Rise = counted
    minimum: float = 0.0
    floor: str = "rescale"
    decay: float | None = None
    tail: float = 0.0
    sampling: int | tuple[float, ...] = 1
    over: str = "rest"
    ends: str = "after"
    freeze: int = 0

    def __post_init__(self) -> None:
        if self.total < 1:
            raise BadInput(f"schedule total={self.total} steps: it must be at least 1")
        if not 0 <= self.freeze < self.total:
            raise BadInput(
                f"schedule freeze={self.freeze} steps: it must lie from 0 to less than the total of {self.total}"
            )
        total = self.moving
        if not 0 <= self.warmup <= total:
            raise BadInput(f"schedule warmup={self.warmup} steps: it must lie between 0 and the total of {total}")
        if not 0 <= self.minimum <= 1:
            raise BadInput(f"schedule minimum={self.minimum}: it must lie from 0 to 1, a factor of the peak lr")
        if self.decay is not None and not 0 < self.decay <= 1:
            raise BadInput(f"schedule decay={self.decay}: it must lie in (0, 1], a share of the steps")
        if not 0 <= self.tail < 1:
            raise BadInput(f"schedule tail={self.tail}: it must lie from 0 to less than 1, a share of the steps")
        taken = self.warmup + self.tail * total
        if taken + (self.decay or 0.0) * total > total * (1 + 1e-9):
            what = f"tail={self.tail}" if self.decay is None else f"decay={self.decay}"
            raise BadInput(f"schedule {what} of {total} steps leaves no room for warmup={self.warmup}: lower one")
        for name, known in _FORMS.items():
            if getattr(self, name) not in known:
                raise UnknownName.among(f"schedule.{name}", str(getattr(self, name)), known)
        _check_sampling(self.sampling)

    @property
    def moving(self) -> int:
        """Steps after the frozen ones."""
        return self.total - self.freeze

    def progress(self, step: float) -> float:
        """How far the decay is at a step after the frozen ones: 0 before it, 1 from its end on."""
        before = self.warmup if self.over == "rest" else 0
        length = max(1, self.moving - before - self.tail * self.moving)
        done = max(0.0, step - before + (self.ends == "last"))
        if isinstance(self.sampling, int):
            x = min(1.0, done / length)
            x = x if self.sampling == 1 else (min(done, length) // self.sampling) * self.sampling / length
        else:
            read = (0.0, *self.sampling)
            x = read[bisect_right(read, min(1.0, done / length)) - 1]
        if self.decay is None:
            return x
        share = self.decay * self.moving / length
        return min(1.0, max(0.0, (x - (1.0 - share)) / share))

    def __call__(self, step: int) -> float:
        if step < 0:
            raise BadInput(f"schedule step={step}: steps count from 0")
        if step < self.freeze:
            return 0.0
        step -= self.freeze
        value = FLOORS[self.floor](self.profile(self.progress(step)), self.minimum)
        return self.rise(step, self.warmup) * value

    def scheduler(self, optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
        """A torch scheduler that gives every param group its initial lr times the factor of the step.

        last_epoch: index of the last step done where a run is continued (its groups hold ``initial_lr``).
        """
        # The bound method, not the object: LambdaLR would put an object's fields into every checkpoint, and a
        # checkpoint of another schedule over this one.
        return LambdaLR(optimizer, self.__call__, last_epoch)


# ---- names


@dataclass(frozen=True)
class Named:
    """A profile and what a schedule of this name sets beside it, unless whoever asks for it does."""

    profile: Callable[..., float]
    source: str
    sets: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1

    @cached_property
    def options(self) -> dict[str, Any]:
        """Its own settings beside those that all have, with their defaults."""
        parameters = inspect.signature(self.profile).parameters.values()
        own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        return {name: None if default is inspect.Parameter.empty else default for name, default in own.items()}


_ONE_CYCLE = "torch OneCycleLR; Smith & Topin, arXiv 1708.07120. The momentum is not cycled"
_WSD = "Hu et al., arXiv 2404.06395; epfml/schedules-and-scaling"
_HAGELE = "Hägele et al., arXiv 2405.18392"
_WSD_SETS, _CYCLE_SETS = {"decay": 0.2}, {"minimum": 1 / 25 / 1e4, "ends": "last"}

SCHEDULES: dict[str, Named] = {
    "constant": Named(constant, ""),
    "linear": Named(linear, ""),
    "cosine": Named(cosine, "SGDR without restarts, Loshchilov & Hutter, arXiv 1608.03983"),
    "rex": Named(rex, "Chen, Wolfe & Kyrillidis, arXiv 2107.04197; d is this package's"),
    "rex-port": Named(partial(rex, d=0.9), "IvanVassi/REX_LR: another curve than the paper's"),
    "exponential": Named(exponential, "torch ExponentialLR with its gamma = final^(1/steps)"),
    "step": Named(steps, "torch MultiStepLR with milestones at these shares of the steps"),
    "polynomial": Named(polynomial, "transformers"),
    "sqrt": Named(sqrt, ""),
    "inverse-sqrt": Named(inverse_sqrt, "Vaswani et al., arXiv 1706.03762; transformers"),
    "one-cycle": Named(cosine, _ONE_CYCLE, {"rise": cycle, **_CYCLE_SETS}),
    "one-cycle-linear": Named(linear, _ONE_CYCLE, {"rise": partial(cycle, shape=linear), **_CYCLE_SETS}),
    "cosine-inf": Named(cosine, _HAGELE, {"minimum": 0.1, "tail": 0.2}),
    "wsd": Named(linear, _WSD, _WSD_SETS),
    "wsd-sqrt": Named(sqrt, f"{_HAGELE}: the cool-down that they recommend", _WSD_SETS, version=2),
    "wsd-cosine": Named(cosine, _WSD, _WSD_SETS),
    "wsd-mirror-cosine": Named(mirror_cosine, _WSD, _WSD_SETS),
    "wsd-square": Named(square, _WSD, _WSD_SETS),
    "wsd-exponential": Named(exponential, _WSD, _WSD_SETS),
}

COMMON = {"start": None, "floor": "rescale", "tail": 0.0, "sampling": 1, "over": "rest"}
"""Settings that every schedule takes beside warmup, minimum, decay and freeze. start: the factor of step 0, from
which the warm-up climbs to the peak at step ``warmup``; None is (t + 1) / warmup."""


def known_options(name: str) -> dict[str, Any]:
    """The settings of a named schedule beside warmup, minimum, decay and freeze, with their defaults.

    Raises: UnknownName for the name.
    """
    if name not in SCHEDULES:
        raise UnknownName.among("schedule", name, SCHEDULES)
    of = SCHEDULES[name]
    start = {"start": 1 / 25} if "rise" in of.sets else {}
    return COMMON | {key: value for key, value in of.sets.items() if key in COMMON} | start | of.options


def checked_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given, in one form. Raises UnknownName or BadInput for one that cannot be used."""
    known = known_options(name)
    told: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise UnknownName.among("setting", f"schedule.{key}", [f"schedule.{k}" for k in known])
        if value is None:
            continue
        told[key] = tuple(value) if isinstance(value, list) else value
        if key in _RANGES:
            fits, words = _RANGES[key]
            if not (_is_number(value) and fits(value)):
                raise BadInput(f"schedule.{key}={value!r}: it must be {words}")
            told[key] = float(value)
    for key, known_forms in _FORMS.items():
        if key in told and told[key] not in known_forms:
            raise UnknownName.among(f"schedule.{key}", str(told[key]), known_forms)
    _check_sampling(told.get("sampling", 1))
    if "milestones" in told:
        _check_fractions("milestones", told["milestones"])
    return told


def named(
    name: str,
    total: int,
    warmup: float = 0,
    *,
    minimum: float | None = None,
    decay: float | None = None,
    freeze: int = 0,
    **options: Any,
) -> Schedule:
    """The schedule of a name over ``total`` steps.

    Args:
        warmup: steps.
        minimum: where decays end, as a factor of the peak; None is the schedule's own, 0 for most.
        decay: the share of all steps in which the wsd schedules fall; the others do without.
        freeze: first steps at zero.
        options: what :func:`known_options` lists.

    Raises: UnknownName for a name or an option, BadInput for a value outside its range.
    """
    options = checked_options(name, options)
    of = SCHEDULES[name]
    own = of.options | {key: options.pop(key) for key in of.options if key in options}
    if "timescale" in own:
        timescale = own["timescale"] or warmup or 10_000  # as transformers falls back
        own["timescale"] = timescale / max(1, total - freeze - warmup)
    sets = dict(of.sets)
    if (start := options.pop("start", None)) is not None:
        sets["rise"] = partial(sets.get("rise", climb), start=start)
    if minimum is not None:
        sets["minimum"] = minimum
    if decay is not None and "decay" in sets:
        sets["decay"] = decay
    profile = partial(of.profile, **own) if own else of.profile
    return Schedule(total, profile, warmup, freeze=freeze, **(sets | options))


def factor(name: str, step: int, total: int, warmup: float = 0, **settings: Any) -> float:
    """Factor of the peak learning rate at ``step``, 0 to total - 1; settings as :func:`named` takes them."""
    return named(name, total, warmup, **settings)(step)


def schedule(
    optimizer: Optimizer,
    name: str,
    total_steps: int,
    warmup: float = 0,
    *,
    last_epoch: int = -1,
    **settings: Any,
) -> LambdaLR:
    """A torch scheduler of a named schedule, see :meth:`Schedule.scheduler`; settings as of :func:`named`."""
    return named(name, total_steps, warmup, **settings).scheduler(optimizer, last_epoch)


# ---- checks

_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "start": (lambda v: 0 <= v <= 1, "a factor of the peak from 0 to 1"),
    "d": (lambda v: v < 1, "below 1: 0 is linear, 0.5 REX"),
    "final": (lambda v: 0 < v <= 1, "a factor of the peak in (0, 1]"),
    "power": (lambda v: v > 0, "above 0"),
    "timescale": (lambda v: v > 0, "a number of steps above 0"),
    "gamma": (lambda v: 0 <= v <= 1, "a factor from 0 to 1"),
    "tail": (lambda v: 0 <= v < 1, "a share of the steps, from 0 to less than 1"),
}

_FORMS: dict[str, tuple[str, ...]] = {
    "floor": tuple(FLOORS),
    "over": ("rest", "all"),
    "ends": ("after", "last"),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_sampling(sampling: Any) -> None:
    if isinstance(sampling, tuple):
        _check_fractions("sampling", sampling)
    elif isinstance(sampling, bool) or not isinstance(sampling, int) or sampling < 1:
        raise BadInput(f"schedule.sampling={sampling!r}: give every how many steps, or a list of fractions")


def _check_fractions(name: str, given: Any) -> None:
    told = isinstance(given, tuple) and all(map(_is_number, given))
    if not (told and all(0 < a < b for a, b in zip((1e-300, *given), (*given, 1.0), strict=True))):
        raise BadInput(f"schedule.{name}={given!r}: give rising fractions between 0 and 1, such as [0.5, 0.75]")
