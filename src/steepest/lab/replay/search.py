"""What the released search does and does not support, in sentences whose every number is computed from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from steepest.lab.analysis.certificate import HIGH, LOW
from steepest.lab.analysis.predict import CONSTANT, OFFSET, POWER
from steepest.lab.analysis.runs import Run, grouped
from steepest.lab.analysis.selection import selections
from steepest.lab.analysis.sensitive import THRESHOLD
from steepest.lab.replay.released import BASELINE, At
from steepest.lab.replay.sections import LARGEST, PAPER, place_of
from steepest.lab.replay.words import ACCEPTED, Evidence, Told, listed


def doubted(of: Evidence) -> list[str]:
    """What the search does not support, the weightiest first."""
    tells: tuple[Callable[[Evidence], Iterator[str]], ...] = (
        _selection, _unlogged, _edges, _search, _untuned, _check, _threshold, _predicted,
    )  # fmt: skip
    return [sentence for tell in tells for sentence in tell(of)]


def _selection(of: Evidence) -> Iterator[str]:
    if of.noise is None:
        return
    biases = selections(of.released.runs, of.noise.floor.sd)
    by_optimizer = grouped(
        [one for one in biases.values() if one.runs > 1 and one.cell.size != LARGEST],
        lambda one: one.cell.optimizer,
    )
    means = {name: sum(one.bias for one in own) / len(own) for name, own in by_optimizer.items()}
    if len(means) < 2:
        return
    most, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    runs = [one.runs for own in by_optimizer.values() for one in own]
    base = f", for AdamW by {means[BASELINE]:.4f}" if BASELINE in means and BASELINE not in (most, least) else ""
    yield (
        f"A cell's loss is the minimum over {min(runs)} to {max(runs)} single-seed runs, which flatters whoever "
        f"was tried more often beside the optimum: at this noise, for {of.named(most)} by {means[most]:.4f} "
        f"nats/token, for {of.named(least)} by {means[least]:.4f}{base}, on average."
    )


def _unlogged(of: Evidence) -> Iterator[str]:
    below = [c for c in of.released.cells if c.lowest_loss is not None and c.loss < c.lowest_loss - 1e-9]
    if below:
        worst = max(below, key=lambda cell: (cell.lowest_loss or 0.0) - cell.loss)
        gap = (worst.lowest_loss or 0.0) - worst.loss
        yield (
            f"In {len(below)} of {len(of.released.cells)} cells the reported minimum is lower than every logged "
            f"run (by {gap:.4f} for {of.named(worst.at.optimizer)} at {worst.at.size}, {worst.at.ratio:g}x): the "
            "setting behind it is not in the release."
        )


def _edges(of: Evidence) -> Iterator[str]:
    found = _searched(of)
    counts = Counter(
        (coordinate["name"], coordinate["standing"].removesuffix(" edge"))
        for certificate in found
        for coordinate in certificate["coordinates"]
        if coordinate["standing"] in (LOW, HIGH)
    )
    if counts:
        named = [f"{name} at its {end}est in {count}" for (name, end), count in counts.most_common(4)]
        yield (
            f"Optima at the edge of what was logged, in {len(found)} fully searched cells: {', '.join(named)}. "
            "Nothing beyond was tried there, as far as the release shows, so that these optima are not bracketed."
        )


def _search(of: Evidence) -> Iterator[str]:
    by_optimizer = grouped(_searched(of), lambda certificate: str(certificate["optimizer"]))
    runs = {name: sum(one["runs"] for one in own) / len(own) for name, own in by_optimizer.items()}
    names = {name: max(len(one["coordinates"]) for one in own) for name, own in by_optimizer.items()}
    if len(runs) < 2 or BASELINE not in runs:
        return
    most = max(runs, key=runs.__getitem__)
    yield (
        f"The search was not equal: in the fully searched cells {of.named(most)} had {runs[most]:.0f} runs over "
        f"up to {names[most]} hyperparameters, AdamW {runs[BASELINE]:.0f} over {names[BASELINE]}; "
        f"{listed(_tuned_cooldown(of.released.runs, of.named))} had their schedule tuned (cooldown), the others "
        "never."
    )


def _searched(of: Evidence) -> list[Told]:
    """Certificates of the cells in which everything was searched."""
    first = {cell.at for cell in of.released.cells if cell.phase == "I"}
    return [
        one
        for one in of.study["certificates"]
        if At(one["optimizer"], one["size"], round(one["ratio"], 6)) in first
    ]


def _tuned_cooldown(runs: Sequence[Run], named: Callable[[str], str]) -> list[str]:
    values: dict[str, set[Any]] = {}
    for run in runs:
        if "cooldown" in run.hyperparameters:
            values.setdefault(run.optimizer, set()).add(run.hyperparameters["cooldown"])
    return [named(name) for name, tried in values.items() if len(tried) > 1] or ["none"]


def _untuned(of: Evidence) -> Iterator[str]:
    runs = Counter(place_of(run) for run in of.released.runs)
    own = {at.ratio: count for at, count in sorted(runs.items()) if (at.optimizer, at.size) == (BASELINE, LARGEST)}
    if len(own) > 1:
        told = ", ".join(f"{count} at {ratio:g}x" for ratio, count in own.items())
        rates = {}
        for name in ("muon", "soap", "nadamw"):
            tried = {
                r.hyperparameters.get("lr") for r in of.released.runs if (r.optimizer, r.size) == (name, LARGEST)
            }
            rates[name] = len(tried)
        others = ", ".join(f"{of.named(name)} {count}" for name, count in rates.items() if count)
        yield (
            f"At {LARGEST} the baseline was searched at one ratio alone (runs of AdamW: {told}), and of the "
            f"others learning rates were tried: {others}. Its law there mixes a tuned point with untuned ones."
        )


def _check(of: Evidence) -> Iterator[str]:
    """The paper's check of its predictions: the predicted setting of AdamW against a full sweep."""
    cells = {cell.at: cell for cell in of.released.cells}
    predicted, swept = cells.get(At(BASELINE, LARGEST, 2.0)), cells.get(At(BASELINE, LARGEST, 1.0))
    runs = [run for run in of.released.runs if swept and place_of(run) == swept.at and run.loss is not None]
    if predicted is None or swept is None or swept.center_loss is None or not runs:
        return

    def apart(run: Run) -> list[str]:
        return [k for k, v in predicted.center.items() if run.hyperparameters.get(k) != v]

    def distance(run: Run) -> tuple[int, int, float]:
        """What was predicted counts first: the sensitive hyperparameters."""
        return len({*apart(run)} & {*PAPER[BASELINE]}), len(apart(run)), run.ranked

    nearest = min(runs, key=distance)
    beside = f"all but {listed(apart(nearest))} as predicted" if apart(nearest) else "the setting itself"
    verdict = "not confirmed" if nearest.ranked - swept.loss > ACCEPTED else "confirmed"
    yield (
        f"That the predicted setting of AdamW at {LARGEST}, 1x, ends within {ACCEPTED:g} of a full sweep is "
        f"{verdict}: the nearest logged run ({beside}) ends {nearest.ranked - swept.center_loss:.4f} above the "
        f"sweep's centre and {nearest.ranked - swept.loss:.4f} above its best."
    )


