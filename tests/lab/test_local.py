"""Local processes: a lost worker is told and the others go on; nothing outlives the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from steepest.core.errors import BadInput
from steepest.lab.cluster.local import Job, submit


def double(value: int, report: Any) -> int:
    report(value)
    return 2 * value


def fail(words: str, report: Any) -> None:
    raise ValueError(words)


def bad_input(report: Any) -> None:
    raise BadInput("lr=nan: give a number")


def leave(report: Any) -> None:
    sys.exit("gone")


def killed(report: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash(report: Any) -> None:
    os.write(2, b"last words\n")
    os._exit(7)


def threads(report: Any) -> str:
    return os.environ["OMP_NUM_THREADS"]


def process(report: Any) -> int:
    return os.getpid()


def slow(path: str, report: Any) -> None:
    Path(path, str(os.getpid())).touch()
    report("started")
    time.sleep(60)


def test_values_come_back_and_reports_on_the_way() -> None:
    seen: list[tuple[str, int]] = []
    jobs = [Job(str(n), double, (n,)) for n in range(5)]
    ended = submit(jobs, 2, progress=lambda job, value: seen.append((job.name, value)))
    assert {o.job.name: o.value for o in ended} == {str(n): 2 * n for n in range(5)}
    assert sorted(seen) == [(str(n), n) for n in range(5)]


def test_a_job_that_ends_may_call_for_more() -> None:
    def then(outcome: Any) -> list[Job]:
        return [Job("next", double, (outcome.value,))] if outcome.value < 16 else []

    assert [o.value for o in submit([Job("first", double, (1,))], 2, then=then)] == [2, 4, 8, 16]


def test_a_job_that_fails_is_told_and_the_others_go_on() -> None:
    jobs = [
        Job("raises", fail, ("out of\npaper",)),
        Job("user", bad_input),
        Job("exits", leave),
        Job("killed", killed),
        Job("crashes", crash),
        Job("fine", double, (4,)),
    ]
    ended = {o.job.name: o for o in submit(jobs, 2)}
    assert ended["raises"].error == "ValueError: out of paper"
    assert "in fail" in ended["raises"].tail
    assert ended["user"].error == "lr=nan: give a number"
    assert ended["user"].tail == ""
    assert ended["exits"].error == "SystemExit: gone"
    assert "SIGKILL" in (ended["killed"].error or "")
    assert "memory" in (ended["killed"].error or "")
    assert "status 7" in (ended["crashes"].error or "")
    assert ended["crashes"].tail == "last words"
    assert ended["fine"].value == 8
    assert ended["fine"].error is None


def test_lower_priority_numbers_go_first() -> None:
    jobs = [Job("late", double, (1,), 2.0), Job("early", double, (2,), 1.0), Job("later", double, (3,), 2.0)]
    assert [o.job.name for o in submit(jobs, 1)] == ["early", "late", "later"]


def test_a_worker_has_the_threads_asked_for_and_takes_one_job_after_another() -> None:
    assert submit([Job("threads", threads)], 1, threads=3)[0].value == "3"
    assert len({o.value for o in submit([Job(str(n), process) for n in range(4)], 1)}) == 1


def test_zero_workers_are_refused() -> None:
    with pytest.raises(BadInput, match="workers=0"):
        submit([], 0)


def test_no_jobs_are_no_outcomes() -> None:
    assert submit([], 2) == []


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def ended_within(pids: list[int], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if all(gone(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_a_callback_that_raises_stops_all_workers(tmp_path: Path) -> None:
    def progress(job: Job, value: Any) -> None:
        if len(list(tmp_path.iterdir())) == 2:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        submit([Job(str(n), slow, (str(tmp_path),)) for n in range(2)], 2, progress=progress)
    assert ended_within([int(p.name) for p in tmp_path.iterdir()], 5)
    assert time.monotonic() - began < 50


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    module = tmp_path / "sleepers.py"
    module.write_text(
        textwrap.dedent("""
        import os, pathlib, signal, sys, time
        from steepest.lab.cluster.local import Job, submit

        def slow(path, report):
            pathlib.Path(path, str(os.getpid())).touch()
            time.sleep(60)

        if __name__ == "__main__":
            # Where the tests themselves run behind a shell's &, children are born deaf to it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            submit([Job(str(n), slow, (sys.argv[1],)) for n in range(2)], 2)
        """)
    )
    marks = tmp_path / "marks"
    marks.mkdir()
    parent = subprocess.Popen([sys.executable, str(module), str(marks)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while len(list(marks.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    workers = [int(path.name) for path in marks.iterdir()]
    assert len(workers) == 2
    parent.send_signal(number)
    parent.wait(20)
    assert ended_within(workers, 10)
