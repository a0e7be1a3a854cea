"""Rows of a foreign table as runs; what is wrong with a row is told, and the rest is read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steepest.core.errors import BadInput, CorruptFile, SteepestError
from steepest.lab.analysis.runs import DIVERGED, FINISHED, TOKENS_PER_WEIGHT, UNFINISHED, Run, Scalar
from steepest.lab.foreign.columns import Columns
from steepest.lab.foreign.files import rows

STATUSES = {
    **dict.fromkeys(("finished", "complete", "completed", "done", "success", "succeeded"), FINISHED),
    **dict.fromkeys(("diverged", "nan"), DIVERGED),
    **dict.fromkeys(
        ("unfinished", "running", "pending", "queued", "crashed", "failed", "killed", "preempted", "stopped"),
        UNFINISHED,
    ),
}
TRUE, FALSE = ("1", "true", "yes", "y", "t", "1.0"), ("0", "false", "no", "n", "f", "0.0")
APART = 0.01
"""Tokens and ratio x 20 x weights that differ by more than this share are told."""

_WORDS = {"true": True, "false": False, "none": None, "null": None}
_FIRST_SERVES = ("run", "seconds", "status")
"""Fields of which a table may hold several (W&B: ID and Name): the preferred one is taken without a word."""


@dataclass(frozen=True)
class Complaint:
    """What is wrong, and where: the row as the file counts it (0: the whole file), the column if it is one's."""

    file: str
    row: int
    column: str
    text: str

    def __str__(self) -> str:
        where = f" row {self.row}" if self.row else ""
        return f"{self.file}{where}{f', column {self.column}' if self.column else ''}: {self.text}"


@dataclass(frozen=True)
class Imported:
    """runs: all that could be read, in the order of the file. rows: how many it had; left_out: of them, not read,
    each with a complaint; repeated: of them, the same run told again. unread: columns without a meaning here, each
    with a guess or "".
    """

    runs: list[Run]
    rows: int
    left_out: int
    repeated: int
    complaints: list[Complaint]
    unread: dict[str, str] = field(default_factory=dict)


class _Wrong(Exception):
    """A value that leaves its row out: the column, and why."""

    def __init__(self, column: str, text: str) -> None:
        self.column, self.text = column, text


def read(
    path: Path | str, columns: Mapping[str, str] | None = None, *, diverged_above: float | None = None
) -> Imported:
    """The runs of a table (docs/importing.md). ``columns``: own names to columns of the file, or to ``=value``.

    diverged_above: a final loss above it counts as diverged; by itself only one that is no number does. Two rows
    of one identity (everything but loss, time and cost) that agree are one run; those that disagree are both kept,
    and told. Raises BadInput and CorruptFile where no row could be read.
    """
    path = Path(path)
    meant = Columns(columns)
    complaints: list[Complaint] = []

    def tell(row: int, column: str, text: str) -> None:
        complaints.append(Complaint(path.name, row, column, text))

    runs: list[Run] = []
    seen: dict[tuple[Any, ...], list[tuple[Run, int]]] = {}
    given = repeated = 0

    def unreadable(row: int, column: str, text: str) -> None:
        nonlocal given
        given += 1
        tell(row, column, text)

    for number, row in rows(path, unreadable):
        given += 1
        try:
            run = _run(meant.of(row), path.name, number, diverged_above, tell)
        except _Wrong as wrong:
            tell(number, wrong.column, f"{wrong.text}: the row is left out")
            continue
        twins = seen.setdefault(_identity(run), [])
        if any((run.status, run.loss) == (twin.status, twin.loss) for twin, _ in twins):
            repeated += 1
            continue
        if twins:
            tell(number, "", _disagreement(run, *twins[0]))
        twins.append((run, number))
        runs.append(run)
    meant.check()
    if not runs:
        raise _nothing(path, given, complaints, meant.unread)
    return Imported(runs, given, given - len(runs) - repeated, repeated, complaints, meant.unread)


def _nothing(path: Path, given: int, complaints: list[Complaint], unread: dict[str, str]) -> SteepestError:
    if given:
        idle = f"; not read: {', '.join(list(unread)[:8])}" if unread else ""
        return BadInput(f"no run in {path}: all {given} rows are left out, {complaints[0]}{idle}")
    return CorruptFile(f"{path} holds no rows: export it again")


