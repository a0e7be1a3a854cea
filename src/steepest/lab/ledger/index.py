"""What the records of a folder said when they were last read, so that 100,000 of them are listed in seconds.

``index.jsonl`` in the folder of the runs holds a line for each, in columns with tabs between: a checksum of the
rest, version, size and time of its two files, name of its folder, and the entry in JSON: what is its own, and
what it shares with runs of other rates and seeds, parsed once for all of them. It is appended to, the last line
of a name counts, and it is only a memory: a line whose files have changed since, that another version wrote, or
that is torn or damaged is as good as none, and the record is read again. Several processes may read and append
at once, be killed at any moment, and delete it.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from steepest.core.errors import SteepestError
from steepest.lab import record
from steepest.lab.analysis.runs import Run
from steepest.lab.files import locked, replace
from steepest.lab.ledger.entry import APART, Entry
from steepest.lab.presets import MODELS

NAME = "index.jsonl"

VERSION = b"1.%08x" % zlib.crc32(repr(MODELS).encode())
"""The number is raised when the same record gives another entry; the presets, which name models, count too."""

BATCH, DEAD = 2000, 1000
"""Lines that are appended at once; lines that may be out of date before the file is written anew."""


def stamp(folder: str) -> str | None:
    """Size and time (ns) of header and result; None without a header. Raises: OSError."""
    try:
        header = os.stat(f"{folder}/{record.HEADER}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        result = os.stat(f"{folder}/{record.RESULT}")
    except FileNotFoundError:
        return f"{header.st_size} {header.st_mtime_ns}"
    return f"{header.st_size} {header.st_mtime_ns} {result.st_size} {result.st_mtime_ns}"


class Index:
    """The index of one folder of runs, read at once, each line parsed when it is asked for."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.path = runs, runs / NAME
        self._known: dict[bytes, bytes] = {}
        self._shared: dict[bytes, list[Any]] = {}
        self._new: list[bytes] = []
        self._lines = 0
        with suppress(OSError):
            for line in self.path.read_bytes().split(b"\n"):
                columns = line.split(b"\t", 4)
                if len(columns) == 5:
                    self._known[columns[3]] = line
                self._lines += 1

    def get(self, name: str, stamped: str) -> Entry | None:
        """The entry of the run in the folder ``name``, if its files are as they were."""
        line = self._known.get(os.fsencode(name))
        if line is None:
            return None
        check, version, known, _, text = line.split(b"\t", 4)
        if version != VERSION or known != stamped.encode() or check != _check(line[9:]):
            return None
        own, _, shared = text.partition(b"\t")
        if shared not in self._shared:
            self._shared[shared] = _shared(shared)
        return _entry(own, self._shared[shared], f"{self.runs}/{name}")

    def knows(self, name: str) -> bool:
        """Whether there is a line, right or not, for the folder ``name``."""
        return os.fsencode(name) in self._known

    def put(self, name: str, line: bytes) -> None:
        """Remembers a line that :func:`line_of` made."""
        self._new.append(line)
        self._known[os.fsencode(name)] = line
        if len(self._new) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Writes what is new. A folder that cannot be written to has no index, and is listed all the same."""
        if not self._new:
            return
        # The first newline ends a line that a killed process left half written.
        data = memoryview(b"\n".join((b"", *self._new, b"")))
        with suppress(OSError), open(self.path, "ab", buffering=0) as file:
            while data:
                data = data[file.write(data) or 0 :]
        self._lines += len(self._new)
        self._new.clear()

    def tidy(self, names: set[str]) -> None:
        """Writes the file anew where most lines are out of date; ``names``: the folders of all runs that exist."""
        if self._lines > 2 * len(names) + DEAD:
            kept = [line for name, line in self._known.items() if os.fsdecode(name) in names]
            with suppress(SteepestError), locked(self.runs, wait=False):
                replace(self.path, b"\n".join((*kept, b"")))


def line_of(name: str, stamped: str, entry: Entry) -> bytes:
    """The line of a run in the folder ``name``."""
    rest = b"\t".join((VERSION, stamped.encode(), os.fsencode(name), *_texts(entry)))
    return _check(rest) + b"\t" + rest


def _check(rest: bytes) -> bytes:
    return b"%08x" % zlib.crc32(rest)


def _texts(entry: Entry) -> list[bytes]:
    """What is the entry's own, and what it shares with runs of other rates and seeds, as JSON."""
    run, values = entry.run, dict(entry.run.hyperparameters)
    own = [
        run.run, values.pop("lr", None), run.status, run.loss, run.seed, run.seconds, run.state_bytes, run.reason,
        entry.identity, entry.likeness, entry.step, entry.created, entry.flags, entry.unknown,
    ]  # fmt: skip
    shared = [
        run.optimizer, run.size, run.weights, run.tokens, run.variant, run.steps, values,
        [entry.ground[key] for key in APART],
    ]  # fmt: skip
    return [json.dumps(part, separators=(",", ":")).encode() for part in (own, shared)]


def _entry(own: bytes, shared: list[Any], folder: str) -> Entry:
    (
        name, lr, status, loss, seed, seconds, state_bytes, reason,
        identity, likeness, step, created, flags, unknown,
    ) = json.loads(own)  # fmt: skip
    optimizer, size, weights, tokens, variant, steps, values, ground = shared
    run = Run(
        name, optimizer, size, weights, tokens, {"lr": lr, **values}, status, loss,
        seed=seed, variant=variant, steps=steps, seconds=seconds, state_bytes=state_bytes, reason=reason,
        source=folder,
    )  # fmt: skip
    return Entry(run, identity, ground, likeness, step, created, tuple(flags), tuple(unknown))


def _shared(text: bytes) -> list[Any]:
    *rest, ground = json.loads(text)
    return [*rest, dict(zip(APART, ground, strict=True))]
