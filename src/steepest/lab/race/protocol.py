"""The order of a race, as small protocols that ask for runs and are sent their results.

    tuning      every optimizer alone: its learning rate, at the comparison's budget, on the tuning seed
    finals      the winner of each, on fresh seeds
    ends        the baseline alone: lr bracketed again at the smallest and the largest budget, on the tuning seed
    law         the baseline's best lr at every other budget, on fresh seeds, once both ends are tuned

Each starts as soon as what it needs is there; nothing else waits for anything else, so that all cores stay busy.
Every run is an ordinary recorded run: one that is finished is not run again, and an interrupted race goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from steepest.lab.cluster.local import Job, Outcome
from steepest.lab.race.plan import ENDING, ENDS, FINAL, LAW, TUNE, Entrant, Race, Trial, ends
from steepest.lab.race.tune import Rule, Tuned, interpolated, search, summary
from steepest.lab.study import asking
from steepest.lab.study.asking import Asking
from steepest.lab.study.training import Result

Results = dict[Trial, Result]


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

    def __post_init__(self) -> None:
        self._course: asking.Course[Trial] = asking.Course(self._sides())

    def begin(self) -> list[Job]:
        """The first jobs: every optimizer's first grid."""
        return self._jobs(self._course.begin())

    def ended(self, outcome: Outcome) -> list[Job]:
        """Takes the end of a job, returns the jobs that may start now."""
        trial = self.asked[outcome.job.name]
        result = outcome.value
        if outcome.error is not None:
            result = Result("", "failed", None, None, 0.0, outcome.error)
            side = self.failures if trial.purpose in (TUNE, FINAL) else self.law_failures
            side.setdefault(trial.optimizer, f"{trial.name}: {outcome.error}")
        self.results[trial] = result
        return self._jobs(self._course.tell(trial, result, failure=outcome.error))

    def trials(self, optimizer: str, purpose: str) -> dict[Trial, Result]:
        """What was run for one purpose."""
        wanted = {t: r for t, r in self.results.items() if t.optimizer == optimizer and t.purpose == purpose}
        return dict(sorted(wanted.items(), key=lambda item: (item[0].tokens, item[0].lr, item[0].seed)))

    def _sides(self) -> Asking:
        yield {entrant.name: self._side(entrant) for entrant in self.race.entrants}

    def _side(self, entrant: Entrant) -> Asking:
        race = self.race
        tuned = yield from self._tuning(entrant, entrant.middle, race.tokens, race.tuning, TUNE)
        self.tuned[entrant.name] = tuned
        if tuned.best is None:
            return
        then = {FINAL: _once([Trial(entrant.name, tuned.best, seed, race.tokens, FINAL) for seed in race.seeds])}
        if entrant is race.baseline:
            then[LAW] = self._law(entrant, tuned.best)
        yield then

    def _law(self, baseline: Entrant, lr: float) -> Asking:
        race = self.race
        yield {budget: self._end(baseline, lr, budget) for budget in ends(race)}
        budgets = [
            b for b in race.budgets if b != race.tokens and (b not in self.at or self.at[b].best is not None)
        ]
        yield {budget: _once(self._law_trials(baseline, budget)) for budget in budgets}

    def _law_trials(self, baseline: Entrant, budget: int) -> list[Trial]:
        seeds, lr = self.race.seeds[: self.race.law_seeds], self.law_lr(budget)
        return [Trial(baseline.name, lr, seed, budget, LAW) for seed in seeds]

    def _end(self, baseline: Entrant, lr: float, budget: int) -> Asking:
        self.at[budget] = yield from self._tuning(baseline, lr, budget, ENDS, ENDING)

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

    def law_lr(self, budget: int) -> float:
        """The baseline's lr at a budget: tuned there, or straight between the budgets where it was."""
        tuned = self.at | {self.race.tokens: self.tuned[self.race.baseline.name]}
        return interpolated(budget, [(tokens, t.best) for tokens, t in tuned.items() if t.best is not None])

    def _jobs(self, trials: Sequence[Trial]) -> list[Job]:
        """The baseline's protocols are the longest chain: they go first."""
        self.asked |= {trial.name: trial for trial in trials}
        return [self.job(trial, 0.0 if trial.optimizer == self.race.baseline.name else 1.0) for trial in trials]


def _once(trials: list[Trial]) -> Asking:
    return (yield trials)


def _loss(result: Result) -> float:
    return math.inf if result.loss is None else result.loss


def tuned_so_far(course: Course, optimizer: str) -> Tuned:
    """The tuning of an optimizer as far as it came, also where a run failed."""
    done = course.trials(optimizer, TUNE)
    return summary({trial.lr: _loss(result) for trial, result in done.items()})
