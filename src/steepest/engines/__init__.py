"""How a rule is run. An engine runs any rule that its scope allows; none knows a rule by name."""

from __future__ import annotations

import functools
import shutil
import warnings

from steepest.core.errors import BadInput, BuildFailed, SlowEngine, UnknownName
from steepest.core.job import Engine, Moment, Piece, Run
from steepest.core.lowbit import LowBit
from steepest.core.rule import Rule
from steepest.engines.batched import batched
from steepest.engines.compiled import compiled
from steepest.engines.loop import loop
from steepest.engines.lowbit import names_of, opening
from steepest.engines.native import Inexpressible, native, why_not_native
from steepest.engines.units import on_cpu


def auto(rule: Rule, pieces: list[Piece]) -> Run:
    """What is quick and starts at once: native kernels for element rules where a compiler is, else batched."""
    if rule.scope != "element" or not on_cpu(pieces):
        return batched(rule, pieces)
    try:
        return native(rule, pieces)
    except Inexpressible:
        return batched(rule, pieces)
    except BuildFailed as missing:
        say_slow(str(missing))
        return batched(rule, pieces)


ENGINES: dict[str, Engine] = {"loop": loop, "batched": batched, "compiled": compiled}
"""Ways to run a rule; "auto" chooses among them."""


def engine(name: str) -> Engine:
    """The engine of that name, or "auto".

    Raises: UnknownName; BadInput for "compiled" on a machine without a C++ compiler.
    """
    if name not in ENGINES and name != "auto":
        raise UnknownName.among("engine", name, [*ENGINES, "auto"])
    if name == "compiled" and (missing := why_not_compiled()):
        raise BadInput(f"engine 'compiled' cannot run here: {missing}; use engine='batched'")
    return auto if name == "auto" else ENGINES[name]


def low_bit(name: str, form: LowBit) -> Engine:
    """The engine of that name for state in codes; pieces whose state is full run as ever.

    On a CPU, element rules run in kernels that open, update and close each block in one pass; other rules, and
    the loop, open a unit's state, run the text, and close it.
    """
    inner = engine(name)

    def run_of(rule: Rule, pieces: list[Piece]) -> Run:
        low = [piece for piece in pieces if names_of(piece)]
        full = [piece for piece in pieces if not names_of(piece)]
        runs = [inner(rule, full)] if full else []
        runs += [in_codes(name, rule, low, form)] if low else []

        def run(moment: Moment) -> None:
            for one in runs:
                one(moment)

        return run

    return run_of


def in_codes(name: str, rule: Rule, pieces: list[Piece], form: LowBit) -> Run:
    if name in ("auto", "compiled") and rule.scope == "element" and on_cpu(pieces):
        try:
            return native(rule, pieces, form)
        except Inexpressible:
            pass
        except BuildFailed as missing:
            if name == "compiled":
                raise
            say_slow(str(missing))
    return opening(rule, pieces, form, stacked=name != "loop")


def settled(name: str) -> str:
    """The engine that determines the numbers: without a compiler "auto" rounds as "batched" does."""
    return "batched" if name == "auto" and why_not_native() else name


@functools.cache
def say_slow(why: str) -> None:
    """Says once in a process that element rules run without kernels, and how to mend it."""
    warnings.warn(
        f"{why}; meanwhile element rules run in eager blocks, 2 to 4 times slower", SlowEngine, stacklevel=2
    )


@functools.cache
def why_not_compiled() -> str | None:
    """What torch.compile lacks on this machine and how to get it; None if nothing."""
    import torch
    from torch._inductor import config

    candidates = config.cpp.cxx if isinstance(config.cpp.cxx, tuple | list) else (config.cpp.cxx,)
    if not any(c and shutil.which(c) for c in candidates):
        return "no C++ compiler (install one: apt-get install g++, or set CXX)"
    # torch hands the linker its own folder unquoted.
    if " " in torch.__path__[0]:
        return f"torch lies in a path with a blank, {torch.__path__[0]} (move the environment)"
    return None
