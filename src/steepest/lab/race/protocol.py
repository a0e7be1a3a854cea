"""The order of a race, as small protocols that ask for runs and are sent their results.

    tuning      every optimizer alone: its learning rate, at the comparison's budget, on the tuning seed
    finals      the winner of each, on fresh seeds
    ends        the baseline alone: lr bracketed again at the smallest and the largest budget, on the tuning seed
    law         the baseline's best lr at every other budget, on fresh seeds

Each starts as soon as what it needs is there; nothing else waits for anything else, so that all cores stay busy.
Every run is an ordinary recorded run: one that is finished is not run again, and an interrupted race goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from steepest.lab.cluster.local import Job, Outcome
from steepest.lab.race.plan import ENDING, ENDS, FINAL, LAW, TUNE, Entrant, Race, Trial, ends
from steepest.lab.race.tune import Rule, Tuned, interpolated, search, summary
from steepest.lab.study.training import Result

Results = dict[Trial, Result]
Asking = Generator[list[Trial], Results, Any]


@dataclass
class Course:
    """A race under way. ``begin`` and ``ended`` give the jobs that may start; the rest is what came of it.

    asked: trials by the name of their job, which ``job`` makes. tuned: by optimizer; at: the baseline's tuning at
    the ends of its budgets. failures: optimizer to the reason why it has no result; law_failures: the same for
    the baseline's other budgets.
    """

    race: Race
    job: Callable[[Trial, float], Job]
    asked: dict[str, Trial] = field(default_factory=dict)
    results: Results = field(default_factory=dict)
    tuned: dict[str, Tuned] = field(default_factory=dict)
    at: dict[int, Tuned] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    law_failures: dict[str, str] = field(default_factory=dict)
    _tasks: list[_Task] = field(default_factory=list)

    def begin(self) -> list[Job]:
        """The first jobs: every optimizer's first grid."""
        jobs = []
        for entrant in self.race.entrants:
            start = self._tuning(entrant, entrant.middle, self.race.tokens, self.race.tuning, TUNE)
            jobs += self._start(start, partial(self._after_tuning, entrant))
        return jobs

    def ended(self, outcome: Outcome) -> list[Job]:
        """Takes the end of a job, returns the jobs that may start now."""
        trial = self.asked[outcome.job.name]
        result = outcome.value
        if outcome.error is not None:
            result = Result("", "failed", None, None, 0.0, outcome.error)
            side = self.failures if trial.purpose in (TUNE, FINAL) else self.law_failures
            side.setdefault(trial.optimizer, f"{trial.name}: {outcome.error}")
        self.results[trial] = result
        return self._go_on()

    def trials(self, optimizer: str, purpose: str) -> dict[Trial, Result]:
        """What was run for one purpose."""
        wanted = {t: r for t, r in self.results.items() if t.optimizer == optimizer and t.purpose == purpose}
        return dict(sorted(wanted.items(), key=lambda item: (item[0].tokens, item[0].lr, item[0].seed)))

    def _tuning(self, entrant: Entrant, middle: float, tokens: int, rule: Rule, purpose: str) -> Asking:
        searching = search(middle, rule)
        rates = next(searching)
        while True:
            of = {lr: Trial(entrant.name, lr, self.race.tuning_seed, tokens, purpose) for lr in rates}
            found = yield list(of.values())
            try:
                rates = searching.send({lr: _loss(found[trial]) for lr, trial in of.items()})
            except StopIteration as end:
                return end.value

    def _after_tuning(self, entrant: Entrant, tuned: Tuned) -> list[Job]:
        self.tuned[entrant.name] = tuned
        if tuned.best is None:
            return []
        jobs = []
        if entrant is self.race.baseline:
            for budget in ends(self.race):
                start = self._tuning(entrant, tuned.best, budget, ENDS, ENDING)
                jobs += self._start(start, partial(self._after_end, budget))
        finals = [Trial(entrant.name, tuned.best, seed, self.race.tokens, FINAL) for seed in self.race.seeds]
        return jobs + self._start(_once(finals))

    def _after_end(self, budget: int, tuned: Tuned) -> list[Job]:
        self.at[budget] = tuned
        jobs = []
        if tuned.best is not None:
            jobs += self._start(_once(self._law_trials(budget, tuned.best)))
        if len(self.at) == len(ends(self.race)):
            for budget in self.race.budgets:
                if budget != self.race.tokens and budget not in self.at:
                    jobs += self._start(_once(self._law_trials(budget, self.law_lr(budget))))
        return jobs

    def law_lr(self, budget: int) -> float:
        """The baseline's lr at a budget: tuned there, or straight between the budgets where it was."""
        tuned = self.at | {self.race.tokens: self.tuned[self.race.baseline.name]}
        return interpolated(budget, [(tokens, t.best) for tokens, t in tuned.items() if t.best is not None])

    def _law_trials(self, budget: int, lr: float) -> list[Trial]:
        seeds = self.race.seeds[: self.race.law_seeds]
        return [Trial(self.race.baseline.name, lr, seed, budget, LAW) for seed in seeds]

    def _start(self, asking: Asking, then: Callable[[Any], list[Job]] = lambda value: []) -> list[Job]:
        task = _Task(asking, next(asking), then)
        self._tasks.append(task)
        return self._jobs(task.wanted) + self._go_on()

    def _jobs(self, trials: Iterable[Trial]) -> list[Job]:
        jobs = []
        for trial in trials:
            if trial.name not in self.asked:
                self.asked[trial.name] = trial
                # The baseline's protocols are the longest chain: they go first.
                jobs.append(self.job(trial, 0.0 if trial.optimizer == self.race.baseline.name else 1.0))
        return jobs

    def _go_on(self) -> list[Job]:
        """Sends every task that has all it asked for on to its next question."""
        jobs: list[Job] = []
        while task := next((t for t in self._tasks if all(trial in self.results for trial in t.wanted)), None):
            found = {trial: self.results[trial] for trial in task.wanted}
            if any(result.status == "failed" for result in found.values()):
                self._tasks.remove(task)
                continue
            try:
                task.wanted = task.asking.send(found)
                jobs += self._jobs(task.wanted)
            except StopIteration as end:
                self._tasks.remove(task)
                jobs += task.then(end.value)
        return jobs


@dataclass(eq=False)
class _Task:
    asking: Asking
    wanted: list[Trial]
    then: Callable[[Any], list[Job]]


def _once(trials: list[Trial]) -> Asking:
    return (yield trials)


def _loss(result: Result) -> float:
    return math.inf if result.loss is None else result.loss


def tuned_so_far(course: Course, optimizer: str) -> Tuned:
    """The tuning of an optimizer as far as it came, also where a run failed."""
    done = course.trials(optimizer, TUNE)
    return summary({trial.lr: _loss(result) for trial, result in done.items()})
