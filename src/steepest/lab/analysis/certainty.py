"""How sure a study is, as the evidence document holds it (plain JSON): noise, power, certificates, search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from steepest.lab.analysis.accounting import accounting
from steepest.lab.analysis.certificate import Grid, certificate
from steepest.lab.analysis.interval import LEVEL, Noise
from steepest.lab.analysis.noise import (
    Irrelevant,
    floors,
    pooled_floor,
    repeats,
    same_spread,
    sd_interval,
    seed_noise,
)
from steepest.lab.analysis.power import Design, slopes
from steepest.lab.analysis.runs import Cell, Final, Place, Run, by_cell
from steepest.lab.analysis.seeds import Known, of_repeats, planned
from steepest.lab.analysis.significance import TIE, UNKNOWN, Comparison, comparisons

Told = dict[str, Any]


def noise_section(
    runs: Sequence[Run],
    finals: Sequence[Final],
    baseline: str,
    *,
    noise: Noise | None = None,
    irrelevant: Sequence[Irrelevant] = (),
    worth: Mapping[Place, float] | None = None,
    level: float = LEVEL,
) -> dict[str, Told]:
    """``noise`` and ``power`` of ``study.json``; empty where nothing tells the noise.

    The noise is that of the finals' seeds; without, of any setting with repeated seeds; without, ``noise`` from
    elsewhere or the first of ``irrelevant``. worth: -dL / d ln D by place, of the baseline's law fitted here if
    None.
    """
    repeated = repeats(finals) or repeats(runs)
    noise = seed_noise(repeated) or noise or (irrelevant[0].noise if irrelevant else None)
    if noise is None or noise.own_sd == 0:
        return {}
    worth = slopes(finals, baseline) if worth is None else worth
    known = of_repeats(repeated, worth) or _from_elsewhere(noise, irrelevant, finals, worth)
    found = floors(repeated, level)
    same, pooled = same_spread(found, level), pooled_floor(found, level)
    gaps = comparisons(finals, baseline, noise, level)
    low, high = sd_interval(noise.sd, noise.freedom, level)
    section: Told = {
        "sd": noise.sd,
        "low": low,
        "high": high,
        "freedom": noise.freedom,
        "own_sd": noise.own_sd,
        "own_freedom": noise.own_freedom,
        "level": level,
        "source": known.source,
        "optimizers": [asdict(floor) for floor in found],
        "pooled": None if pooled is None else asdict(pooled),
        "same": None if same is None else asdict(same),
        "irrelevant": [_irrelevant(one) for one in irrelevant],
        "differences": [_difference(gap) for gap in gaps],
    }
    said = [f"a run's loss has sd {noise.sd:.2g} nats/token ({low:.2g} to {high:.2g}), from {known.source}"]
    said += [same.text] if same is not None else []
    said += [_in_words(one) for one in irrelevant]
    tested = [gap for gap in gaps if gap.word != UNKNOWN]
    if tested:
        ties = sum(gap.word == TIE for gap in tested)
        said.append(
            f"{ties} of {len(tested)} differences from {baseline} lie inside the noise (Holm's correction)"
        )
    return {"noise": section | {"text": said}, "power": planned(known, Design(level))}


def _from_elsewhere(
    noise: Noise, irrelevant: Sequence[Irrelevant], finals: Sequence[Final], worth: Mapping[Place, float]
) -> Known:
    told = next((one for one in irrelevant if one.noise == noise), None)
    return Known(
        noise.own_sd,
        noise.own_freedom,
        seeds=max((len(final.losses) for final in finals), default=None),
        optimizers=max(2, len({final.cell.optimizer for final in finals})),
        slopes=worth,
        source="elsewhere" if told is None else f"{told.pairs} pairs of runs that differ in {told.name} alone",
        elsewhere=True,
    )


def _irrelevant(told: Irrelevant) -> Told:
    return asdict(told) | {"values": list(told.values)}


def _in_words(told: Irrelevant) -> str:
    said = (
        f"{told.pairs} pairs of runs differ in {told.name} alone, which was taken not to matter: {told.identical} "
        f"end on the same bits, the others up to {told.largest:.2g} nats/token apart, sd {told.floor.sd:.2g}; "
        "seed and order of the data were the same, so that this is the least that the noise can be"
    )
    if told.shift_p is not None:
        said += f"; whether it matters after all: p = {told.shift_p:.2g}"
    return said


def _difference(gap: Comparison) -> Told:
    return {
        "optimizer": gap.optimizer,
        **gap.place._asdict(),
        "gap": gap.gap.value,
        "low": gap.gap.low,
        "high": gap.gap.high,
        **{key: getattr(gap, key) for key in ("seeds", "freedom", "t", "p", "p_holm", "p_signs", "least", "word")},
    }


def certificates_section(
    runs: Sequence[Run],
    finals: Sequence[Final],
    spaces: Mapping[Cell | str, Grid] | None = None,
    noise: Noise | float | None = None,
    level: float = LEVEL,
) -> dict[str, list[Told]]:
    """``certificates`` and ``accounting`` of ``study.json``: every cell's winner is that of its final.

    spaces: the grids that were searched, by cell, or by optimizer where all its cells share them (of which those
    count that a cell's runs set); a cell without is certified over what it tried. noise: as in
    :func:`~steepest.lab.analysis.certificate.certificate`.
    """
    ended = {final.cell: final.values for final in finals}
    found = []
    for cell, of_cell in by_cell(runs).items():
        space, winner = (spaces or {}).get(cell) or (spaces or {}).get(cell.optimizer), ended.get(cell, {})
        if space is not None:
            space = {name: grid for name, grid in space.items() if name in winner}
        found.append(certificate(of_cell, space, noise, winner=winner, level=level))
    searches = [search.told() for search in accounting(found)]
    return {"certificates": [one.told() for one in found], "accounting": searches}