def _run(
    found: dict[str, dict[str, Any]],
    file: str,
    number: int,
    diverged_above: float | None,
    tell: Callable[[int, str, str], None],
) -> Run:
    """One run from its columns by own name. Raises _Wrong; what is left out of a run that is kept is told."""
    take = _Taker(found, lambda column, text: tell(number, column, text))
    weights, tokens = _scale(take)
    status, loss, reason = _ending(take, diverged_above)
    optimizer = take.text("optimizer")
    if not optimizer:
        raise _Wrong("", "no optimizer (a column 'optimizer', or --columns optimizer=...)")
    return Run(
        run=take.text("run"),
        optimizer=optimizer,
        size=take.text("size") or f"{weights:,}",
        weights=weights,
        tokens=tokens,
        hyperparameters=take.hyperparameters(),
        status=status,
        loss=loss,
        seed=take.seed(),
        variant=take.text("variant"),
        steps=None if (steps := take.optional("steps")) is None else round(steps),
        flops=take.optional("flops"),
        seconds=take.optional("seconds"),
        state_bytes=take.optional("state_bytes"),
        purpose=take.text("purpose"),
        reason=reason,
        curve=take.curve(),
        source=take.text("source") or f"{file} row {number}",
    )


def _scale(take: _Taker) -> tuple[int, int]:
    """Weights and tokens, of which one follows from the other and the ratio."""
    weights, tokens, ratio = take.required("weights"), take.required("tokens"), take.required("ratio")
    if tokens is None and weights is not None and ratio is not None:
        tokens = ratio * TOKENS_PER_WEIGHT * weights
    elif weights is None and tokens is not None and ratio is not None:
        weights = tokens / (TOKENS_PER_WEIGHT * ratio)
    if weights is None or tokens is None:
        raise _Wrong("", "two of weights (without embeddings), tokens and ratio are needed")
    if ratio is not None and abs(tokens / (TOKENS_PER_WEIGHT * weights) / ratio - 1) > APART:
        take.note(
            "ratio", f"{ratio:g}, but tokens over 20 weights are {tokens / (20 * weights):.4g}: tokens count"
        )
    return round(weights), round(tokens)


def _ending(take: _Taker, diverged_above: float | None) -> tuple[str, float | None, str | None]:
    """Status, loss and reason; a loss that is no number, or is above the limit, is one of a diverged run."""
    column, said = take.one("loss")
    loss = None if said is None else _number(column, said)
    diverged = take.flag("diverged")
    reason = take.text("reason") or None
    column_of_status, word = take.one("status")
    status = None if word is None else STATUSES.get(str(word).strip().lower())
    if word is not None and status is None:
        take.note(
            column_of_status,
            f"{word!r} is no status (finished, diverged, unfinished, or W&B's): taken as unfinished",
        )
        status = UNFINISHED
    if loss is not None and not math.isfinite(loss):
        if not diverged and status != DIVERGED:
            take.note(column, f"the loss is {loss}: taken as diverged")
        return DIVERGED, None, reason or f"loss {loss}"
    if diverged or status == DIVERGED:
        return DIVERGED, None, reason or ("diverged" if loss is None else f"diverged at loss {loss:.6g}")
    if loss is not None and diverged_above is not None and loss > diverged_above:
        return DIVERGED, None, reason or f"loss {loss:.6g} is above {diverged_above:g}"
    if status == UNFINISHED:
        return UNFINISHED, None, reason or (None if word is None else str(word))
    if loss is None:
        take.note(
            "loss", "none is given" + ("" if word is None else f" though it is {word}") + ": taken as unfinished"
        )
        return UNFINISHED, None, reason
    if loss <= 0:
        raise _Wrong(column, f"{loss:g} is no cross-entropy in nats/token")
    return FINISHED, loss, reason


