"""What a model's weights, gradients and optimizer state take, to the byte, before any of it is allocated; and
which optimizers fit into so much memory.

Exit status: 0 done.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from steepest.planning.fits import Fit
    from steepest.planning.models import Model
    from steepest.planning.plan import Memory

SUMMARY = "what weights, gradients and state take, and which optimizers fit"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        metavar="MODEL",
        help="llama-7b, gpt2-xl, qwen3-8b, a preset of the race, a config.json, a checkpoint, or shapes such as "
        "768x3072:24,768:50",
    )
    add(
        "--optimizer",
        nargs="+",
        default=[],
        metavar="NAME",
        help="galore:rank=1024, ./mine.py:MyRule, torch:SGD (all built-in rules); one alone is told slot by slot",
    )
    add(
        "--fits",
        metavar="SIZE",
        help="24GiB, 16GB: what fits, each rule at its smallest and largest configuration",
    )
    add("--dtype", default="float32", help="of the weights: float32 or bfloat16 (float32)")
    add("--state", default="full", help="how state lies in memory: full, 8bit or 4bit (full)")
    add(
        "--accounting",
        metavar="PRESET",
        help="as a paper counts: scale, galore, apollo, fira, adam-mini, sgd-sai, with changes as "
        "scale:unit=GiB,gradients=True (steepest: all that is allocated)",
    )
    add("--release", action="store_true", help="steps inside backward: of gradients the largest one alone")
    add("--recipe", action="store_true", help="hyperparameters of a race instead of the constructors' defaults")
    add("--published", action="store_true", help="what papers print beside what is counted here")
    add("--figure", type=Path, metavar="FILE.svg", help="draw bars of weights, gradients, state and buffers")
    add("--json", action="store_true", help="print JSON, sizes in bytes")


def run(args: argparse.Namespace) -> int:
    from steepest.planning.accounting import accounting_of, size_of

    if args.figure is not None and args.figure.suffix != ".svg":
        raise BadInput(f"--figure {args.figure}: pictures are SVG, name a FILE.svg")
    if args.published:
        return published(args.json)
    if args.model is None:
        raise BadInput("no --model: give one such as llama-7b, a config.json, or --published alone")
    size, unit = size_of(args.fits) if args.fits else (None, "GiB")
    how = args.accounting or f"steepest:unit={unit}"
    if args.release:
        how += ("," if ":" in how else ":") + "release=True"
    accounting_of(how)
    model = model_of(args.model, args.dtype)
    if size is not None and not args.optimizer:
        return fitting(args, model, how, size)
    return plans(args, model, how, size)


def model_of(source: str, dtype: str) -> Model:
    """The model that a user names, on the meta device. Raises: UnknownName with near names, BadInput."""
    from steepest.lab.bench.shapes import FILES, TEXT, shapes_of
    from steepest.lab.model import Decoder
    from steepest.lab.presets import MODELS, preset
    from steepest.planning.accounting import dtype_named
    from steepest.planning.models import KNOWN, Model
    from steepest.planning.plan import planned

    kind = dtype_named(dtype)
    path = Path(source)
    if source in MODELS:
        return Model(source, Decoder(preset(source), device="meta").to(kind))
    if all(TEXT.fullmatch(word) for word in source.split(",")):
        return Model(source, shapes_of(source).allocated("meta", kind))
    config = path / "config.json" if path.is_dir() else path
    weights = path.is_dir() and not config.is_file()
    if weights or (source.endswith(FILES) and not source.endswith(".json")) or source.endswith(".index.json"):
        return Model(source, shapes_of(source).allocated("meta", kind))
    if source not in KNOWN and not (path.exists() or source.endswith(".json") or "/" in source):
        raise UnknownName.among(
            "model",
            source,
            [*KNOWN, *MODELS],
            "(or a config.json, a checkpoint, shapes such as 768x3072:24,768:50)",
        )
    return planned(source, kind)


def plans(args: argparse.Namespace, model: Model, how: str, size: int | None) -> int:
    """One optimizer slot by slot, several side by side, least first."""
    from steepest.cli.table import table
    from steepest.core.errors import SteepestError
    from steepest.planning.plan import legible, memory
    from steepest.registry import rules

    found: list[Memory] = []
    refused: list[str] = []
    for spec in dict.fromkeys(args.optimizer or rules()):
        try:
            found.append(memory(model, spec, accounting=how, recipe=args.recipe, **formed(args)))
        except SteepestError as error:
            if args.optimizer:
                raise
            refused.append(f"{spec} refuses this model: {error}")
    found.sort(key=lambda plan: plan.total)
    if size is None:
        found = legible(found)
    if args.json:
        one = len(args.optimizer) == 1
        told: Any = found[0].row() if one else [plan.row() | {"parts": len(plan.parts)} for plan in found]
        print(json.dumps(told, indent=1))
    elif len(args.optimizer) == 1:
        print(found[0])
        if size is not None:
            print(verdict(found[0], size))
    else:
        as_, names = found[0].accounting, ("weights", "gradients", "state", "buffers", "total")
        rows = [
            (plan.optimizer, *(as_.shown(plan.summary()[name]) for name in names))
            + ((left(plan, size),) if size is not None else ())
            for plan in found
        ]
        extra = (f"left of {args.fits}",) if size is not None else ()
        print(heading(found[0], args))
        print(table(("optimizer", *(f"{name} {as_.unit}" for name in names), *extra), rows))
        print("\n".join(["", *refused, *notes(found)]))
    return drawn(args, [(plan.optimizer, plan) for plan in found], size)


def fitting(args: argparse.Namespace, model: Model, how: str, size: int) -> int:
    """Every built-in rule at its smallest and largest configuration, least first."""
    from steepest.cli.table import table
    from steepest.planning.fits import fits

    if args.recipe:
        raise BadInput("--fits tries every configuration: give --recipe with --optimizer, or leave it out")
    found = fits(model, how, **formed(args))
    if args.json:
        told = {
            "model": model.name,
            "size": size,
            "accounting": how,
            "optimizers": [fit.row(size) for fit in found],
        }
        print(json.dumps(told, indent=1))
        return 0
    planned = [fit for fit in found if fit.smallest is not None]
    if not planned:
        raise BadInput(f"no optimizer takes {model.name}: {found[0].refusal}")
    first = planned[0].smallest
    assert first is not None
    unit = first.accounting.unit
    head = ("optimizer", "smallest", unit, f"of {args.fits}", "largest", unit, f"of {args.fits}")
    print(heading(first, args))
    print(table(head, [cells(fit, size) for fit in planned]))
    some = sum(fit.smallest is not None and fit.smallest.total <= size for fit in planned)
    every = sum(fit.largest is not None and fit.largest.total <= size for fit in planned)
    refused = [
        f"{fit.name} refuses this model: {fit.refusal}" for fit in found if fit.refusal and not fit.smallest
    ]
    counted = f"{some} of {len(planned)} fit in {args.fits} at their smallest, {every} at their largest too"
    tried = (
        "configurations: constructor's defaults, each variant, each option that decides on state, one at a time"
    )
    print("\n".join(["", *refused, counted, tried, *notes([fit.smallest for fit in planned if fit.smallest])]))
    return drawn(args, [(named(fit), fit.smallest) for fit in planned if fit.smallest], size)


def cells(fit: Fit, size: int) -> tuple[str, ...]:
    assert fit.smallest is not None and fit.largest is not None
    as_ = fit.smallest.accounting
    least = (fit.options[0] or "(default)", as_.shown(fit.smallest.total), left(fit.smallest, size))
    if fit.smallest.total == fit.largest.total:
        return (fit.name, *least, "the same", "", "")
    return (fit.name, *least, fit.options[1] or "(default)", as_.shown(fit.largest.total), left(fit.largest, size))


def named(fit: Fit) -> str:
    return f"{fit.name} ({fit.options[0]})" if fit.options[0] else fit.name


def left(plan: Memory, size: int) -> str:
    """``fits, 3.20 left`` or ``over by 1.05``."""
    rest = size - plan.total
    return f"fits, {plan.accounting.shown(rest)} left" if rest >= 0 else f"over by {plan.accounting.shown(-rest)}"


def formed(args: argparse.Namespace) -> dict[str, str]:
    """The option of every constructor that --state is; none where it is as usual, for classes that have none."""
    return {} if args.state == "full" else {"state": args.state}


def verdict(plan: Memory, size: int) -> str:
    return f"of {plan.accounting.shown(size)} {plan.accounting.unit}: {left(plan, size)}"


def heading(plan: Memory, args: argparse.Namespace) -> str:
    from steepest.planning.accounting import name_of

    elements = sum(part.elements for part in plan.parts)
    how, kind = plan.accounting.told(), ", ".join(dict.fromkeys(name_of(part.dtype) for part in plan.parts))
    told = f"counted with {how}" if how else "as steepest allocates it"
    return f"{plan.model}: {elements:,} weights in {kind}, {told}" + (", recipes of a race" if args.recipe else "")


def notes(plans: Sequence[Memory]) -> list[str]:
    from steepest.planning.plan import NOT_IN, state_types

    as_ = plans[0].accounting
    own = [] if as_.told() else [f"gradients in the weights' type, {state_types(plans)}"]
    buffers = ["buffers: what the default engine keeps on a GPU to run small weights together"]
    return [*own, *(buffers if as_.buffers else []), f"not in it: {NOT_IN}"]


def drawn(args: argparse.Namespace, shown: list[tuple[str, Memory]], size: int | None) -> int:
    if args.figure is not None:
        from steepest.lab.report import memory as picture
        from steepest.planning.accounting import UNITS

        first = shown[0][1]
        unit = first.accounting.unit
        rows = [{"name": name, **plan.summary()} for name, plan in shown]
        kind = "smallest configurations" if args.fits and not args.optimizer else "weights, gradients, state"
        title = f"{first.model}, {args.dtype} weights: {kind}"
        picture.write(args.figure, picture.drawn(rows, title, unit, UNITS[unit], size))
        if not args.json:
            print(f"{args.figure}: the picture")
    return 0


def published(as_json: bool) -> int:
    """What papers print beside what is counted here, numbers that are not met included."""
    from steepest.cli.table import table
    from steepest.planning.published import HEAD, compared, rows

    if as_json:
        told = [
            {
                "source": one.claim.source,
                "what": one.claim.method,
                "quantity": one.claim.quantity,
                "model": one.model,
                "optimizer": one.spec,
                "accounting": one.claim.accounting,
                "unit": one.claim.unit,
                "printed": float(one.printed),
                "computed": one.computed,
                "met": one.met if one.computed is not None else None,
                "why": one.claim.why,
            }
            for one in compared()
        ]
        print(json.dumps(told, indent=1))
        return 0
    print(table(HEAD, rows()))
    print("\nmet to .01: the computed number, with as many places as the printed one, is at most .01 from it")
    return 0
