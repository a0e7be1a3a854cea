"""A record is appended to, never edited; what a kill or a full disk leaves of it is read or named."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from steepest.core.errors import CorruptFile, SteepestError
from steepest.lab import files, record
from steepest.lab.record import Record


def row(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {"step": step, "loss": loss, "val_loss": None}


def write(folder: Path, *rows: dict[str, Any]) -> None:
    appended = Record(folder)
    for one in rows:
        appended.append(one)
    appended.close()


def test_the_last_row_of_a_step_wins(tmp_path: Path) -> None:
    write(tmp_path, row(1), row(2, 2.0), row(3, 3.0), row(2, 2.5))
    assert [r["loss"] for r in record.read_rows(tmp_path)] == [1.0, 2.5, 3.0]


def test_appending_leaves_every_earlier_byte_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, row(1), row(2))
    before = (tmp_path / "rows.jsonl").read_bytes()
    write(tmp_path, row(2, 9.0))
    assert (tmp_path / "rows.jsonl").read_bytes().startswith(before)


@pytest.mark.parametrize("cut", range(1, len(json.dumps(row(3))) + 1))
def test_a_torn_last_line_is_left_out_and_the_next_append_mends_it(tmp_path: Path, cut: int) -> None:
    write(tmp_path, row(1), row(2), row(3))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    kept = [r["step"] for r in record.read_rows(tmp_path)]
    assert kept == ([1, 2, 3] if cut == 1 else [1, 2])  # without its newline alone, the row is whole
    write(tmp_path, row(3, 7.0))
    assert [r["loss"] for r in record.read_rows(tmp_path)] == [1.0, 1.0, 7.0]
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_damaged_row_in_the_middle_is_named_by_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, row(1), row(2), row(3))
    path = tmp_path / "rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"step": 2, "lo\x00\n' + lines[2])
    with pytest.raises(CorruptFile, match=r"rows\.jsonl line 2 is damaged.*delete"):
        record.read_rows(tmp_path)


def test_a_missing_step_is_named(tmp_path: Path) -> None:
    write(tmp_path, row(1), row(3))
    with pytest.raises(CorruptFile, match=r"rows\.jsonl lacks step 2"):
        record.read_rows(tmp_path)


def test_a_finished_record_that_was_truncated_is_named(tmp_path: Path) -> None:
    write(tmp_path, row(1), row(2))
    record.write_result(tmp_path, {"format": record.FORMAT, "step": 3})
    with pytest.raises(CorruptFile, match="lacks step 3"):
        record.read_rows(tmp_path)


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    write(tmp_path, row(1, math.nan), row(2, math.inf))
    assert [r["loss"] for r in record.read_rows(tmp_path)] == [None, None]


@pytest.mark.parametrize("name", [record.HEADER, record.RESULT])
def test_a_damaged_header_or_result_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"format": 1, "iden')
    with pytest.raises(CorruptFile, match=name.replace(".", r"\.")):
        record.read_header(tmp_path) if name == record.HEADER else record.read_result(tmp_path)


def test_a_folder_without_a_header_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"holds no header\.json"):
        record.read_header(tmp_path)
    assert record.list_runs(tmp_path) == []
    assert record.list_runs(tmp_path / "nowhere") == []


def test_pandas_reads_the_rows_as_numbers(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    write(tmp_path, row(1), row(2, math.nan), row(3), {**row(2, 2.5), "val_loss": 4.5})
    table = pandas.read_json(tmp_path / "rows.jsonl", lines=True).drop_duplicates("step", keep="last")
    assert table.dtypes["step"] == "int64"
    assert table.dtypes["loss"] == table.dtypes["val_loss"] == "float64"
    ours = record.read_rows(tmp_path)
    assert table.sort_values("step")["loss"].tolist() == [r["loss"] for r in ours]


def test_a_full_disk_is_one_line_and_every_earlier_row_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended = Record(tmp_path)
    appended.append(row(1))
    real = appended._file

    class Full:
        """A disk with room for five more bytes."""

        room = 5

        def write(self, data: memoryview) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, self.room = real.write(data[: self.room]) or 0, 0
            return taken

    monkeypatch.setattr(appended, "_file", Full())
    with pytest.raises(SteepestError, match=r"cannot write .*rows\.jsonl: No space left on device"):
        appended.append(row(2))
    real.close()
    assert [r["step"] for r in record.read_rows(tmp_path)] == [1]
    write(tmp_path, row(2))
    assert [r["step"] for r in record.read_rows(tmp_path)] == [1, 2]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appended = Record(tmp_path)
    real = appended._file

    class Slow:
        def write(self, data: memoryview) -> int:
            return real.write(data[:3]) or 0

    monkeypatch.setattr(appended, "_file", Slow())
    appended.append(row(1))
    real.close()
    assert record.read_rows(tmp_path) == [row(1)]


def test_replacing_a_file_on_a_full_disk_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.replace(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SteepestError, match=r"cannot write .*file: No space left on device.*run the same"):
        files.replace(path, b"new", keep=tmp_path / "kept")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock of ``folder``."""
    pytest.importorskip("fcntl", reason="this system has no file locks")
    code = (
        "import sys, time; from pathlib import Path; from steepest.lab.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()
            process.wait()


def test_a_second_process_says_whom_it_waits_for_and_a_killed_holder_lets_go(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        notices = []

        def notice(message: str) -> None:
            notices.append(message)
            process.kill()

        with files.locked(tmp_path, notice):
            pass
        assert notices == [f"{tmp_path} is in use by process {process.pid}: waiting for it to end"]


def test_who_will_not_wait_is_told_the_holder_and_gets_the_folder_once_it_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with (
            pytest.raises(files.Busy, match=f"in use by process {process.pid}: try again"),
            files.locked(tmp_path, wait=False),
        ):
            raise AssertionError("two processes hold one folder")
        process.kill()
        process.wait()
        with files.locked(tmp_path, wait=False):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_one_process_does_not_hold_a_folder_twice(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="this system has no file locks")
    with (
        files.locked(tmp_path),
        pytest.raises(files.Busy, match=f"process {os.getpid()}"),
        files.locked(tmp_path, wait=False),
    ):
        raise AssertionError("two threads hold one folder")


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="this system has no file locks")

    def none(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(SteepestError, match=r"cannot write .*lock: No locks available"), files.locked(tmp_path):
        raise AssertionError("held without a lock")
