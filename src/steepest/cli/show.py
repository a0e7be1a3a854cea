"""One optimizer: pseudocode, hyperparameters with their search grids, state, paper, quirks."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import textwrap
from typing import Any

SUMMARY = "one optimizer: pseudocode, hyperparameters, memory, paper, quirks"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="as `steepest list` shows it, or ./mine.py:MyRule")
    parser.add_argument("--kernel", action="store_true", help="print the C++ that an element rule becomes")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from steepest.core.errors import BadInput
    from steepest.registry import resolve
    from steepest.zeroth.ways import WAYS

    if args.name in WAYS and not args.kernel:
        way = {"name": args.name, **dataclasses.asdict(WAYS[args.name])}
        print(json.dumps(way, indent=1, default=list) if args.json else way_page(way))
        return 0
    rule = resolve(args.name).rule
    if rule is None:
        raise BadInput(f"{args.name} is not a steepest rule: its hyperparameters are in its own documentation")
    if args.kernel:
        print(kernel(rule))
        return 0
    told = described(rule)
    print(json.dumps(told, indent=1, default=list) if args.json else page(told))
    return 0


def way_page(told: dict[str, Any]) -> str:
    """A zeroth-order method as text."""
    given = ", ".join([repr(told["name"]), *(f"{k}={v!r}" for k, v in told["arguments"].items())])
    parts = [
        told["title"] + "\n" + "=" * len(told["title"]),
        textwrap.indent(told["update"], "    "),
        f"forward passes a step: {told['forwards']}; kept beside the weights: {told['kept']}",
        f"steepest.zeroth.ways.way({given.partition(', ')[0]})(model, lr=...) is steepest.ZerothOrder with "
        f"{given.partition(', ')[2]}",
        f"paper: {told['paper']}",
        f"compared with: {told['code']}",
    ]
    if told["quirks"]:
        parts.append(
            "quirks:\n"
            + "\n".join(
                textwrap.fill(q, 110, initial_indent="  - ", subsequent_indent="    ") for q in told["quirks"]
            )
        )
    return "\n\n".join(parts)


def kernel(rule: Any) -> str:
    """The C++ text of the rule's usual step, with its default choices and float32 weights.

    Raises: BadInput for a rule that is none.
    """
    from steepest.core.errors import BadInput
    from steepest.core.rule import defaults
    from steepest.engines.native import Inexpressible, text_of

    if rule.scope != "element":
        raise BadInput(
            f"{rule.name()} sees a whole {rule.scope}: only rules of scope element become native kernels"
        )
    try:
        return text_of(rule(**defaults(rule)))
    except Inexpressible as why:
        raise BadInput(f"{why}; the engine 'batched' runs it") from why


def described(rule: Any) -> dict[str, Any]:
    """Everything that a rule declares, JSON-able."""
    from steepest.core.naming import ROLES
    from steepest.core.rule import defaults, hyperparameters

    values = defaults(rule)
    made = rule(**values)
    slots = made.slots((1024, 1024))
    return {
        "name": rule.name(),
        "title": rule.title,
        "summary": inspect.cleandoc(rule.__doc__ or ""),
        "advice": rule.advice,
        "paper": rule.paper,
        "code": rule.code,
        "version": rule.version,
        "scope": rule.scope,
        "pseudocode": inspect.cleandoc(rule.pseudocode),
        "hyperparameters": [
            {"name": name, "default": values[name], "grid": h.grid, "options": h.options, "meaning": h.meaning}
            for name, h in hyperparameters(rule).items()
        ],
        "variants": {name: dict(v) for name, v in rule.variants.items()},
        "companion": dict(rule.companion) if rule.companion is not None else None,
        "moved_by_companion": [role for role in ROLES if not made.takes(role)],
        "by_role": {role: dict(values) for role, values in rule.by_role.items()},
        "recipe": dict(rule.recipe),
        "recipe_source": rule.recipe_source,
        "state": {name: {"shape_of_1024x1024": list(slot.shape)} for name, slot in slots.items()},
        "state_bytes_per_weight": made.state_bytes((1024, 1024)) / 1024**2,
        "quirks": list(rule.quirks),
        "fields": [f.name for f in dataclasses.fields(rule)],
    }


def page(told: dict[str, Any]) -> str:
    """The same as text."""
    from steepest.cli.table import table

    def joined(values: Any) -> str:
        return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values or ())

    rows = []
    for h in told["hyperparameters"]:
        grid = h["grid"]
        pairs = grid and isinstance(grid[0], tuple)
        shown = " x ".join(f"({joined(g)})" for g in grid) if pairs else joined(grid)
        rows.append((h["name"], h["default"], shown or joined(h["options"]) or "-", h["meaning"]))
    state = ", ".join(f"{n} {'x'.join(map(str, s['shape_of_1024x1024']))}" for n, s in told["state"].items())
    parts = [
        told["title"] + "\n" + "=" * len(told["title"]),
        told["summary"],
        *([textwrap.fill(told["advice"], 110)] if told["advice"] else []),
        textwrap.indent(told["pseudocode"], "    "),
        table(("hyperparameter", "default", "first search grid, or options", "meaning"), rows),
        "variants: "
        + "; ".join(
            f"{n} {{{', '.join(f'{k}={v}' for k, v in vs.items())}}}" for n, vs in told["variants"].items()
        ),
    ]
    if told["companion"] is not None:
        parts.append(
            f"companion AdamW for {', '.join(told['moved_by_companion'])}: "
            + ", ".join(f"{k}={v}" for k, v in told["companion"].items())
        )
    alike: dict[str, list[str]] = {}
    for role, values in told["by_role"].items():
        alike.setdefault(", ".join(f"{k}={v}" for k, v in values.items()), []).append(role)
    if alike:
        parts.append("\n".join(f"weights of role {', '.join(roles)}: {own}" for own, roles in alike.items()))
    parts += [
        f"scope: {told['scope']}",
        f"state of a 1024 x 1024 float32 matrix: {state or 'none'}; "
        f"{told['state_bytes_per_weight']:.1f} bytes per weight",
        f"fixed in a race: {', '.join(f'{k}={v}' for k, v in told['recipe'].items())} ({told['recipe_source']})",
        f"paper: {told['paper']}",
        f"compared with: {told['code']}",
        "quirks:\n"
        + "\n".join(
            textwrap.fill(q, 110, initial_indent="  - ", subsequent_indent="    ") for q in told["quirks"]
        ),
    ]
    return "\n\n".join(parts)
