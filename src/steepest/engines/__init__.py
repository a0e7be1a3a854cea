"""How a rule is run. An engine runs any rule that its scope allows; none knows a rule by name."""

from __future__ import annotations

import functools
import shutil

from steepest.core.errors import BadInput, UnknownName
from steepest.core.job import Engine
from steepest.engines.batched import run as batched
from steepest.engines.compiled import run as compiled
from steepest.engines.loop import run as loop

ENGINES: dict[str, Engine] = {"loop": loop, "batched": batched, "compiled": compiled}
DEFAULT = "batched"


def engine(name: str) -> Engine:
    """The engine of that name; "auto" is the one that is quick everywhere without a compiler.

    Raises: UnknownName; BadInput for "compiled" on a machine without a C++ compiler.
    """
    name = DEFAULT if name == "auto" else name
    if name not in ENGINES:
        raise UnknownName.among("engine", name, [*ENGINES, "auto"])
    if name == "compiled" and (missing := why_not_compiled()):
        raise BadInput(f"engine 'compiled' cannot run here: {missing}; use engine='batched'")
    return ENGINES[name]


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
