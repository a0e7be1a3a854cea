"""Learning-rate schedules: pure functions from the step to a factor of the peak learning rate.

Conventions. Steps count from 0; the factor of step t is the one that the optimizer's step t uses, so the last is
t = total - 1. Warm-up is linear, (t + 1) / warmup: no step is spent at zero, and step warmup - 1 is the first at
the peak. After it comes a shape s(x) of x = (t - warmup) / (total - warmup): a decay would reach its end at
t = total, one past the last step, so that the last step still moves the weights. The end of every decay is
``minimum``, a factor of the peak, reached by rescaling: minimum + (1 - minimum) · s(x). ``freeze`` first steps at
zero come before all this, for a rule that gathers state before it moves (Adalayer, frozen).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from steepest.core.errors import BadInput, UnknownName

Shape = Callable[[float, float], float]


def constant(x: float, decay: float) -> float:
    """1."""
    return 1.0


def linear(x: float, decay: float) -> float:
    """1 - x."""
    return 1.0 - x


def cosine(x: float, decay: float) -> float:
    """(1 + cos πx) / 2: SGDR without restarts (Loshchilov & Hutter, arXiv 1608.03983)."""
    return 0.5 * (1.0 + math.cos(math.pi * x))


def wsd(x: float, decay: float) -> float:
    """1 - q, q = max(0, (x - (1 - decay)) / decay): warm-up, stable, decay (Hu et al., arXiv 2404.06395)."""
    return 1.0 - _into_decay(x, decay)


def wsd_sqrt(x: float, decay: float) -> float:
    """1 - √q, q as for wsd: the cool-down that Hägele et al. recommend (arXiv 2405.18392)."""
    return 1.0 - math.sqrt(_into_decay(x, decay))


def _into_decay(x: float, decay: float) -> float:
    return max(0.0, (x - (1.0 - decay)) / decay)


SCHEDULES: dict[str, Shape] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "wsd": wsd,
    "wsd-sqrt": wsd_sqrt,
}


def factor(
    name: str,
    step: int,
    total: int,
    warmup: int = 0,
    *,
    minimum: float = 0.0,
    decay: float = 0.2,
    freeze: int = 0,
) -> float:
    """Factor of the peak learning rate at ``step``, 0 to total - 1; later steps keep the schedule's end.

    warmup: steps. minimum: where decays end, as a factor of the peak. decay: the share of all steps in which
    wsd and wsd-sqrt fall. freeze: first steps at zero; what follows is the schedule of the steps that are left.
    Raises UnknownName for the name and BadInput for a value outside its range.
    """
    _check(name, total, warmup, minimum, decay, freeze)
    if step < 0:
        raise BadInput(f"schedule step={step}: steps count from 0")
    if step < freeze:
        return 0.0
    step, total = step - freeze, total - freeze
    if step < warmup:
        return (step + 1) / warmup
    after = max(1, total - warmup)
    x = min(1.0, (step - warmup) / after)
    return minimum + (1.0 - minimum) * SCHEDULES[name](x, decay * total / after)


def schedule(
    optimizer: Optimizer,
    name: str,
    total_steps: int,
    warmup: int = 0,
    *,
    minimum: float = 0.0,
    decay: float = 0.2,
    freeze: int = 0,
    last_epoch: int = -1,
) -> LambdaLR:
    """A torch scheduler that gives every param group its initial lr times :func:`factor` of the step.

    last_epoch: index of the last step done where a run is continued (its groups hold ``initial_lr``), as torch's.
    """
    _check(name, total_steps, warmup, minimum, decay, freeze)
    factor_of = partial(
        factor, name, total=total_steps, warmup=warmup, minimum=minimum, decay=decay, freeze=freeze
    )
    return LambdaLR(optimizer, factor_of, last_epoch)


def _check(name: str, total: int, warmup: int, minimum: float, decay: float, freeze: int) -> None:
    if name not in SCHEDULES:
        raise UnknownName.among("schedule", name, SCHEDULES)
    if total < 1:
        raise BadInput(f"schedule total={total} steps: it must be at least 1")
    if not 0 <= freeze < total:
        raise BadInput(f"schedule freeze={freeze} steps: it must lie from 0 to less than the total of {total}")
    total -= freeze
    if not 0 <= warmup <= total:
        raise BadInput(f"schedule warmup={warmup} steps: it must lie between 0 and the total of {total}")
    if not 0 <= minimum <= 1:
        raise BadInput(f"schedule minimum={minimum}: it must lie from 0 to 1, a factor of the peak lr")
    if not 0 < decay <= 1:
        raise BadInput(f"schedule decay={decay}: it must lie in (0, 1], a share of the steps")
    if name in ("wsd", "wsd-sqrt") and warmup + decay * total > total * (1 + 1e-9):
        raise BadInput(f"schedule decay={decay} of {total} steps leaves no room for warmup={warmup}: lower one")
