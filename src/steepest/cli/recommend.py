"""Which optimizer the evidence at hand speaks for at a size, a length and a memory, and how strong it is.

Evidence is what races, studies and recorded runs say; nothing is trained. What lies far from all of it is carried
over with an interval that says so. Exit status: 0 advice was given; 1 nothing that was compared fits.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput, SteepestError

if TYPE_CHECKING:
    from steepest.lab.analysis.outcomes import Known
    from steepest.lab.analysis.recommend import Advice
    from steepest.planning.models import Model

SUMMARY = "which optimizer the evidence speaks for at a scale, and how strongly"
PLACES = ("study", "race", "runs")
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "evidence",
        nargs="*",
        type=Path,
        metavar="EVIDENCE",
        help="folders of races, studies or recorded runs, their JSON, tables of runs (./study, ./race or ./runs)",
    )
    add("--size", required=True, metavar="SIZE", help="non-embedding weights such as 125M, or a model of `memory`")
    add("--tokens", help="training tokens such as 2.5B; or --ratio")
    add("--ratio", type=float, help="tokens / (20 x non-embedding weights) (1)")
    add("--memory", metavar="SIZE", help="24GiB, 16GB: for weights, gradients and state")
    add("--dtype", default="float32", help="of the weights of a model that is named (float32)")
    add("--baseline", metavar="OPTIMIZER", help="of recorded runs (adamw)")
    add("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    import json

    from steepest.lab.analysis.advice import told
    from steepest.lab.analysis.recommend import Target, recommend

    if args.tokens is not None and args.ratio is not None:
        raise BadInput(f"--tokens {args.tokens} and --ratio {args.ratio:g} both say the length: give one")
    limit = None
    if args.memory is not None:
        from steepest.planning.accounting import size_of

        limit = float(size_of(args.memory)[0])
    weights, model = _size(args.size, args.dtype)
    if args.tokens is not None:
        target = Target(weights, _number("--tokens", args.tokens))
    else:
        target = Target(weights, 20 * weights * (1.0 if args.ratio is None else args.ratio))
    known = _known(args.evidence, args.baseline)
    advice = recommend(known, target, limit=limit, needs=_needs(model))
    document = told(advice, known, target, limit)
    if args.json:
        print(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        _show(advice, document, known)
    return 0 if any(one.rank is not None for one in advice) else 1


def _number(option: str, text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)([kmbt]?)", text.strip().replace(",", "").lower())
    if found is None:
        raise BadInput(f"{option} {text!r}: give a number such as 125M, 2.5B or 1.2e9")
    return float(found[1]) * UNITS[found[2]]


def _size(text: str, dtype: str) -> tuple[float, Model | None]:
    """Non-embedding weights, and the model where one is named."""
    try:
        return _number("--size", text), None
    except BadInput:
        from steepest.cli.memory import model_of
        from steepest.core.naming import HIDDEN
        from steepest.planning.plan import memory

        model = model_of(text, dtype)
        parts = memory(model, "sgd").parts
        return float(sum(part.elements for part in parts if part.role in HIDDEN)), model


def _needs(model: Model | None) -> Callable[[str], float | None]:
    """Bytes of weights, gradients and state, exactly where the model is named and the planner takes it."""

    def needs(optimizer: str) -> float | None:
        from steepest.planning.plan import memory

        if model is None:
            return None
        try:
            held = memory(model, optimizer)
        except SteepestError:
            return None  # a name of other people's records is no rule of ours
        return float(held.weights + held.gradients + held.state)

    return needs


def _known(given: list[Path], baseline: str | None) -> Known:
    """All evidence, the first's baseline over all of it."""
    paths = given or [path for path in map(Path, PLACES) if path.exists()][:1]
    if not paths:
        raise BadInput(
            "no evidence: neither ./study nor ./race nor ./runs is here; hold a race first, or name a folder"
        )
    found = [known for path in paths for known in _read(path, baseline)]
    joined = found[0]
    for more in found[1:]:
        joined = joined.joined(more)
    return joined


