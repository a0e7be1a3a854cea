"""The record of a run: ``header.json``, append-only ``rows.jsonl``, ``result.json``. No torch here.

``rows.jsonl`` holds one JSON object per training step; pandas, DuckDB and Polars read it directly. After a
kill the rows past the last checkpoint are written again, never edited: **the last row of a step wins**
(``pandas.read_json(path, lines=True, precise_float=True).drop_duplicates("step", keep="last")``). Columns:

========================  =============================================================================
step                      1, 2, ...: the update that this row describes
tokens                    training tokens seen after the step
loss                      cross-entropy of the step's batch before the update, nats/token
lr                        the learning rate that was asked for, times the schedule's factor
gradient_norm             global norm of the gradient before clipping
val_loss                  validation cross-entropy after the update, nats/token; null where not evaluated
val_bits_per_byte         the same in bits per byte of text
seconds                   training time so far, without evaluation and checkpoints
forward_backward_seconds  its part in batches, forward and backward passes and clipping
optimizer_seconds         its part in ``optimizer.step()``
estimate_seconds          its part in what the rule asks for beside the gradient (a Hessian estimate)
evaluation_seconds        time in evaluation so far
========================  =============================================================================

Columns that end in ``seconds`` are times; every other column is the same bits in every repetition. A number
that is not finite is stored as null, so that every reader sees a numeric column; ``reason`` in
``result.json`` says which number it was. Its ``spikes`` score the loss and the gradient norm of the rows, see
``lab/analysis/spikes.py``; records from before have none, and the same rows give them.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

from steepest.core.errors import CorruptFile
from steepest.lab.files import replace, writing

HEADER, ROWS, RESULT = "header.json", "rows.jsonl", "result.json"
FORMAT = 1
LONGEST_ROW = 1 << 16


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no blanks; numbers that are not finite become null."""
    return json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class Record:
    """Appends rows to ``folder/rows.jsonl``; a line torn by a kill is cut off first."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ROWS
        with writing(self.path):
            # Unbuffered: a row is one write, so a kill loses at most the line that is being written.
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
            self._mend()

    def _mend(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - LONGEST_ROW))
        tail = self._file.read()
        whole, _, torn = tail.rpartition(b"\n")
        if not torn:
            return
        if row_of(torn) is not None:  # only the newline is missing
            self._file.write(b"\n")
        elif whole or size <= LONGEST_ROW:
            self._file.truncate(size - len(torn))
        else:
            raise CorruptFile(f"{self.path} ends in no row: restore it, or delete the folder to train again")

    def append(self, row: dict[str, Any]) -> None:
        """Writes one row; a full disk is a one-line error."""
        line = memoryview(json.dumps(_finite(row), allow_nan=False).encode() + b"\n")
        with writing(self.path):
            while line:
                line = line[self._file.write(line) or 0 :]

    def sync(self) -> None:
        """Forces the rows to the disk, before a checkpoint: it must never know more rows than exist."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def row_of(line: bytes) -> dict[str, Any] | None:
    """The row of a line; None for a line that is torn or damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run in order of step, the last of each step; a torn last line is left out.

    Raises CorruptFile with file and line for a damaged row in the middle, a missing step, or a finished run
    whose last rows are gone.
    """
    path = folder / ROWS
    rows: dict[int, dict[str, Any]] = {}
    if path.exists():
        *whole, torn = path.read_bytes().split(b"\n")
        for number, line in enumerate(whole, 1):
            if (row := row_of(line)) is None:
                raise CorruptFile(
                    f"{path} line {number} is damaged ({line[:40].decode(errors='replace')!r}): "
                    f"restore it, or delete {folder} to train the run again"
                )
            rows[row["step"]] = row
        if torn and (row := row_of(torn)) is not None:
            rows[row["step"]] = row
    ordered = [rows[step] for step in sorted(rows)]
    missing = next((step for step, row in enumerate(ordered, 1) if row["step"] != step), None)
    result = read_result(folder)
    if missing is None and result is not None and len(ordered) < result["step"]:
        missing = len(ordered) + 1
    if missing is not None:
        raise CorruptFile(f"{path} lacks step {missing}: restore it, or delete {folder} to train the run again")
    return ordered


def write_header(folder: Path, header: dict[str, Any]) -> None:
    """Writes ``header.json`` whole or not at all."""
    _write(folder / HEADER, header)


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Writes ``result.json`` whole or not at all: from then on the run is finished."""
    _write(folder / RESULT, result)


def _write(path: Path, value: dict[str, Any]) -> None:
    replace(path, (json.dumps(_finite(value), indent=1, allow_nan=False) + "\n").encode())


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a run; :class:`CorruptFile` when there is none."""
    header = _read(folder / HEADER)
    if header is None:
        raise CorruptFile(f"{folder} holds no {HEADER}: it is not the record of a run")
    return header


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a run; None while it is not finished."""
    return _read(folder / RESULT)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return parsed(path.read_bytes(), path)
    except FileNotFoundError:
        return None


def parsed(data: bytes, path: Path | str) -> dict[str, Any]:
    """The content of a header or a result. Raises: CorruptFile that names ``path``."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is damaged: delete it and run the same command again") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CorruptFile(f"{path} is not of format {FORMAT}: move it away, or use the version that wrote it")
    return value


def list_runs(runs: Path) -> list[Path]:
    """The folders under ``runs`` that hold a run, by name; empty when ``runs`` does not exist."""
    return sorted(path.parent for path in runs.glob(f"*/{HEADER}"))


def versions() -> dict[str, str]:
    """Versions of what a run stands on."""
    found = {"python": platform.python_version()}
    for name in ("steepest", "torch", "numpy", "tokenizers", "datasets"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "source tree" if name == "steepest" else "not installed"
    return found


def hardware() -> dict[str, Any]:
    """The machine: system, processor, cores; and the accelerator where torch is loaded and sees one."""
    found: dict[str, Any] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
