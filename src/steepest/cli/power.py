"""How many seeds a difference takes at this noise, and how small a one a study could have seen.

From a race, a study, a folder of recorded runs, or from plain numbers: --sd 0.004 --freedom 10 --slope 0.06.

Exit status: 0 done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput

if TYPE_CHECKING:
    from steepest.lab.analysis.seeds import Known

SUMMARY = "seeds that a difference takes, and what a study could have seen"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "evidence",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        help="of a race, a study or recorded runs, or a race.json or study.json",
    )
    add(
        "--baseline", default="adamw", metavar="OPTIMIZER", help="of recorded runs: whose law tells tokens (adamw)"
    )
    add("--sd", type=float, help="of one run, nats/token, without what it shares with others under its seed")
    add("--freedom", type=float, help="degrees of freedom that the sd comes from (known exactly)")
    add("--slope", type=float, help="loss that e-fold tokens are worth, -dL / d ln D")
    add("--seeds", type=int, help="that the study has or will have, for what it can see")
    add("--gap", type=float, help="loss difference to tell, nats/token")
    add("--share", type=float, default=1.0, help="tokens to tell, in percent (1)")
    add("--level", type=float, default=90.0, help="of the two-sided interval, in percent (90)")
    add("--power", type=float, default=80.0, help="true differences told, in percent (80)")
    add("--optimizers", type=int, default=2, help="over which the noise is pooled, where no study says it (2)")
    add("--comparisons", type=int, default=1, help="made together, corrected by Bonferroni (1)")
    add("--figure", type=Path, metavar="FILE.svg", help="draw the difference told against seeds")
    add("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    import json

    from steepest.lab.analysis.power import Design
    from steepest.lab.analysis.seeds import planned

    if args.figure is not None and args.figure.suffix != ".svg":
        raise BadInput(f"--figure {args.figure}: pictures are SVG, name a FILE.svg")
    known = _known(args)
    design = Design(args.level / 100, args.power / 100, comparisons=args.comparisons)
    told = planned(known, design, gap=args.gap, share=args.share / 100)
    if args.figure is not None:
        from steepest.lab.report import files, frame
        from steepest.lab.report.study.certificates import power_figure

        files.write_text(args.figure, power_figure(told).wide.standalone(frame.asset("figures.css")))
    if args.json:
        print(json.dumps(told, ensure_ascii=False, indent=1))
    else:
        _print(told)
    return 0


def _known(args: argparse.Namespace) -> Known:
    """What the evidence says, and what the options say over it."""
    from dataclasses import replace

    from steepest.lab.analysis.runs import Place
    from steepest.lab.analysis.seeds import Known

    if args.evidence is not None:
        known = _read(args.evidence, args.baseline)
    elif args.sd is not None:
        known = Known(args.sd, optimizers=args.optimizers)
    else:
        raise BadInput("nothing to plan with: give a race, a study, a folder of runs, or --sd such as 0.004")
    given: dict[str, Any] = {
        name: getattr(args, name) for name in ("sd", "freedom", "seeds") if getattr(args, name)
    }
    if args.sd is not None:
        given |= {"freedom": args.freedom, "source": "given"}
    if args.slope is not None:
        given["slopes"] = {Place("", 0): args.slope}
    return replace(known, **given)


def _read(path: Path, baseline: str) -> Known:
    from steepest.lab.analysis import seeds
    from steepest.lab.analysis.finals import finals_of
    from steepest.lab.analysis.noise import repeats
    from steepest.lab.analysis.power import slopes
    from steepest.lab.report.load import RACE, STUDY, load

    if path.is_dir() and not any((path / name).exists() for name in (RACE, STUDY)):
        from steepest.lab.ledger import read_runs

        ledger = read_runs(path)
        for problem in ledger.problems:
            print(f"steepest: {problem}", file=sys.stderr)
        runs, finals = ledger.runs, finals_of(ledger.runs)
        known = seeds.of_repeats(repeats(finals) or repeats(runs), slopes(finals, baseline))
        if known is None:
            raise BadInput(f"no run in {path} has a second seed: its noise is not known, give --sd such as 0.004")
        return known
    document = load(path)
    return seeds.of_study(document) if document.get("kind") == "study" else seeds.of_race(document)


def _print(told: dict[str, Any]) -> None:
    low, high, freedom = told["low"], told["high"], told["freedom"]
    known = "" if freedom is None else f" ({low:.2g} to {high:.2g}, {freedom:g} degrees of freedom)"
    print(f"noise of a run: sd {told['sd']:.3g} nats/token{known}, {told['source']}\n")
    print(_curve(told))
    if told["at"]:
        print(f"\n{_at(told)}")
    print("", *(f"- {sentence}" for sentence in told["text"]), sep="\n")


def _curve(told: dict[str, Any]) -> str:
    from steepest.cli.table import table
    from steepest.lab.report.words import NOTHING

    rows = [
        (
            f"{row['seeds']}{' (this study)' if row['seeds'] == told['seeds'] else ''}",
            f"{row['gap']:.2g}",
            NOTHING if row["low"] is None else f"{row['low']:.2g} to {row['high']:.2g}",
            NOTHING if row["share"] is None else f"{100 * row['share']:.3g} %",
        )
        for row in told["curve"]
    ]
    return table(("seeds", "tell nats/token", "by the noise's interval", "in tokens"), rows)


def _at(told: dict[str, Any]) -> str:
    from steepest.cli.table import table
    from steepest.lab.analysis.seeds import count
    from steepest.lab.report.words import NOTHING, tokens

    rows = [
        (
            at["size"] or "given",
            tokens(at["tokens"]) if at["tokens"] else NOTHING,
            f"{at['slope']:.3g}",
            f"{at['gap']:.2g}",
            count(at["seeds"]),
            NOTHING if at["low"] is None else f"{count(at['low'])} to {count(at['high'])}",
        )
        for at in told["at"]
    ]
    share = f"{100 * told['at'][0]['share']:.3g} %"
    head = ("size", "tokens", "e-fold tokens are worth", f"{share} are", "seeds for it", "by the noise's interval")
    return table(head, rows)
