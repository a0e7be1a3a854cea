"""What a study's page, terminal and files say: the verdicts of every cell, the headline, the tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from steepest.lab.analysis.significance import HIGHER, LOWER
from steepest.lab.analysis.significance import TIE as TIED
from steepest.lab.analysis.verdict import FASTER, REFUSED, SLOWER, TIE
from steepest.lab.report.words import NOTHING, listed, ratio, shortened, tokens

Study = dict[str, Any]
Place = tuple[str, int]
"""Size and tokens."""

ALONE = "no interval"
"""The verdict of a speedup that stands without an interval: its runs have one seed and no noise is known."""


def label(study: Study, name: str) -> str:
    """The optimizer's name as people read it."""
    return shortened(study["labels"].get(name, name))


def sizes(study: Study) -> list[str]:
    """Ascending, those with a cell of the base architecture."""
    used = {cell["size"] for cell in study["cells"] if not cell["variant"]}
    return [entry["size"] for entry in study["sizes"] if entry["size"] in used]


def budgets(study: Study, size: str) -> dict[int, str]:
    """Tokens at which anything but the baseline was run, ascending, as people name them; all if nothing was."""
    at = [cell for cell in study["cells"] if cell["size"] == size and not cell["variant"]]
    contended = [cell for cell in at if cell["optimizer"] != study["baseline"]] or at
    named = {cell["tokens"]: times_data(cell["ratio"]) for cell in contended}
    return dict(sorted(named.items()))


def times_data(ratio: float) -> str:
    """``8×`` of 7.98: whole steps make it 7.98 at one size and 8.01 at another."""
    return f"{float(f'{ratio:.2g}'):g}×"


def cells(study: Study) -> dict[tuple[str, str, int], Study]:
    """The cells of the base architecture by optimizer, size and tokens."""
    return {(c["optimizer"], c["size"], c["tokens"]): c for c in study["cells"] if not c["variant"]}


def speedups(study: Study) -> dict[tuple[str, str, int], Study]:
    """What is stated of each contender at each place of the base architecture."""
    stated = [entry for entry in study.get("speedups") or [] if not entry.get("variant")]
    # A flag that every value carries tells none of them from another: the limits say it once.
    told = [set(entry.get("flags") or []) for entry in stated if entry["speedup"] is not None]
    common = set.intersection(*told) if len(told) > 1 else set()
    kept = [entry | {"flags": [f for f in entry.get("flags") or [] if f not in common]} for entry in stated]
    return {(entry["optimizer"], entry["size"], entry["tokens"]): entry for entry in kept}


def verdict(entry: Study | None) -> str:
    """faster, slower, not told apart, refused, or that there is no interval to judge by."""
    if entry is None or entry["speedup"] is None:
        return REFUSED
    if entry["low"] is None and entry["high"] is None:
        return ALONE
    return str(entry["word"])


def times(entry: Study | None, digits: int = 2) -> str:
    """``1.42×``, with an asterisk where it is flagged; a dash where none is stated."""
    if entry is None or entry["speedup"] is None:
        return NOTHING
    return f"{entry['speedup']:.{digits}f}×" + ("*" if entry.get("flags") else "")


def span(entry: Study | None) -> str:
    """``1.30–1.55``, ``≥ 1.30`` where the upper end is open; empty where there is no interval."""
    return "" if entry is None or entry["speedup"] is None else ends(entry)


def ends(of: Study) -> str:
    """Its low and high in the form of :func:`span`."""
    low, high = (None if end is None else f"{end:.2f}" for end in (of["low"], of["high"]))
    if low is None or high is None:
        return f"≥ {low}" if low else f"≤ {high}" if high else ""
    return f"{low}–{high}"


def ranked(study: Study, names: Iterable[str], place: Place) -> list[str]:
    """By final loss at a place, those without one last."""
    found = cells(study)

    def height(name: str) -> float:
        cell = found.get((name, *place))
        return math.inf if cell is None or cell["loss"] is None else cell["loss"]

    return sorted(names, key=height)


def contenders(study: Study) -> list[str]:
    """Everyone but the baseline, in the order of the study."""
    return [name for name in study["optimizers"] if name != study["baseline"]]


def decisive(study: Study) -> Place | None:
    """The place that the headline speaks of: the largest size with a verdict, and its longest schedule."""
    stated = speedups(study)
    for size in reversed(sizes(study)):
        for at in reversed(budgets(study, size)):
            words = [verdict(stated.get((name, size, at))) for name in contenders(study)]
            if any(word != REFUSED for word in words):
                return size, at
    return None


