"""The verdicts of a study as tables, one per model size: a row per optimizer, a column per data-to-model ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steepest.lab.analysis.significance import TIE
from steepest.lab.analysis.verdict import REFUSED
from steepest.lab.report.study import summary as say
from steepest.lab.report.words import interval, loss, tokens

Study = dict[str, Any]


@dataclass(frozen=True)
class Value:
    """One place of a table: what is said, its small print, what the pointer reads there.

    word: the verdict, "baseline" for a final loss, "" where nothing was run. gap: the value is a difference of
    final losses, for want of a speedup.
    """

    word: str = ""
    value: str = ""
    small: str = ""
    title: str = "not run"
    flagged: bool = False
    gap: bool = False
    certified: bool = False


@dataclass(frozen=True)
class Row:
    """One optimizer."""

    optimizer: str
    label: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Table:
    """One model size. weights, ratios: in words."""

    size: str
    weights: str
    ratios: tuple[str, ...]
    rows: tuple[Row, ...]


def tables(study: Study) -> list[Table]:
    """Of every size, ascending: the baseline first, then the others by loss where most of them have one."""
    found, base = say.cells(study), study["baseline"]
    told = []
    for entry in study["sizes"]:
        size = entry["size"]
        if size not in say.sizes(study):
            continue
        at = say.budgets(study, size)
        names = [n for n in study["optimizers"] if any((n, size, budget) in found for budget in at)]
        # The longest schedule may be the race of a few.
        most = max(at, key=lambda budget: (sum((n, size, budget) in found for n in names), budget))
        ordered = [n for n in names if n == base]
        ordered += say.ranked(study, (n for n in names if n != base), (size, most))
        weights = tokens(entry["weights"])
        told.append(
            Table(
                size,
                f"{weights} weights" if weights.lower() != size.lower() else "weights",
                tuple(at.values()),
                tuple(_row(study, name, size, at) for name in ordered),
            )
        )
    return told


def _row(study: Study, name: str, size: str, at: dict[int, str]) -> Row:
    found, stated = say.cells(study), say.speedups(study)
    gaps, sure = say.differences(study), say.certificates(study)
    keys = [(name, size, budget) for budget in at]
    values = [_value(study, found.get(k), stated.get(k), gaps.get(k), sure.get(k)) for k in keys]
    return Row(name, study["labels"][name], tuple(values))


def _value(
    study: Study, cell: Study | None, entry: Study | None, gap: Study | None, certificate: Study | None
) -> Value:
    if cell is None:
        return Value()
    ended = "no final loss" if cell["loss"] is None else f"final loss {loss(cell['loss'])}"
    around = interval(cell["low"], cell["high"])
    behind = "no certificate" if certificate is None else certificate["text"]
    title = f"{ended}{f' ({around})' if around else ''}, {cell['how']}; {behind}"
    certified = bool(certificate and certificate["certified"])
    if cell["optimizer"] == study["baseline"]:
        return Value("baseline", loss(cell["loss"]), "nats/token", title, certified=certified)
    word, flags = say.verdict(entry), (entry or {}).get("flags") or []
    title = "; ".join([word, title, *flags])
    if word == REFUSED and gap is not None:
        span = interval(gap["low"], gap["high"], 4)
        told = f"{gap['word']} final loss than the baseline's{f' ({span})' if span else ''}; {title}"
        small = "tie" if gap["word"] == TIE else str(gap["word"])
        return Value(word, f"{gap['gap']:+.3f}", small, told, gap=True, certified=certified)
    small = say.span(entry) or (word if word == REFUSED else "")
    return Value(word, say.times(entry).rstrip("*"), small, title, bool(flags), certified=certified)
