"""A measurement in words: a table, a bar chart for the terminal, and what the columns mean."""

from __future__ import annotations

import math
import re
from typing import Any

from steepest.core.columns import aligned

Result = dict[str, Any]
NOTHING = "–"
BARS = "▏▎▍▌▋▊▉█"

COLUMNS = (
    ("optimizer", "what moves the weights; peers and torch's own classes have no engine"),
    ("engine", "how the rule is run"),
    ("step", "median over rounds of a step's time, averaged over the optimizer's calendar (refreshes)"),
    ("ns/weight", "the same over all weights of the model"),
    ("bound", "what the step must take here: its bytes at the in-place stream rate, or its matrix products at the "
              "product rate, whichever is longer (b or p)"),
    ("x bound", "time over bound, round by round: median and first to last decile"),
    ("x fused", "time over that of torch's fused AdamW on the same weights, likewise"),
    ("state", "bytes of optimizer state"),
    ("extra", "most bytes that a step holds beyond weights, gradients and state"),
    ("first step", "the first one in this process, compilation and allocation included"),
)  # fmt: skip


def cells(result: Result) -> list[dict[str, str]]:
    """A row of words for every entry, by column."""
    names = shortened(result, engines=False)
    return [_cells(row, names[row["name"]]) for row in result["entries"]]


def _cells(row: Result, name: str) -> dict[str, str]:
    bound = row["bound"]
    by = "p" if (bound["products_seconds"] or 0) > (bound["bytes_seconds"] or 0) else "b"
    return {
        "optimizer": name,
        "engine": row["engine"] or NOTHING,
        "step": seconds(row["step"].get("median")),
        "ns/weight": number(row["ns_per_weight"].get("median")),
        "bound": NOTHING if bound["seconds"] is None else f"{seconds(bound['seconds'])} {by}",
        "x bound": spread(row["over_bound"]),
        "x fused": spread(row["over_reference"]),
        "state": size(row["state_bytes"]),
        "extra": size(row["extra_bytes"]),
        "first step": seconds(row["first_step"]),
    }


def lines(result: Result) -> list[str]:
    """Heading, table, bars and what was left out, for a terminal."""
    head = [name for name, _ in COLUMNS]
    table = aligned([head, *([row[name] for name in head] for row in cells(result))])
    told = [
        heading(result),
        "; ".join(rates(result)),
        *options(result),
        "",
        table[0],
        "-" * max(map(len, table)),
        *table[1:],
    ]
    told += ["", "time over bound (1 = the bound; logarithmic)", *bars(result)]
    told += [f"left out: {row['name']}: {row['reason']}" for row in result["skipped"]]
    return told


def heading(result: Result) -> str:
    """Model and setting in one line."""
    model, setting = result["model"], result["setting"]
    words = f"{model['source']}: {model['weights']:,} {setting['dtype']} weights in {model['tensors']} tensors"
    where = counted(setting["threads"], "thread") if setting["device"] == "cpu" else setting["device"]
    ended = f", ended by {setting['ended']}" if setting["ended"] else ""
    return f"{words}; {where}, {counted(setting['rounds'], 'round')}{ended}"


def rates(result: Result) -> list[str]:
    """``33 GB/s in place``, ``190 GFLOP/s in products of 384 x 384, float32``."""
    told = []
    for row in result["rates"]:
        speed = row["per_second"].get("median")
        if speed is None:
            continue
        if row["kind"] == "stream":
            told.append(f"{speed / 1e9:,.3g} GB/s in place")
        else:
            told.append(f"{speed / 1e9:,.4g} GFLOP/s in {row['what']}")
    return list(dict.fromkeys(told))  # float32 may be the quickest where bfloat16 may be taken, too


def options(result: Result) -> list[str]:
    """The specs that name hyperparameters."""
    specs = (row["spec"] for row in result["entries"] if row["engine"])
    return list(dict.fromkeys(spec for spec in specs if ":" in spec))


def shortened(result: Result, engines: bool = True) -> dict[str, str]:
    """What to call the entries, by name: without the options that all specs of a rule share."""
    given = {row["name"]: row["label"].removesuffix(")").partition(" (") for row in result["entries"]}
    named = {name: set(re.split(r",(?=[a-z_.]+=)", rest)) - {""} for name, (_, _, rest) in given.items()}
    short = {}
    for row in result["entries"]:
        name, rule = row["name"], given[row["name"]][0]
        shared = set.intersection(*(named[other] for other, (kind, _, _) in given.items() if kind == rule))
        own = ", ".join(sorted(named[name] - shared))
        short[name] = " ".join(filter(None, (rule, own, row["engine"] if engines else "")))
    return short


def bars(result: Result, width: int = 48) -> list[str]:
    """A line for every entry, quickest first; a bar's length is the logarithm of time over bound."""
    names = shortened(result)
    rows = [(names[row["name"]], row["over_bound"].get("median")) for row in result["entries"]]
    known = sorted(((name, value) for name, value in rows if value), key=lambda pair: pair[1])
    if not known:
        return []
    longest = max(math.log(max(value for _, value in known)), 1e-9)
    table = aligned((name, f"{number(value)}x", _bar(math.log(value) / longest * width)) for name, value in known)
    return [line.rstrip() for line in table]


def _bar(length: float) -> str:
    eighths = max(1, round(8 * length))
    return "█" * (eighths // 8) + (BARS[eighths % 8 - 1] if eighths % 8 else "")


def spread(values: dict[str, float]) -> str:
    """``1.24 (1.20–1.31)``."""
    if not values:
        return NOTHING
    return f"{number(values['median'])} ({number(values['low'])}–{number(values['high'])})"


def number(value: float | None) -> str:
    """Two digits after the point below ten, three digits in all above."""
    if value is None:
        return NOTHING
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """``52 µs``, ``2.3 ms``, ``14 s``."""
    if value is None:
        return NOTHING
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if value * factor < 999.5:
            return f"{value * factor:.3g} {unit}"
    return f"{value:,.3g} s"


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def size(count: float | None) -> str:
    """``9.4 MiB``."""
    if count is None:
        return NOTHING
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} GiB"
