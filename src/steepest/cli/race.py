"""Compare optimizers fairly: tune each, repeat the winners over seeds, read speedups off the baseline's law.

Interrupted or killed, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.cli import settings
from steepest.cli.corpus import progress as corpus_progress
from steepest.core.errors import BadInput

if TYPE_CHECKING:
    from steepest.lab.cluster.local import Job
    from steepest.lab.config import RunConfig
    from steepest.lab.corpus import Corpus
    from steepest.lab.race.plan import Race
    from steepest.lab.race.protocol import Course

SUMMARY = "compare optimizers fairly on real text and write a report page"

TOKENS = 786_432
"""Comparison budget of the default race: with it all of `make race` takes minutes on two cores."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``steepest race``."""
    add = parser.add_argument
    add(
        "optimizers", nargs="+", metavar="OPTIMIZER", help="muon, muon:momentum=0.9, ./mine.py:MyRule, torch:AdamW"
    )
    add("--baseline", default="adamw", metavar="OPTIMIZER", help="what they are measured against (adamw)")
    add(
        "--model", default="50k", metavar="PRESET[,PRESET]", help="by non-embedding weights; a race for each (50k)"
    )
    add("--tokens", help=f"training tokens of the comparison ({TOKENS:,}); or --ratio")
    add("--ratio", help="tokens / (20 x non-embedding weights)")
    add("--seeds", type=int, default=3, help="fresh seeds for every winner (3)")
    add("--law-seeds", type=int, help="of these, how many at the baseline's other budgets (2)")
    add("--budgets", default="0.25,0.5,1,2", help="the baseline's, as multiples of the tokens (0.25,0.5,1,2)")
    add("--tuning-runs", type=int, default=6, help="learning rates tried for every optimizer (6)")
    add("--tuning-factor", type=float, default=4.0, help="between neighbours of the first three (4)")
    settings.configure(
        parser,
        seed="of the tuning; the winners' seeds follow it (0)",
        sets="a hyperparameter of one optimizer (muon.momentum=0.9) or any setting of all (schedule.warmup=0.05)",
    )
    add("--workers", type=int, help="runs at once, one thread each (one per core)")
    add("--runs", type=Path, default=Path("runs"), help="where the records lie (runs)")
    add("--out", type=Path, default=Path("race"), help="where race.json, report.html and the CSV files go (race)")
    add("--dry-run", action="store_true", help="print the runs, their tokens and time, and stop")
    add("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """0: a verdict or a dry run; 1: no optimizer but the baseline got a loss."""
    from steepest.lab import corpus as corpora
    from steepest.lab.cluster.local import cores
    from steepest.lab.race.plan import check_corpus

    models = list(dict.fromkeys(args.model.split(",")))
    # Every race is checked before the first one runs.
    races = [_race(args, model) for model in models]
    workers = cores() if args.workers is None else args.workers
    if workers < 1:
        raise BadInput(f"--workers {workers}: give at least 1, or leave it out for one per core")
    with corpus_progress() as preparing:
        corpus = corpora.prepare(races[0].base.corpus, args.runs / "corpora", preparing)
    for race in races:
        _tell_passes(check_corpus(race, corpus), corpus)
    if args.dry_run:
        plans = [_priced(race, corpus, workers) for race in races]
        _print_plans(plans, args.json)
        return 0
    held = []
    for model, race in zip(models, races, strict=True):
        out = args.out / model if len(models) > 1 else args.out
        held.append(_hold(race, corpus, out, workers, args))
    if args.json:
        print(json.dumps(held if len(held) > 1 else held[0], ensure_ascii=False, indent=1))
    compared = [
        result["final"] is not None and result["final"]["mean"] is not None
        for race in held
        for name, result in race["results"].items()
        if name != race["baseline"]
    ]
    return 0 if any(compared) or not compared else 1


def _race(args: argparse.Namespace, model: str) -> Race:
    from steepest.lab.race.plan import make, split_settings
    from steepest.lab.race.tune import Rule

    own, rest = split_settings([args.baseline, *args.optimizers], args.set)
    return make(
        args.optimizers,
        _base(args, model, rest),
        baseline=args.baseline,
        settings=own,
        seeds=args.seeds,
        law_seeds=args.law_seeds,
        budgets=_multiples(args.budgets),
        tuning=Rule(args.tuning_runs, args.tuning_factor),
    )


def _base(args: argparse.Namespace, model: str, more: list[str]) -> RunConfig:
    """The settings that all runs share."""
    from steepest.lab.config import RunConfig
    from steepest.lab.settings import merged

    values: dict[str, Any] = {}
    settings.put_flags(values, args)
    values["model"] = model
    values = merged({"evaluation": {"tokens": 32_768, "points": 6}, **values}, more)
    if "ratio" not in values:
        values.setdefault("tokens", TOKENS)
    base = RunConfig.from_mapping(values)
    if base.optimizer.lr is not None:
        raise BadInput(f"optimizer.lr={base.optimizer.lr}: the race tunes lr; `steepest train` takes one")
    return base


def _multiples(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise BadInput(f"--budgets {text!r}: give numbers with commas between, such as 0.25,0.5,1,2") from None


def _tell_passes(passes: float, corpus: Corpus) -> None:
    if passes > 1:
        print(
            f"steepest: the longest run passes {passes:.3g} times over the {len(corpus.train):,} tokens of "
            "training text: give fewer tokens or more text for one pass",
            file=sys.stderr,
        )


def _hold(race: Race, corpus: Corpus, out: Path, workers: int, args: argparse.Namespace) -> dict[str, Any]:
    from steepest.lab.race.hold import hold
    from steepest.lab.report import export, page, terminal

    command = shlex.join(["steepest", *sys.argv[1:]])
    with _line(race) as watch:
        held = hold(race, corpus, runs=args.runs, out=out, workers=workers, command=command, watch=watch)
    page.write(held, out / "report.html")
    export.write(held, out)
    if not args.json:
        terminal.show(held)
        print(f"\n{out / 'report.html'}: the page; its data beside it")
    return held


def _priced(race: Race, corpus: Corpus, workers: int) -> dict[str, Any]:
    from steepest.lab.race.calibrate import step_times
    from steepest.lab.race.plan import Trial, expected, seconds

    configs = {e.name: race.config(Trial(e.name, e.middle, 0, race.tokens)) for e in race.entrants}
    times = {name: value[0] for name, value in step_times(configs, corpus.path, 1)["seconds"].items()}
    lines = expected(race)
    return {
        "model": race.base.model.preset,
        "runs": sum(line.runs for line in lines),
        "tokens": sum(line.runs * line.tokens for line in lines),
        "hours": seconds(race, corpus, times, workers) / 3600,
        "workers": workers,
        "step_seconds": times,
        "plan": [{**vars(line)} for line in lines],
    }


def _print_plans(plans: list[dict[str, Any]], as_json: bool) -> None:
    from steepest.cli.table import table
    from steepest.lab.report.summary import duration

    if as_json:
        print(json.dumps(plans, indent=1))
        return
    for plan in plans:
        print(f"model {plan['model']}")
        rows = [(line["optimizer"], line["purpose"], line["runs"], f"{line['tokens']:,}") for line in plan["plan"]]
        print(table(("optimizer", "for", "runs", "tokens each"), rows))
        print(
            f"{plan['runs']} runs, {plan['tokens']:,} tokens, about {duration(3600 * plan['hours'])} with "
            f"{plan['workers']} at once; a few more runs where a best learning rate lies at an edge\n"
        )


class _Pace:
    """How far a race is, in tokens trained, and how long the rest takes at the pace so far."""

    def __init__(self, race: Race) -> None:
        from steepest.lab.race.plan import expected

        self.expected = sum(line.runs * line.tokens for line in expected(race))
        self.began = time.monotonic()
        self.running: dict[str, float] = {}
        self.present = self.ended = self.runs = 0

    def see(self, course: Course, job: Job, value: Any) -> None:
        """Takes what a job told: (step, steps, loss), or None at its end."""
        trial = course.asked[job.name]
        if value is not None:
            self.running[job.name] = trial.tokens * value[0] / value[1]
            return
        self.running.pop(job.name, None)
        self.runs += 1
        self.ended += trial.tokens
        self.present += trial.tokens if course.results[trial].present else 0

    @property
    def done(self) -> float:
        """Tokens trained, those of earlier calls among them."""
        return self.ended + sum(self.running.values())

    @property
    def total(self) -> float:
        """Tokens of the whole race, as far as is known."""
        return max(self.expected, self.done)

    @property
    def words(self) -> str:
        spent, trained = time.monotonic() - self.began, self.done - self.present
        left = spent / trained * (self.total - self.done) if trained > 0 else math.nan
        return f"{self.runs} runs done, {self.done / self.total:.0%}, {_clock(spent)} gone, {_clock(left)} left"


def _clock(seconds: float) -> str:
    return "?" if not math.isfinite(seconds) else f"{int(seconds) // 60}:{int(seconds) % 60:02}"


@contextmanager
def _line(race: Race) -> Iterator[Callable[[Course, Job, Any], None]]:
    """One live line on stderr in a terminal; elsewhere a line for every run that ends."""
    from steepest.lab.race.calibrate import CALIBRATION

    pace, live = _Pace(race), sys.stderr.isatty()

    def watch(course: Course, job: Job, value: Any) -> None:
        if job.name == CALIBRATION:
            said = f"all runs done; timing the steps of all contenders, round {value[0]} of {value[1]}"
        else:
            pace.see(course, job, value)
            said = f"{_bar(pace.done / pace.total)} {pace.words}"
        if live:
            print(f"\r{said}\x1b[K", end="", file=sys.stderr, flush=True)
        elif value is None:
            result = course.results[course.asked[job.name]]
            how = f"{result.loss:.4f}" if result.loss is not None else f"{result.status}: {result.reason}"
            print(f"{job.name}: {how} ({pace.words})", file=sys.stderr, flush=True)

    try:
        yield watch
    finally:
        if live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _bar(share: float, width: int = 24) -> str:
    filled = round(width * share)
    return "━" * filled + "─" * (width - filled)