class _Taker:
    """Takes typed values out of one row's columns by own name."""

    def __init__(self, found: dict[str, dict[str, Any]], note: Callable[[str, str], None]) -> None:
        self.found, self.note = found, note

    def one(self, own: str) -> tuple[str, Any]:
        """Column and value; the value is None where no column means ``own``. Two that disagree are wrong."""
        values = self.found.get(own)
        if not values:
            return own, None
        (column, value), *others = values.items()
        for other, another in others:
            if own not in _FIRST_SERVES and str(another) != str(value):
                choice = f"choose with --columns {own}={column}"
                raise _Wrong(
                    column, f"{value!r}, and column {other!r} says {another!r}; both mean {own}: {choice}"
                )
        return column or own, value

    def text(self, own: str) -> str:
        return "" if (value := self.one(own)[1]) is None else str(value).strip()

    def required(self, own: str) -> float | None:
        """A finite number above 0, or None where there is no value."""
        column, value = self.one(own)
        if value is None:
            return None
        number = _number(column, value)
        if not (math.isfinite(number) and number > 0):
            raise _Wrong(column, f"{value!r} is not above 0")
        return number

    def optional(self, own: str) -> float | None:
        """A finite number from 0 on; any other is told and dropped, for the run is good without it."""
        column, value = self.one(own)
        try:
            number = None if value is None else _number(column, value)
        except _Wrong as wrong:
            self.note(column, f"{wrong.text}: it is dropped")
            return None
        if number is not None and not (math.isfinite(number) and number >= 0):
            self.note(column, f"{value!r} is no finite number from 0 on: it is dropped")
            return None
        return number

    def seed(self) -> int | None:
        """Any whole number: runs of one setting are told apart by it, so that a wrong one costs its run."""
        column, value = self.one("seed")
        number = None if value is None else _number(column, value)
        if number is not None and not (math.isfinite(number) and number == int(number)):
            raise _Wrong(column, f"{value!r} is no whole number")
        return None if number is None else int(number)

    def flag(self, own: str) -> bool:
        column, value = self.one(own)
        word = "0" if value is None else str(value).strip().lower()
        if word not in TRUE + FALSE:
            raise _Wrong(column, f"{value!r} is neither true nor false")
        return word in TRUE

    def hyperparameters(self) -> dict[str, Scalar]:
        values: dict[str, Scalar] = {}
        for own, given in self.found.items():
            if not own.startswith("hp."):
                continue
            column, value = next(iter(given.items())) if len(given) == 1 else self.one(own)
            if type(value) is float and math.isfinite(value):  # most are: a large table is read much sooner
                values[own[3:]] = value
                continue
            name, one = own[3:], scalar(value)
            if name == "betas" and (several := _several(value)):
                values |= {f"beta{place}": beta for place, beta in enumerate(several, 1)}
            elif isinstance(one, float) and not math.isfinite(one):
                self.note(column, f"{value!r} is no finite number: it is dropped")
            else:
                values[name] = one
        return values

    def curve(self) -> tuple[tuple[int, float], ...]:
        """``[[tokens, loss], ...]``; one that is not of that form is told and dropped."""
        column, value = self.one("curve")
        if value is None:
            return ()
        try:
            pairs = json.loads(value) if isinstance(value, str) else value
            return tuple((int(tokens), float(loss)) for tokens, loss in pairs)
        except (ValueError, TypeError):
            self.note(column, "it is no list of [tokens, loss]: it is dropped")
            return ()


def scalar(value: Any) -> Scalar:
    """A hyperparameter from a cell: text that reads as a number or truth value is one; what is nested is text."""
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, sort_keys=True, default=str)
    if not isinstance(value, str):
        return value if isinstance(value, float | int | bool) or value is None else str(value)
    word = value.strip()
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word


def _several(value: Any) -> list[Scalar]:
    """The numbers of a list, also of one written as text such as ``(0.9, 0.98)``; [] for anything else."""
    parts = value.strip().strip("[]()").split(",") if isinstance(value, str) else value
    found = [scalar(part) for part in parts] if isinstance(parts, list | tuple) else []
    return found if len(found) > 1 and all(isinstance(part, float | int) for part in found) else []


def _number(column: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (ValueError, TypeError, OverflowError):
        raise _Wrong(column, f"{value!r} is no number") from None


def _identity(run: Run) -> tuple[Any, ...]:
    """All that decides a run's numbers, as far as the table tells."""
    settings = frozenset(run.hyperparameters.items())
    return (run.optimizer, run.size, run.weights, run.tokens, run.variant, run.seed, run.steps, settings)


def _disagreement(run: Run, twin: Run, row: int) -> str:
    seed = "no seed given" if run.seed is None else f"seed {run.seed}"
    results = f"{_result(run)} here, {_result(twin)} there"
    return f"one identity with row {row} ({seed}) and another result, {results}: both are kept"


def _result(run: Run) -> str:
    return run.status if run.loss is None else f"loss {run.loss:.6g}"