def _threshold(of: Evidence) -> Iterator[str]:
    by_optimizer = grouped(of.study["sensitive"], lambda told: told["optimizer"])
    stable = [name for name, told in by_optimizer.items() if len({tuple(one["sensitive"]) for one in told}) == 1]
    known = [
        name for name, told in by_optimizer.items()
        if told[0]["published"] is not None
        and all(sorted(one["published"]) == one["sensitive"] for one in told if one["threshold"] == THRESHOLD)
    ]  # fmt: skip
    published = sum(told[0]["published"] is not None for told in by_optimizer.values())
    yield (
        f"Which hyperparameters are scaling-sensitive depends on the threshold: for {len(stable)} of "
        f"{len(by_optimizer)} optimizers the answer is the same from 0.003 to 0.007 and in the authors' near-best "
        f"settings; at the paper's own 0.0064 the logged runs give its list for {len(known)} of {published}"
        + (f" ({listed([of.named(name) for name in known])})." if known else ".")
    )


def _predicted(of: Evidence) -> Iterator[str]:
    rates = [p for p in of.study["predictions"] if p["hyperparameter"] == "lr" and p["of_lowest_runs"]]
    moved = []
    for entry in rates:
        offset = next(form for form in entry["forms"] if form["form"] == OFFSET)
        pairs = zip(offset["predicted"], entry["of_lowest_runs"], strict=True)
        one, other = max(pairs, key=lambda pair: pair[0]["ratio"])
        if one["value"] and other["value"]:
            moved.append(
                f"{of.named(entry['optimizer'])} at {one['size']}, {one['ratio']:g}x: {one['value']:.2g}, or "
                f"{other['value']:.2g} (used {_used(entry, one)})"
            )
    if moved:
        yield (
            "The fitted laws of the learning rate do not stand a change of their points within noise: from the "
            f"centres of the ablations, or from the lowest logged runs, {'; '.join(moved)}."
        )
    entries = [entry for entry in of.study["predictions"] if {f["form"] for f in entry["forms"]} >= {OFFSET}]
    if entries:
        hits = {name: _hits(entries, name) for name in (OFFSET, POWER, CONSTANT)}
        count = sum(len(entry["points"]) for entry in entries)
        yield (
            f"Left out one at a time and rounded to the grid, {hits[OFFSET]} of {count} optima of "
            f"{len(entries)} hyperparameters are met by the published form, {hits[POWER]} by the same in "
            f"logarithms, and {hits[CONSTANT]} by supposing that nothing moves."
        )


def _used(entry: Told, at: Told) -> str:
    found = [u["value"] for u in entry["used"] if (u["size"], u["ratio"]) == (at["size"], at["ratio"])]
    return f"{found[0]:g}" if found else "none"


def _hits(entries: Sequence[Told], name: str) -> int:
    return sum(form["hits"] for entry in entries for form in entry["forms"] if form["form"] == name)
