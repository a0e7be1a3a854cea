"""Holding a study: any number of processes, each with any number of workers, make its runs, none of them twice.

Every process replays the protocol over the runs that are finished, whoever made them, and so comes to the same
questions; a run is taken by the lock of its folder, which a kill frees. A run that another process trains is put
aside and looked at again whenever something ends; a process that has nothing else to do waits for them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import SteepestError
from steepest.lab.cluster.local import Job, Outcome, submit
from steepest.lab.config import RunConfig, plan
from steepest.lab.files import Busy, is_locked, make_folder
from steepest.lab.record import RESULT
from steepest.lab.study.asking import Course
from steepest.lab.study.budget import Purse
from steepest.lab.study.training import Result, finished, train_trial

if TYPE_CHECKING:
    from steepest.lab.corpus import Corpus
    from steepest.lab.study.study import Study
    from steepest.lab.study.trial import Trial

RETRIES = 2
"""How often a run goes on whose process died; a third death is the run's own fault."""

WAIT = "wait for runs of other processes"
POLL = 0.25
"""Seconds between looks at runs of other processes."""

BUSY = "busy"
"""The value of a job whose run another process trains."""

Watch = Callable[["Standing", str, Any], None]


@dataclass
class Standing:
    """A study over the runs that are finished. ``course`` tells what it asked for and was told.

    runs_of: the run of each trial that was asked for, the first 16 digits of its identity; configs: by run.
    missing: runs that are still to be made, in the order in which they were asked for; refused: those of them that
    the budget does not pay, with their tokens.
    """

    study: Study
    corpus: Corpus
    runs: Path
    course: Course[Trial] = field(init=False)
    runs_of: dict[Trial, str] = field(default_factory=dict)
    trials_of: dict[str, list[Trial]] = field(default_factory=dict)
    configs: dict[str, RunConfig] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.course = Course(self.study.asking())

    def begin(self) -> list[str]:
        """The runs to make now, after all that is finished was told."""
        return self._settle(self.course.begin())

    def tell(self, run: str, result: Result | None = None, failure: str | None = None) -> list[str]:
        """Takes the end of a run; returns further runs to make."""
        self.missing.pop(run, None)
        if result is not None:
            self.results[run] = result
        new: list[Trial] = []
        for trial in self.trials_of[run]:
            new += self.course.tell(trial, result, failure=failure)
        return self._settle(new)

    def _settle(self, new: list[Trial]) -> list[str]:
        """Tells what is known of ``new`` trials, and of those that follow; the runs to make."""
        wanted, queue = [], deque(new)
        while queue:
            trial = queue.popleft()
            try:
                config = self.study.config(trial)
                run = plan(config, self.corpus.manifest).identity[:16]
                known = run in self.trials_of
                self.runs_of[trial] = run
                self.trials_of.setdefault(run, []).append(trial)
                self.configs[run] = config
                result = self.results.get(run) if known else finished(self.runs / run)
            except SteepestError as error:
                queue.extend(self.course.tell(trial, failure=f"{trial.name}: {error}"))
                continue
            if result is not None:
                self.results[run] = result
                queue.extend(self.course.tell(trial, result))
            elif not known:
                self.missing[run] = None
                wanted.append(run)
        return wanted


@dataclass
class _Desk:
    """One process's part of a study."""

    standing: Standing
    purse: Purse
    watch: Watch
    aside: dict[str, None] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)
    waiting: bool = False

    def jobs(self, runs: Iterable[str]) -> list[Job]:
        """What the workers may do now: runs that the budget allows, and a look-out for those of others."""
        made = []
        for run in runs:
            config, tokens = self.standing.configs[run], self.standing.trials_of[run][0].place.tokens
            if not self.purse.allows(run, tokens):
                self.standing.refused[run] = tokens
            else:
                made.append(Job(run, trained, (config, self.standing.runs, self.standing.corpus.path)))
        if self.aside and not self.waiting:
            self.waiting = True
            # Behind all runs: a worker that waits is one that has nothing else to do.
            made.append(Job(WAIT, wait, (self.standing.runs, tuple(self.aside)), priority=1.0))
        return made

    def ended(self, outcome: Outcome) -> list[Job]:
        """Takes the end of a job, returns those that may start now."""
        run, standing = outcome.job.name, self.standing
        new: list[str] = []
        if run == WAIT:
            self.waiting = False
        elif outcome.value == BUSY:
            self.aside[run] = None
        elif outcome.lost and self.deaths.get(run, 0) < RETRIES:
            self.deaths[run] = self.deaths.get(run, 0) + 1
            new.append(run)
        else:
            failure = None if outcome.error is None else f"{standing.trials_of[run][0].name}: {outcome.error}"
            new += standing.tell(run, outcome.value, failure)
            self.watch(standing, run, None)
        return self.jobs([*new, *self._looked_at()])

    def _looked_at(self) -> list[str]:
        """Tells the runs of other processes that are finished; those that were left unfinished are taken back."""
        new: list[str] = []
        for run in list(self.aside):
            folder = self.standing.runs / run
            try:
                result = finished(folder)
            except SteepestError as error:
                del self.aside[run]
                new += self.standing.tell(run, failure=str(error))
                continue
            if result is not None:
                del self.aside[run]
                new += self.standing.tell(run, result)
                self.watch(self.standing, run, None)
            elif not is_locked(folder):
                del self.aside[run]
                new.append(run)
        return new


def hold(
    study: Study,
    corpus: Corpus,
    *,
    runs: Path,
    out: Path,
    workers: int,
    watch: Watch = lambda standing, run, value: None,
    submit: Callable[..., list[Outcome]] = submit,
) -> Standing:
    """Makes all runs of the study that are not finished and that its budget allows; how it then stands.

    ``watch(standing, run, value)`` sees the progress of runs, value None when one ends.
    """
    study.check()
    standing = Standing(study, corpus, runs)
    desk = _Desk(standing, Purse(study.budget, make_folder(out), standing), watch)

    def progress(job: Job, value: Any) -> None:
        watch(standing, job.name, value)

    submit(desk.jobs(standing.begin()), workers, then=desk.ended, progress=progress)
    return standing


def trained(config: RunConfig, runs: Path, corpus_path: Path, report: Callable[[Any], None]) -> Result | str:
    """The job of one run; ``BUSY`` where another process has it."""
    try:
        return train_trial(config, runs, corpus_path, 1, report, wait=False)
    except Busy:
        return BUSY


def wait(runs: Path, names: tuple[str, ...], report: Callable[[Any], None]) -> None:
    """The job that waits until one of these runs is finished, or left unfinished."""
    while not any((runs / name / RESULT).exists() or not is_locked(runs / name) for name in names):
        time.sleep(POLL)
