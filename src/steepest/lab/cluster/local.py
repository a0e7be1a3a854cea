"""Jobs in processes of this machine, several at once.

A worker is a fresh interpreter (spawn) that takes one job after another. It lies in a session of its own, so that
Ctrl-C reaches the parent alone, which then stops every worker once; it dies with its parent, however that ends.
Call :func:`submit` from a module or under ``if __name__ == "__main__"``: spawned workers import the main module.
"""

from __future__ import annotations

import heapq
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from steepest.core.errors import BadInput, SteepestError

GRACE = 10.0
"""Seconds that a worker has to write a checkpoint before it is killed."""

TAIL = 2000
"""Characters of a worker's last words that are kept."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """``function(*arguments, report=...)`` under a name. Function and arguments are pickled: use a module's own.

    Jobs of lower ``priority`` start first, equal ones in the order in which they came.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    priority: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its value, or in one line why there is none, with the end of what the worker said.

    lost: the job neither ended nor failed: its process died.
    """

    job: Job
    value: Any = None
    error: str | None = None
    tail: str = ""
    lost: bool = False


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def submit(
    jobs: Iterable[Job],
    workers: int | None = None,
    *,
    threads: int = 1,
    then: Callable[[Outcome], Iterable[Job]] | None = None,
    progress: Callable[[Job, Any], None] | None = None,
) -> list[Outcome]:
    """Runs ``jobs`` on at most ``workers`` processes (as many as cores) of ``threads`` threads each.

    ``then(outcome)`` is called as each job ends and may return further jobs; ``progress(job, value)`` whenever a
    job calls its ``report(value)``. A job that raises, or whose process dies, has an ``error``; the others go on.
    On Ctrl-C, or if a callback raises, all workers are stopped before the exception leaves. Returns all outcomes
    in the order in which they ended.
    """
    if workers is not None and workers < 1:
        raise BadInput(f"workers={workers}: give at least 1, or leave it out for one per core ({cores()})")
    pool = _Pool(workers or cores(), threads)
    outcomes: list[Outcome] = []
    for job in jobs:
        pool.add(job)
    try:
        while pool.busy:
            for worker, message in pool.messages():
                if isinstance(message, _Report):
                    if progress is not None and worker.job is not None:
                        progress(worker.job, message.value)
                    continue
                outcomes.append(pool.ended(worker, message))
                for job in then(outcomes[-1]) if then is not None else ():
                    pool.add(job)
    finally:
        pool.stop()
    return outcomes


@dataclass(frozen=True)
class _Report:
    value: Any


@dataclass(frozen=True)
class _Ended:
    value: Any = None
    error: str | None = None
    tail: str = ""
    lost: bool = False


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: connection.Connection
    words: str
    job: Job | None = None


@dataclass
class _Pool:
    workers: int
    threads: int
    alive: list[_Worker] = field(default_factory=list)
    waiting: list[tuple[float, int, Job]] = field(default_factory=list)
    count: Any = field(default_factory=itertools.count)

    @property
    def busy(self) -> bool:
        """Whether jobs run or wait. Hands waiting jobs to free workers, starting new ones."""
        while self.waiting:
            free = next((w for w in self.alive if w.job is None), None)
            if free is None and len(self.alive) < self.workers:
                free = self._start()
            if free is None:
                break
            job = heapq.heappop(self.waiting)[2]
            free.job = job
            # A worker that died meanwhile is noticed when its pipe is read.
            with suppress(BrokenPipeError, ConnectionResetError):
                free.pipe.send(job)
        return any(w.job is not None for w in self.alive)

    def add(self, job: Job) -> None:
        heapq.heappush(self.waiting, (job.priority, next(self.count), job))

    def messages(self) -> list[tuple[_Worker, Any]]:
        """Waits for the next messages; a dead worker's is that it died."""
        by_pipe = {w.pipe: w for w in self.alive if w.job is not None}
        found = []
        for pipe in connection.wait(list(by_pipe)):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                found.append((worker, worker.pipe.recv()))
            except (EOFError, ConnectionResetError):
                found.append((worker, self._buried(worker)))
        return found

    def ended(self, worker: _Worker, message: _Ended) -> Outcome:
        job, worker.job = worker.job, None
        assert job is not None
        return Outcome(job, message.value, message.error, message.tail, message.lost)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        handle, words = tempfile.mkstemp(prefix="steepest-worker-", suffix=".log")
        os.close(handle)
        process = context.Process(target=_work, args=(theirs, words), daemon=True)
        with _environment({name: str(self.threads) for name in THREADS}):
            process.start()
        theirs.close()
        worker = _Worker(process, ours, words)
        self.alive.append(worker)
        return worker

    def _buried(self, worker: _Worker) -> _Ended:
        worker.process.join(GRACE)
        code = worker.process.exitcode
        self.alive.remove(worker)
        tail = _tail(worker.words)
        self._forget(worker)
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            advice = ": too little memory? give fewer workers" if -code == signal.SIGKILL else ""
            return _Ended(error=f"its process was ended by {name}{advice}", tail=tail, lost=True)
        return _Ended(error=f"its process ended with status {code}", tail=tail, lost=True)

    def stop(self) -> None:
        """Ends the idle at once and the busy by SIGTERM, which a training run answers with a checkpoint."""
        for worker in self.alive:
            if worker.job is not None:
                worker.process.terminate()
            else:
                with suppress(BrokenPipeError, ConnectionResetError):
                    worker.pipe.send(None)
        until = time.monotonic() + GRACE
        for worker in self.alive:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            self._forget(worker)
        self.alive.clear()

    def _forget(self, worker: _Worker) -> None:
        worker.pipe.close()
        with suppress(OSError):
            os.unlink(worker.words)


def _work(pipe: connection.Connection, words: str) -> None:
    """The life of a worker."""
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with open(words, "ab", buffering=0) as log:
        os.dup2(log.fileno(), 2)
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while (job := pipe.recv()) is not None:
            os.truncate(words, 0)
            pipe.send(_done(job, lambda value: pipe.send(_Report(value)), words))


def _done(job: Job, report: Callable[[Any], None], words: str) -> _Ended:
    try:
        return _Ended(job.function(*job.arguments, report=report))
    except SteepestError as error:
        return _Ended(error=str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a job may call sys.exit: it ends the job, not the worker
        traceback.print_exc()
        sys.stderr.flush()
        told = " ".join(str(error).split())
        return _Ended(error=f"{type(error).__name__}: {told}", tail=_tail(words))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _tail(words: str) -> str:
    with suppress(OSError), open(words, encoding="utf-8", errors="replace") as file:
        return file.read()[-TAIL:].strip()
    return ""


@contextmanager
def _environment(values: dict[str, str]) -> Any:
    """Environment variables for the children that start meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old