def headline(study: Study) -> str:
    """What holds at the decisive place, in one sentence; negative results are in it."""
    base, place = label(study, study["baseline"]), decisive(study)
    if not contenders(study):
        return f"{base} ran alone: this page holds its runs, and no comparison."
    if place is None:
        return f"{_by_loss(study, base)}No speedup over {base} is stated: {_unstated(study)}."
    at = budgets(study, place[0])[place[1]]
    seeds = [cell["seeds"] for cell in cells(study).values() if (cell["size"], cell["tokens"]) == place]
    start = "With one seed each, at" if max(seeds) == 1 else "At"
    return f"{start} {place[0]} weights and {at} data, {_clauses(study, place, base)}."


def differences(study: Study) -> dict[tuple[str, str, int], Study]:
    """Final loss less the baseline's in every cell of the base architecture that has a noise to judge it by."""
    found = [gap for gap in (study.get("noise") or {}).get("differences") or [] if not gap["variant"]]
    return {(gap["optimizer"], gap["size"], gap["tokens"]): gap for gap in found}


def _by_loss(study: Study, base: str) -> str:
    """What the final losses alone say at the largest place; empty where no noise is known."""
    gaps = differences(study)
    places = [(size, at) for size in sizes(study) for at in budgets(study, size)]
    place = next((p for p in reversed(places) if any((n, *p) in gaps for n in contenders(study))), None)
    if place is None:
        return ""
    parts, rival = [], base
    for word, text in (
        (LOWER, "lower final loss than {}"),
        (HIGHER, "higher than {}"),
        (TIED, "not told apart from {}"),
    ):
        names = [
            n for n in ranked(study, contenders(study), place) if gaps.get((n, *place), {}).get("word") == word
        ]
        if names:
            told = [label(study, n) + ("" if word == TIED else f" {gaps[n, *place]['gap']:+.3f}") for n in names]
            parts.append(f"{text.format(rival)}: {listed(told)}")
            rival = "it"
    said = "; ".join(parts)
    return f"At {place[0]} weights and {budgets(study, place[0])[place[1]]} data, {said}. " if said else ""


def _unstated(study: Study) -> str:
    flags = [flag for entry in study.get("speedups") or [] for flag in entry.get("flags") or []]
    return flags[0].rstrip(".") if flags else "no law was fitted"


def _clauses(study: Study, place: Place, base: str) -> str:
    stated, groups = speedups(study), dict[str, list[str]]()
    for name in ranked(study, contenders(study), place):
        if (name, *place) in cells(study):
            groups.setdefault(verdict(stated.get((name, *place))), []).append(name)
    sure = certificates(study).get((study["baseline"], *place), {}).get("certified")
    rival, parts = f"tuned {base}" if sure else base, []
    for word, (text, numbered) in {
        FASTER: ("faster than {}", True),
        SLOWER: ("slower than {}", True),
        TIE: ("not told apart from {}", False),
        ALONE: ("without interval, against {}", True),
        REFUSED: ("no speedup stated", False),
    }.items():
        if word in groups:
            names = [
                label(study, name) + (f" {times(stated[(name, *place)])}" if numbered else "")
                for name in groups[word]
            ]
            parts.append(f"{text.format(rival)}: {listed(names)}")
            rival = "it"
    return "; ".join(parts)


def lead(study: Study) -> list[str]:
    """What stands under the headline: how the leader's speedup moves with size, and what is certified."""
    place = decisive(study)
    if place is None:
        return []
    said = [*_moves(study, place), *_otherwise(study, place), *_certified(study, place)]
    if "*" in headline(study):
        here = [entry for (_, *at), entry in speedups(study).items() if tuple(at) == place]
        said.append(f"* {'; '.join(dict.fromkeys(flag for entry in here for flag in entry['flags']))}.")
    return said


def _moves(study: Study, place: Place) -> list[str]:
    found = cells(study)
    leader = next((n for n in ranked(study, contenders(study), place) if (n, *place) in found), None)
    for at in reversed(budgets(study, place[0]).values()):
        known = {
            entry["size"]: entry
            for (name, *_), entry in speedups(study).items()
            if name == leader and times_data(entry["ratio"]) == at and entry["speedup"] is not None
        }
        told = [f"{times(known[s])} at {s}{_bracketed(known[s])}" for s in sizes(study) if s in known]
        if len(told) > 1:
            return [f"{label(study, leader or '')} at {at}: {listed(told, 6)}."]
    return []


