"""Studies: price one, run it with any number of workers and processes, see how it stands.

steepest study plan FILE      runs, tokens, operations, hours here, search spaces side by side
steepest study run FILE       makes all runs that are not finished; interrupted or killed, it goes on
steepest study status FILE    done, running and waiting, the best so far, what failed
steepest study report FILE    study.json, runs.csv, report.html and its figures, of what is finished
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.cli.corpus import progress as corpus_progress
from steepest.cli.table import table
from steepest.core.errors import BadInput

if TYPE_CHECKING:
    from steepest.lab.corpus import Corpus
    from steepest.lab.study.hold import Standing
    from steepest.lab.study.study import Study

SUMMARY = "ask a whole study's question: price it, run it, see how it stands"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``steepest study``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("verb", choices=("plan", "run", "status", "report"), help="what to do")
    add("file", type=Path, metavar="FILE", help="the study: TOML, or Python that defines `study`")
    add("--workers", type=int, help="runs at once, one thread each (one per core)")
    add("--runs", type=Path, default=Path("runs"), help="where the records lie, shared by all studies (runs)")
    add("--out", type=Path, help="the study's own folder (studies/NAME)")
    add("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """0; 1 where `run` ended with runs that are missing or failed."""
    from steepest.lab import corpus as corpora
    from steepest.lab.cluster.local import cores
    from steepest.lab.study.price import check_budget, priced
    from steepest.lab.study.study import Study

    study = Study.read(args.file)
    args.out = args.out or Path("studies") / study.name
    args.workers = cores() if args.workers is None else args.workers
    if args.workers < 1:
        raise BadInput(f"--workers {args.workers}: give at least 1, or leave it out for one per core")
    if args.verb in ("plan", "run"):
        check_budget(study, priced(study))
    with corpus_progress() as preparing:
        corpus = corpora.prepare(study.base.corpus, args.runs / "corpora", preparing)
    return {"plan": _plan, "run": _run, "status": _status, "report": _report}[args.verb](study, corpus, args)


def _plan(study: Study, corpus: Corpus, args: argparse.Namespace) -> int:
    from steepest.lab.study.plan import planned

    told = planned(study, corpus, runs=args.runs, out=args.out, workers=args.workers)
    if args.json:
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return 0
    rows = [
        (
            side["optimizer"], f"{side['points']}", f"{len(side['space'])}", f"{side['runs']}", f"{side['most']}",
            f"{side['present']}", f"{side['tokens']:,}", f"{side['flops']:.2e}", _hours(side["hours"]),
        )
        for side in told["sides"]
    ]  # fmt: skip
    head = ("optimizer", "grid points", "axes", "runs", "at most", "present", "tokens", "FLOPs", "worker time")
    print(table(head, rows))
    for side in told["sides"]:
        print(f"{side['optimizer']}: " + "; ".join(f"{k} {_list(v)}" for k, v in side["space"].items()))
    places = (
        f"{p['size']} {p['variant'] + ' ' if p['variant'] else ''}{p['tokens']:,} ({p['ratio']:.3g}x)"
        for p in told["places"]
    )
    print(f"places, tokens each: {'; '.join(places)}")
    for warning in told["warnings"]:
        print(f"note: {warning}")
    print(
        f"{told['runs']:,} runs expected ({told['present']:,} present), {told['tokens']:,} tokens to train, "
        f"{told['flops']:.2e} FLOPs, about {_hours(told['hours'])} with {told['workers']} at once"
    )
    return 0


def _run(study: Study, corpus: Corpus, args: argparse.Namespace) -> int:
    from steepest.lab.study.hold import hold

    line = _Line()
    standing = hold(study, corpus, runs=args.runs, out=args.out, workers=args.workers, watch=line.see)
    line.end()
    done = _tell(standing, args)
    if refused := standing.refused:
        print(
            f"steepest: the budget is spent: {len(refused):,} runs of {sum(refused.values()):,} tokens that were "
            "asked for are not made, nor what they lead to; raise it and run the same command again",
            file=sys.stderr,
        )
    return 0 if done else 1


def _status(study: Study, corpus: Corpus, args: argparse.Namespace) -> int:
    from steepest.lab.study.hold import Standing

    standing = Standing(study, corpus, args.runs)
    standing.begin()
    _tell(standing, args)
    return 0


def _report(study: Study, corpus: Corpus, args: argparse.Namespace) -> int:
    from steepest.lab.report.study import summary, terminal
    from steepest.lab.report.study.export import publish
    from steepest.lab.study.evidence import document
    from steepest.lab.study.hold import Standing

    standing = Standing(study, corpus, args.runs)
    standing.begin()
    command = shlex.join(["steepest", "study", "report", str(args.file), "--runs", str(args.runs)])
    told, runs = document(standing, args.out, f"{command} --out {shlex.quote(str(args.out))}", str(args.file))
    written = publish(told, runs, args.out)
    if args.json:
        print(json.dumps(summary.rows(told), ensure_ascii=False, indent=1))
    else:
        terminal.show(told)
        print(f"\n{args.out / 'report.html'} and {len(written) - 1} files of data beside it")
    return 0


def _tell(standing: Standing, args: argparse.Namespace) -> bool:
    """Prints how the study stands; whether all is done."""
    from steepest.lab.study.status import status

    told = status(standing)
    if args.json:
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return bool(told["ended"] and not told["failures"])
    rows = [
        (
            cell["optimizer"], cell["size"], cell["variant"], f"{cell['tokens']:,}", f"{cell['done']}",
            f"{cell['expected']}", f"{cell['running']}", f"{cell['waiting']}", f"{cell['diverged']}",
            "" if cell["best"] is None else f"{cell['best']['loss']:.4f}",
            "" if cell["best"] is None else cell["best"]["values"],
        )
        for cell in told["cells"]
    ]  # fmt: skip
    head = (
        "optimizer",
        "size",
        "variant",
        "tokens",
        "done",
        "expected",
        "running",
        "waiting",
        "diverged",
        "best",
        "at",
    )
    print(table(head, rows))
    for failure in told["failures"]:
        print(f"failed: {failure}")
    left = (
        ""
        if told["seconds_left"] is None or told["ended"]
        else f"; about {_hours(told['seconds_left'] / 3600)} of work left for one worker"
    )
    print(
        f"{told['done']} of {told['expected']} runs done ({told['tokens']:,} tokens), {told['running']} running, "
        f"{told['waiting']} asked for and waiting{left}" + ("; the protocol has ended" if told["ended"] else "")
    )
    return bool(told["ended"] and not told["failures"])


class _Line:
    """One live line on stderr in a terminal; elsewhere a line for every run that ends."""

    def __init__(self) -> None:
        self.live, self.began, self.shares = sys.stderr.isatty(), time.monotonic(), dict[str, float]()

    def see(self, standing: Standing, run: str, value: Any) -> None:
        """Takes the progress of a run: (step, steps, loss), or None at its end."""
        if value is None:
            self.shares.pop(run, None)
        else:
            self.shares[run] = value[0] / value[1]
        spent = int(time.monotonic() - self.began)
        done, asked = len(standing.results), len(standing.missing)
        said = f"{done} runs done, {asked} asked for, {spent // 60}:{spent % 60:02} gone"
        if self.live:
            now = " ".join(f"{share:.0%}" for share in self.shares.values())
            print(f"\r{said}; running {now}\x1b[K", end="", file=sys.stderr, flush=True)
        elif value is None:
            result, name = standing.results.get(run), standing.trials_of[run][0].name
            how = (
                "failed" if result is None else f"{result.loss:.4f}" if result.loss is not None else result.reason
            )
            print(f"{name}: {how} ({said})", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clears the line."""
        if self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _hours(hours: float) -> str:
    if not math.isfinite(hours):
        return "?"
    return (
        f"{3600 * hours:.0f} s" if hours < 1 / 30 else f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
    )


def _list(values: Any) -> str:
    return "{" + ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values) + "}"