def _read(path: Path, baseline: str | None) -> list[Known]:
    from steepest.lab.analysis.outcomes import outcomes
    from steepest.lab.report.load import RACE, STUDY, load

    documents = [path]
    if path.is_dir():
        documents = [path / name for name in (STUDY, RACE) if (path / name).exists()]
        documents = documents or sorted([*path.glob(f"*/{STUDY}"), *path.glob(f"*/{RACE}")])
    elif not path.exists():
        raise BadInput(f"no evidence at {path}: name the folder of a race, a study or recorded runs")
    if not documents or path.suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        return [outcomes(_of_runs(path, baseline or "adamw"), str(path))]
    return [outcomes(load(document), str(document)) for document in documents]


def _of_runs(path: Path, baseline: str) -> dict[str, Any]:
    """The document of recorded runs, own or of others."""
    from steepest.lab.analysis.evidence import evidence
    from steepest.lab.analysis.finals import finals_of

    if path.is_dir():
        from steepest.lab.ledger import read_runs

        ledger = read_runs(path)
        runs, problems = ledger.runs, list(ledger.problems)
    else:
        from steepest.lab.foreign import read

        found = read(path)
        runs, problems = found.runs, [str(complaint) for complaint in found.complaints]
    for problem in problems:
        print(f"steepest: {problem}", file=sys.stderr)
    if not runs:
        raise BadInput(f"{path} holds no runs: name the folder of a race, a study or recorded runs")
    command = f"steepest recommend {path}"
    return evidence(runs, finals_of(runs), baseline=baseline, title=str(path), command=command, source=str(path))


def _show(advice: list[Advice], document: dict[str, Any], known: Known) -> None:
    from steepest.cli.table import table
    from steepest.lab.report.words import tokens

    target = document["target"]
    print(
        f"{tokens(target['weights'])} weights, {tokens(target['tokens'])} tokens ({target['ratio']:.2g} x 20 per "
        f"weight), from {_listed(sorted({outcome.source for outcome in known.outcomes}))}\n"
    )
    head = ("rank", "optimizer", f"loss less {known.baseline}'s", "x tokens", "try", "memory", "evidence")
    print(table(head, [_row(one) for one in advice]))
    print("", *(f"- {sentence}" for sentence in document["text"]), sep="\n")
    print("- Intervals are 90 %; x tokens is the baseline's tokens for the same loss over the optimizer's.")


def _listed(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _row(one: Advice) -> tuple[str, ...]:
    from steepest.lab.analysis.advice import signed
    from steepest.lab.analysis.recommend import GRADES
    from steepest.lab.analysis.verdict import BASELINE
    from steepest.lab.report.words import NOTHING, lr

    gap, speedup = one.gap, one.speedup
    rank = NOTHING if one.rank is None else f"{one.rank}"
    ends = NOTHING
    if gap.value is not None and gap.low is not None and gap.high is not None:
        ends = f"{signed(gap.value)} [{signed(gap.low)}, {signed(gap.high)}]" if one.word != BASELINE else "0"
    times = NOTHING
    if speedup.value is not None and speedup.low is not None and speedup.high is not None:
        times = f"{speedup.value:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]"
    found, scaled = one.values.get("lr"), one.scaled.get("lr")
    settings = NOTHING if not isinstance(found, int | float) else f"lr {lr(found)}"
    if scaled is not None and scaled.value is not None and scaled.low is not None and scaled.high is not None:
        settings = f"lr {lr(float(f'{scaled.value:.1e}'))} [{lr(scaled.low)}, {lr(scaled.high)}]"
    held = NOTHING if one.memory is None else f"{one.memory / 2**30:.3g} GiB"
    held += " (too much)" if one.fits is False else ""
    return rank, one.label, ends, times, settings, held, f"{one.grade}, {GRADES[one.grade]}"
