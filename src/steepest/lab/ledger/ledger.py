"""The runs of a folder, with everything that cannot be believed told and left out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

from steepest.core.errors import BadInput, CorruptFile
from steepest.lab import record
from steepest.lab.analysis.runs import FINISHED, UNFINISHED, Run
from steepest.lab.files import tell
from steepest.lab.ledger.entry import Entry, last_row, number, read_entry
from steepest.lab.ledger.index import Index, line_of, stamp

MANY, PART = 4000, 500
"""From how many unknown records on several processes read them; records that one of them takes at once."""

AHEAD = 600.0
"""Seconds by which another machine's clock may be ahead of this one's."""


@dataclass(frozen=True)
class Ledger:
    """Recorded runs, by name of their folder.

    problems: records that are left out, one line each. warnings: what was read but not all used, or told apart.
    """

    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    runs: list[Run] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", [entry.run for entry in self.entries])

    def told(self, most: int = 10) -> list[str]:
        """Problems and warnings, each sort cut after ``most`` lines."""
        lines = []
        for sort, found in (("left out", self.problems), ("note", self.warnings)):
            lines += [f"{sort}: {line}" for line in found[:most]]
            lines += [f"{sort}: {len(found) - most:,} more"] if len(found) > most else []
        return lines


def runs_of(
    folder: Path | str,
    ids: Iterable[str] | None = None,
    *,
    curves: bool = False,
    notice: Callable[[str], None] = tell,
) -> list[Run]:
    """The runs of these identities, in their order; or of all records that can be believed.

    notice: is told what else there is to say. Raises: CorruptFile where a run that was asked for by its identity
    is not to be had.
    """
    ledger = read_runs(folder, ids, curves=curves)
    if ids is not None and ledger.problems:
        more = f" (and {len(ledger.problems) - 1} more)" if len(ledger.problems) > 1 else ""
        raise CorruptFile(ledger.problems[0] + more)
    for line in ledger.told():
        notice(line)
    return ledger.runs


def read_runs(
    folder: Path | str,
    ids: Iterable[str] | None = None,
    *,
    curves: bool = False,
    workers: int = 1,
    progress: Callable[[int], None] = lambda read: None,
) -> Ledger:
    """Every recorded run under ``folder``, or those of ``ids`` (identities or their first 16 digits), in order.

    Runs on unlike ground (another corpus, length of sequence or size of evaluation, an older version of training,
    model or rule) are told apart by ``variant``: the commonest ground, of versions the newest, goes without a
    word, the others have ``corpus=1f3a09c2`` or the like added. curves: of every run, from all of its rows.
    workers: processes that read thousands of records which the index does not hold; with 2 or more, call it from a
    module or under ``if __name__ == "__main__"``. ``progress(n)`` is called now and then meanwhile. Raises:
    BadInput where there is no such folder.
    """
    folder = Path(folder)
    names = list(dict.fromkeys(i[:16] for i in ids)) if ids is not None else _names(folder)
    problems: list[str] = []
    entries = list(_entries(folder, names, ids is not None, problems, workers, progress))
    warnings: list[str] = []
    if ids is None:
        entries = _without_repeats(_without_copies(entries, problems), warnings)
    if curves:
        entries = [_with_curve(entry, warnings) for entry in entries]
    entries = _with_clocks(entries, time.time(), warnings)
    warnings += _unknown(entries)
    return Ledger(tuple(_apart(entries, warnings)), tuple(problems), tuple(warnings))


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as found:
            return sorted(entry.name for entry in found if entry.is_dir())
    except FileNotFoundError:
        raise BadInput(f"no folder {folder}: name the one that `steepest train` or `race` wrote to") from None
    except OSError as error:
        raise BadInput(f"{folder} cannot be read: {error.strerror or error}") from error


def _entries(
    folder: Path,
    names: Sequence[str],
    wanted: bool,
    problems: list[str],
    workers: int,
    progress: Callable[[int], None],
) -> Iterator[Entry]:
    """Every record that can be read, from the index or itself."""
    index = Index(folder)
    read = _read_at_once(folder, [name for name in names if not index.knows(name)], index, workers, progress)
    found = set()
    for name in names:
        path = f"{folder}/{name}"
        try:
            stamped = stamp(path)
            if stamped is None:
                if wanted or _remains(path):
                    problems.append(f"{path} holds no {record.HEADER}: it is not the record of a run")
                continue
            found.add(name)
            entry = index.get(name, stamped)
            if entry is None:
                entry = read_entry(path)
                index.put(name, line_of(name, stamped, entry))
                if (read := read + 1) % 1000 == 0:
                    progress(read)
            yield entry.at(*last_row(path)) if entry.run.status == UNFINISHED else entry
        except CorruptFile as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror or error}")
    index.flush()
    if not wanted:
        index.tidy(found)


def _read_at_once(
    folder: Path, names: Sequence[str], index: Index, workers: int, progress: Callable[[int], None]
) -> int:
    """Puts records into the index that several processes have read; how many."""
    if workers < 2 or len(names) < MANY:
        return 0
    parts = [names[place : place + PART] for place in range(0, len(names), PART)]
    context = multiprocessing.get_context("spawn")
    read = 0
    with ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            for lines in pool.map(_lines, repeat(str(folder)), parts):
                for name, line in lines:
                    index.put(name, line)
                progress(read := read + len(lines))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return read


def _lines(folder: str, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """Lines of the index for those that can be read; of the others the caller sees for itself what is wrong."""
    lines = []
    for name in names:
        with suppress(CorruptFile, OSError):
            if (stamped := stamp(f"{folder}/{name}")) is not None:
                lines.append((name, line_of(name, stamped, read_entry(f"{folder}/{name}"))))
    return lines


def _remains(path: str) -> bool:
    """Whether a folder without a header is what is left of a run."""
    return any(os.path.lexists(f"{path}/{name}") for name in (record.ROWS, record.RESULT))


def _without_copies(entries: Sequence[Entry], problems: list[str]) -> list[Entry]:
    """One record for each identity; where records of one identity disagree, none."""
    by_identity: dict[str, list[Entry]] = {}
    for entry in entries:
        by_identity.setdefault(entry.identity, []).append(entry)
    if len(by_identity) == len(entries):
        return list(entries)
    kept = []
    for identity, same in by_identity.items():
        ended = [entry for entry in same if entry.run.status != UNFINISHED] or same
        endings = {(entry.run.status, entry.run.loss) for entry in ended}
        if len(endings) == 1:
            kept.append(next((e for e in ended if e.run.source.endswith(e.run.run)), ended[0]))
            continue
        told = ", ".join(f"{entry.run.source} says {_ending(entry.run)}" for entry in ended)
        problems.append(f"run {identity[:16]} is recorded {len(ended)} times: {told}: keep the right one")
    return kept


def _ending(run: Run) -> str:
    return f"loss {run.loss!r}" if run.loss is not None else run.status


def _without_repeats(entries: Sequence[Entry], warnings: list[str]) -> list[Entry]:
    """One run for each configuration: evaluated at other steps it has another identity, and is the same run."""
    kept: dict[str, Entry] = {}
    repeats = 0
    for entry in entries:
        other = kept.setdefault(entry.likeness, entry)
        if other is entry:
            continue
        repeats += 1
        if UNFINISHED not in (other.run.status, entry.run.status):
            if _ending(other.run) != _ending(entry.run):
                warnings.append(
                    f"runs {other.run.run} and {entry.run.run} differ only in when they were evaluated, and end "
                    f"with {_ending(other.run)} and {_ending(entry.run)}: the first is used"
                )
        elif entry.run.status == FINISHED or other.run.status == UNFINISHED:
            kept[entry.likeness] = entry
    if repeats:
        warnings.append(f"{repeats} runs repeat another one with evaluations at other steps: one of each is used")
    return list(kept.values()) if repeats else list(entries)


def _with_clocks(entries: Sequence[Entry], now: float, warnings: list[str]) -> list[Entry]:
    """Times left out where a clock has jumped."""
    result = []
    for entry in entries:
        if entry.created is not None and entry.created > now + AHEAD:
            entry = _untimed(entry, "it began in the future")
        if entry.flags:
            warnings.append(f"{entry.run.source}: {', '.join(entry.flags)}: its times are not used")
        result.append(entry)
    return result


def _untimed(entry: Entry, flag: str) -> Entry:
    return replace(entry, created=None, flags=(*entry.flags, flag), run=replace(entry.run, seconds=None))


def _with_curve(entry: Entry, warnings: list[str]) -> Entry:
    """With (tokens, validation loss) from the rows."""
    try:
        rows = record.read_rows(Path(entry.run.source))
        seconds = [row.get("seconds", 0.0) for row in rows]
        points = [(row["tokens"], row["val_loss"]) for row in rows if row.get("val_loss") is not None]
    except (CorruptFile, OSError, KeyError) as error:
        warnings.append(f"{entry.run.source} has no curve: {error}")
        return entry
    if not all(number(value) for point in points for value in point):
        warnings.append(f"{entry.run.source} has no curve: a validation loss in its rows is no number")
        return entry
    if not all(map(number, seconds)) or any(b < a for a, b in pairwise(seconds)):
        entry = _untimed(entry, "the seconds of its rows go backwards")
    return replace(entry, run=replace(entry.run, curve=tuple(points)))


def _unknown(entries: Iterable[Entry]) -> list[str]:
    counts = Counter(key for entry in entries for key in entry.unknown)
    return [
        f"{count} records hold {key}, which this version does not know: it is left out"
        for key, count in counts.items()
    ]


def _apart(entries: list[Entry], warnings: list[str]) -> list[Entry]:
    """Runs that stand on another ground than the others have it added to their variant."""
    usual: dict[Any, str] = {}
    for name in ("corpus", "seq", "evaluation"):
        counts = Counter(entry.ground[name] for entry in entries)
        if len(counts) > 1:
            usual[name] = max(counts, key=lambda value: (counts[value], value))
            told = ", ".join(f"{count} on {name}={value}" for value, count in counts.most_common())
            warnings.append(f"runs that cannot be compared are told apart by their variant: {told}")
    for name in ("training-version", "model-version"):
        _newest(usual, name, ((e.ground[name], e.created) for e in entries), warnings)
    rules: dict[str, list[tuple[str, float | None]]] = {}
    for entry in entries:
        rules.setdefault(entry.run.optimizer, []).append((entry.ground["rule-version"], entry.created))
    for optimizer, versions in rules.items():
        _newest(usual, ("rule", optimizer), versions, warnings)
    return [_on_its_ground(entry, usual) for entry in entries] if usual else entries


def _newest(
    usual: dict[Any, str], name: Any, found: Iterable[tuple[str, float | None]], warnings: list[str]
) -> None:
    """The newest version, of texts the one used last, where there are several."""
    last: dict[str, float] = {}
    for version, created in found:
        last[version] = max(last.get(version, 0.0), created or 0.0)
    if len(last) > 1:
        numbered = all(part.isdigit() for version in last for part in version.split("."))
        usual[name] = max(last, key=lambda v: tuple(map(int, v.split("."))) if numbered else (last[v],))
        what = name if isinstance(name, str) else f"rule-version of {name[1]}"
        warnings.append(f"runs of another {what} than {usual[name]} are told apart by their variant")


def _on_its_ground(entry: Entry, usual: dict[Any, str]) -> Entry:
    words = [entry.run.variant] if entry.run.variant else []
    for name, value in entry.ground.items():
        expected = usual.get(("rule", entry.run.optimizer) if name == "rule-version" else name, value)
        if value != expected:
            words.append(f"{name}={value}")
    return replace(entry, run=replace(entry.run, variant=" ".join(words)))