SAME = 0.01  # a ratio to the speedup in tokens that is not worth a sentence
KINDS = {"seconds": "On the clock, step times included", "flops": "In operations"}


def _otherwise(study: Study, place: Place) -> list[str]:
    """The same comparison on the clock and in operations, where they are known."""
    stated, said = speedups(study), []
    for kind, words in KINDS.items():
        parts, differs = [], False
        for name in ranked(study, contenders(study), place):
            found = (stated.get((name, *place)) or {}).get(kind) or {}
            if found.get("value") is not None:
                differs |= abs(found["value"] / stated[(name, *place)]["speedup"] - 1) > SAME
                parts.append(f"{label(study, name)} {ratio(found)}{f' ({ends(found)})' if ends(found) else ''}")
        if differs:
            said.append(f"{words}: {listed(parts, 5)}.")
    return said


def certificates(study: Study) -> dict[tuple[str, str, int], Study]:
    """The certificate of each cell of the base architecture."""
    found = [entry for entry in study.get("certificates") or [] if not entry["variant"]]
    return {(entry["optimizer"], entry["size"], entry["tokens"]): entry for entry in found}


def _certified(study: Study, place: Place) -> list[str]:
    """Whose settings at a place are local optima of what was searched."""
    found = certificates(study)
    here = {n: found[n, *place]["certified"] for n in study["optimizers"] if (n, *place) in found}
    if not here:
        return ["What was searched around these settings is not recorded: none of them is certified."]
    sure = [label(study, name) for name, certified in here.items() if certified]
    if not sure:
        return ["None of the settings compared there is certified as a local optimum of its search."]
    if len(sure) == len(here):
        return ["Every setting compared there is certified as a local optimum of its search."]
    return [f"Certified there as local optima of their search: {listed(sure, 12)}; the others are not."]


def _bracketed(entry: Study) -> str:
    words = span(entry)
    return f" ({words})" if words else ""


def setting(study: Study) -> str:
    """What was run, in one sentence."""
    base = [cell for cell in study["cells"] if not cell["variant"]]
    spent = sum(cell["spent_tokens"] for cell in study["cells"])
    seeds = {cell["seeds"] for cell in base if cell["seeds"]}
    said = f"{len(study['optimizers'])} optimizers, sizes {listed(sizes(study), 6)}, "
    said += f"{study['runs_count']:,} runs of {tokens(spent)} tokens in all; "
    if not seeds:
        return said + "no run is finished"
    low, high = min(seeds), max(seeds)
    said += f"{low if low == high else f'{low} to {high}'} seed{'s' * (high > 1)} behind each final loss"
    return f"{said}, intervals at {level(study)}." if high > 1 else f"{said}."


def level(study: Study) -> str:
    """``90 %``, the two held together in a line."""
    return f"{100 * study.get('level', 0.9):.3g}\N{NO-BREAK SPACE}%"


def rows(study: Study) -> list[dict[str, Any]]:
    """One flat row per cell, base architecture and variants: loss, verdict, speedup, what it cost."""
    stated, table = speedups(study), []
    for cell in study["cells"]:
        entry = None
        if not cell["variant"]:
            entry = stated.get((cell["optimizer"], cell["size"], cell["tokens"]))
        given = entry or {}
        contender = cell["optimizer"] != study["baseline"]
        table.append(
            {
                "optimizer": cell["optimizer"],
                "label": study["labels"][cell["optimizer"]],
                **{key: cell[key] for key in ("size", "variant", "ratio", "tokens")},
                "verdict": verdict(entry) if contender else "baseline",
                **{key: given.get(key) for key in ("speedup", "low", "high", "published")},
                "flags": "; ".join(given.get("flags") or []),
                **_costs(given),
                "final_loss": cell["loss"],
                "final_low": cell["low"],
                "final_high": cell["high"],
                **{key: cell[key] for key in ("seeds", "how", "runs", "diverged")},
                **{key: cell[key] for key in ("spent_tokens", "spent_flops", "spent_seconds")},
                **{f"hp.{name}": value for name, value in (cell["best"] or {}).items()},
            }
        )
    return table


def _costs(entry: Study) -> dict[str, float | None]:
    """The speedup in steps, operations and seconds, with its ends."""
    return {
        f"speedup_{kind}{suffix}": (entry.get(kind) or {}).get(key)
        for kind in ("steps", "flops", "seconds")
        for key, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))
    }
