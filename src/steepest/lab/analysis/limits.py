"""What a study's evidence does not support, in sentences that follow from its document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steepest.lab.analysis.accounting import unequal
from steepest.lab.analysis.listing import listed

Study = Mapping[str, Any]
Where = tuple[str, float, str]
"""Size, ratio, variant."""
NAMED = 4
"""How many of a kind are named; of more the rest is counted."""


def limits(study: Study) -> list[str]:
    """Every limit, the ones that weigh most first; ``study`` may lack any section but cells, sizes and labels."""
    found = (
        _noise,
        _power,
        _selected,
        _missing,
        _uncertified,
        _speedups,
        _laws,
        _forecasts,
        _search,
        _uncovered,
        _reach,
        _clock,
    )
    said = [sentence for tell in found for sentence in tell(study)]
    return [f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}." for sentence in said]


def _noise(study: Study) -> Iterator[str]:
    """How much the seeds tell."""
    seeds = [cell["seeds"] for cell in study["cells"] if cell["loss"] is not None]
    single = seeds.count(1)
    if seeds and single == len(seeds):
        yield "every loss is that of one seed: how far another seed would move it was not measured"
    elif single:
        yield f"{single} of {len(seeds)} final losses are of one seed, and so have no interval"
    if seeds and 1 < max(seeds) < 3:
        yield "two seeds measure noise poorly: the intervals are wide, and still rest on their normality"


def _power(study: Study) -> Iterator[str]:
    """What the study could not have seen."""
    power = study.get("power") or {}
    if power.get("seen"):
        yield from power["text"][:1]


def _selected(study: Study) -> Iterator[str]:
    """Losses that are the lowest of many: each is biased by its choice."""
    ended = [cell for cell in study["cells"] if cell["loss"] is not None]
    chosen = [cell["runs"] for cell in ended if not cell["fresh"]]
    if chosen:
        least, most = min(chosen), max(chosen)
        many = f"{least}" if least == most else f"{least} to {most}"
        yield (
            f"{len(chosen)} of {len(ended)} final losses are the minimum over the {many} runs of their cell: "
            "biased low, and more where more was tried"
        )


def _missing(study: Study) -> Iterator[str]:
    """Cells without a final loss, and optimizers that were not run somewhere."""
    places = _contended(study)
    nowhere: dict[tuple[Where, ...], list[str]] = {}
    for name in study["optimizers"]:
        cells = {_place(cell): cell for cell in study["cells"] if cell["optimizer"] == name}
        reasons: dict[str, list[Where]] = {}
        for place, cell in cells.items():
            if cell["loss"] is None:
                reasons.setdefault(cell["how"] or "no reason recorded", []).append(place)
        for reason, at in reasons.items():
            yield f"no final loss of {_label(study, name)} at {_places(at)}: {reason}"
        absent = tuple(place for place in places if place not in cells and not place[2])
        if absent:
            nowhere.setdefault(absent, []).append(_label(study, name))
    for absent, names in nowhere.items():
        yield f"not run: {listed(names, len(names))} at {_places(absent)}"


def _uncertified(study: Study) -> Iterator[str]:
    """Winners that are no certified local optimum, and why: what was moved too little, by how many of them."""
    found = study.get("certificates")
    if found is None:
        yield "what was tried around the winners is not told: whether they are local optima is not known"
        return
    loose = [entry for entry in found if not entry["certified"]]
    if not loose:
        return
    edges = Counter(c["name"] for e in loose for c in e["coordinates"] if c["standing"].endswith("edge"))
    why = [f"{name} at the edge of its grid in {count}" for name, count in edges.most_common(NAMED)]
    for count, words in (
        (sum(entry["neighbours"]["better"] > 0 for entry in loose), "a better neighbour in"),
        (
            sum(entry["neighbours"]["tried"] < entry["neighbours"]["all"] for entry in loose),
            "untried neighbours in",
        ),
        (sum(entry["certified"] is None for entry in loose), "nothing moved around it in"),
    ):
        why += [f"{words} {count}"] if count else []
    yield f"{len(loose)} of {len(found)} winners are not certified as local optima: {listed(why, len(why))}"


def _speedups(study: Study) -> Iterator[str]:
    """What flags the speedups carry."""
    flags: dict[str, list[str]] = {}
    for entry in study.get("speedups") or []:
        for flag in entry.get("flags") or []:
            who = f"{_label(study, entry['optimizer'])} at {entry['size']} {_times(entry['ratio'])}"
            flags.setdefault(flag.split(" of ")[0] if flag.startswith("outside") else flag, []).append(who)
    count = len(study.get("speedups") or [])
    for flag, whose in flags.items():
        if len(whose) == count > 1:
            yield f"every speedup is flagged: {flag}"
            continue
        many = "a speedup is" if len(whose) == 1 else f"{len(whose)} speedups are"
        yield f"{many} flagged ({flag}): {listed(whose, NAMED)}"
    stated = [entry for entry in study.get("speedups") or [] if entry.get("low") is not None]
    if len(stated) > 10:
        yield (
            f"each of the {len(stated)} intervals stands alone: at {100 * study.get('level', 0.9):g} % about "
            f"{len(stated) * (1 - study.get('level', 0.9)):.0f} of them miss what they estimate"
        )


def _laws(study: Study) -> Iterator[str]:
    """What weakens the laws that speedups are read off."""
    for law in study.get("laws") or []:
        for flag in law.get("flags") or []:
            yield f"the law of {_label(study, law['optimizer'])} at {law['size']}: {flag}"


def _forecasts(study: Study) -> Iterator[str]:
    """What joint laws say of sizes that nobody trained, where their errors do not bear it."""
    untold: dict[str, list[str]] = {}
    for law in study.get("joint") or []:
        for forecast in law["predictions"]:
            if forecast.get("reason"):
                where = f"{forecast['weights']:.3g} weights and {_times(forecast['ratio'])}"
                untold.setdefault(where, []).append(_label(study, law["optimizer"]))
    for where, names in untold.items():
        yield (
            f"at {where} the joint laws tell nothing of {listed(names, NAMED)} against "
            f"{_label(study, study['baseline'])}: what they predict is no more than their errors on what was left "
            "out, or too few sizes try it"
        )


def _search(study: Study) -> Iterator[str]:
    """Whether all were tuned alike: runs where all were run, and search spaces."""
    runs = {(cell["optimizer"], _place(cell)): cell["runs"] for cell in study["cells"]}
    places, names = _contended(study), study["optimizers"]
    places = [place for place in places if all((name, place) in runs for name in names)] or places
    of = {name: [runs[name, place] for place in places if (name, place) in runs] for name in names}
    spent = {name: sum(counts) / len(counts) for name, counts in of.items() if counts}
    if spent and max(spent.values()) > 1.05 * min(spent.values()):
        least, most = min(spent, key=spent.__getitem__), max(spent, key=spent.__getitem__)
        yield (
            f"tuning was not equal: from {spent[least]:.3g} runs a cell ({_label(study, least)}) to "
            f"{spent[most]:.3g} ({_label(study, most)})"
        )
    yield from unequal(study.get("accounting") or [], study["labels"])


def _uncovered(study: Study) -> Iterator[str]:
    """Sizes with too little to fit."""
    fitted = {law["size"] for law in study.get("laws") or []}
    bare = [entry["size"] for entry in study["sizes"] if entry["size"] not in fitted]
    if study.get("laws") and bare:
        yield f"no law at {listed(bare, NAMED)}: no speedup is stated there"


def _reach(study: Study) -> Iterator[str]:
    """What lies outside of everything that was run."""
    sizes, ratios = [entry["size"] for entry in study["sizes"]], [cell["ratio"] for cell in study["cells"]]
    span = f"one size, {sizes[0]}" if len(sizes) == 1 else f"sizes from {sizes[0]} to {sizes[-1]}"
    ends = list(dict.fromkeys((_times(min(ratios)), _times(max(ratios)))))
    data = " to ".join(ends)
    yield (
        f"{span}, data-to-model ratios {data} (1× is 20 tokens per weight): nothing here says how the "
        "order stands outside of these"
    )
    if all(not cell["variant"] for cell in study["cells"]):
        yield "one architecture and one text: another of either may order the optimizers otherwise"


def _clock(study: Study) -> Iterator[str]:
    """Time, where it is not known or not comparable."""
    timed = [cell["spent_seconds"] is not None for cell in study["cells"]]
    if not any(timed):
        yield "no run records its time: nothing here compares optimizers in seconds"
    elif not all(timed):
        yield f"{timed.count(False)} of {len(timed)} cells record no time"


def _contended(study: Study) -> list[Where]:
    """Places where more than the baseline's law is at stake; all if it ran alone."""
    cells = [cell for cell in study["cells"] if cell["optimizer"] != study["baseline"]] or study["cells"]
    return list(dict.fromkeys(_place(cell) for cell in cells))


def _times(ratio: float) -> str:
    """``8×`` of 7.98, which whole steps make of it."""
    return f"{float(f'{ratio:.2g}'):g}×"


def _place(cell: Mapping[str, Any]) -> Where:
    return cell["size"], cell["ratio"], cell["variant"]


def _places(places: Sequence[Where]) -> str:
    """``130m 1× and 2×, 300m 8×``."""
    by_size: dict[str, list[str]] = {}
    for size, ratio, variant in places:
        by_size.setdefault(f"{size} {variant}".rstrip(), []).append(_times(ratio))
    return ", ".join(f"{size} {listed(ratios, NAMED)}" for size, ratios in by_size.items())


def _label(study: Study, name: str) -> str:
    return study["labels"].get(name, name)
