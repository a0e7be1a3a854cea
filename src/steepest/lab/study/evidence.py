"""A study's runs as evidence, and its document: ``steepest study report``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput, SteepestError
from steepest.lab import record
from steepest.lab.analysis.evidence import evidence
from steepest.lab.analysis.finals import FRESH, behind, finals_of
from steepest.lab.analysis.runs import UNFINISHED, Cell, Run
from steepest.lab.model import Decoder
from steepest.lab.study import calibration

if TYPE_CHECKING:
    from steepest.lab.study.calibration import Times
    from steepest.lab.study.hold import Standing
    from steepest.lab.study.study import Study
    from steepest.lab.study.trial import Trial


def runs_of(standing: Standing, times: Mapping[str, Times]) -> list[Run]:
    """Every run that was asked for, in that order; unfinished ones have no loss.

    times: of the optimizers' starts by size, for operations; empty, none are told. Losses along the way are read
    of fresh seeds alone.
    """
    study, state = standing.study, _state_bytes(standing.study)
    found = []
    for name, trials in standing.trials_of.items():
        trial, result = trials[0], standing.results.get(name)
        cell, config = Cell(trial.optimizer, *trial.place), standing.configs[name]
        step = config.batch * config.seq
        run = Run(
            run=name,
            optimizer=trial.optimizer,
            size=trial.place.size,
            weights=study.sizes[trial.place.size],
            tokens=trial.place.tokens,
            hyperparameters=dict(trial.values),
            status=UNFINISHED,
            loss=None,
            seed=trial.seed,
            variant=trial.place.variant,
            state_bytes=state.get((trial.optimizer, trial.place.size)),
            purpose=trial.purpose,
            reason=standing.course.failures.get(trial),
            source=str(standing.runs / name),
        )
        if result is not None:
            run = dataclasses.replace(
                run,
                status=result.status,
                loss=result.loss,
                steps=result.trained // step,
                flops=calibration.flops(study, times, cell, result.trained, config.batch) if times else None,
                seconds=result.seconds,
                reason=result.reason,
                curve=_curve(standing, name, trial),
            )
        found.append(run)
    return found


def document(standing: Standing, out: Path, command: str, file: str) -> tuple[dict[str, Any], list[Run]]:
    """study.json of what is finished, and all its runs. Raises: BadInput where no run of the baseline is."""
    study, corpus = standing.study, standing.corpus
    warnings = _warnings(standing)
    try:
        times = calibration.starts(study, corpus, out)
    except SteepestError as error:
        times = {}
        warnings.append(f"nothing is said in operations: {error}")
    runs = runs_of(standing, times)
    finals = finals_of(runs)
    if not any(final.cell.optimizer == study.baseline for final in finals):
        raise BadInput(
            f"no run of the baseline {study.baseline} is finished yet: `steepest study run {file}` first"
        )
    try:
        costs = calibration.costs(study, behind(runs, finals), corpus, out)
    except SteepestError as error:
        costs = None
        warnings.append(f"nothing is said in seconds: {error}")
    told = evidence(
        runs,
        finals,
        baseline=study.baseline,
        title=study.name,
        command=command,
        source=f"{file}, protocol {study.protocol}",
        labels={name: study.contender(name).label for name in study.optimizers},
        costs=costs,
        warnings=warnings,
        provenance=_provenance(standing),
        spaces={name: study.space(name) for name in study.optimizers},
        start={run.cell.place: math.log(corpus.vocab_size) for run in runs},
    )
    return told, runs


def _warnings(standing: Standing) -> list[str]:
    said = [f"a run failed: {reason}" for reason in dict.fromkeys(standing.course.failures.values())]
    if not standing.course.ended:
        said.append(
            f"the study has not ended: {len(standing.missing)} runs that were asked for are missing, "
            "and what they would lead to"
        )
    points = {name: sum(map(len, standing.study.space(name).values())) for name in standing.study.optimizers}
    if len(set(points.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in points.items())
        said.append(f"the search spaces differ in size (grid points: {told})")
    return said


def _provenance(standing: Standing) -> dict[str, Any]:
    study, manifest = standing.study, standing.corpus.manifest
    return {
        "protocol": {"name": study.protocol, **study.options},
        "spaces": {name: {k: list(v) for k, v in study.space(name).items()} for name in study.optimizers},
        "starts": {name: study.start(name) for name in study.optimizers},
        "settings": {name: dict(values) for name, values in study.settings.items() if values},
        "variants": {name: dict(fields) for name, fields in study.variants.items()},
        "tuning_seed": study.tuning_seed,
        "seeds": list(study.seeds),
        "run": study.base.to_mapping(),
        "corpus": {
            key: manifest[key]
            for key in ("identity", "documents", "train_tokens", "val_tokens", "tokenizer", "vocab_size")
        },
        "versions": record.versions(),
        "hardware": record.hardware(),
    }


def _curve(standing: Standing, name: str, trial: Trial) -> tuple[tuple[int, float], ...]:
    if trial.purpose not in FRESH:
        return ()
    try:
        rows = record.read_rows(standing.runs / name)
    except SteepestError:
        return ()  # a picture less: the loss of the run stands in its result
    return tuple((row["tokens"], row["val_loss"]) for row in rows if row["val_loss"] is not None)


def _state_bytes(study: Study) -> dict[tuple[str, str], float]:
    """Of each optimizer at each size, per weight of the whole model."""
    found = {}
    for place in {place.size: place for place in study.places if not place.variant}.values():
        model = Decoder(study.model(place).config(vocab=1024), study.tuning_seed)
        weights = sum(p.numel() for p in model.parameters())
        for name in study.optimizers:
            state = study.contender(name).state_bytes(model, **study.settings.get(name, {}))
            found[name, place.size] = state / weights
    return found
