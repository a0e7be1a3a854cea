"""Holding a race: runs, calibration, ``race.json``."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from steepest.core.errors import SteepestError
from steepest.lab import record
from steepest.lab.cluster.local import Job, Outcome, submit
from steepest.lab.corpus import Corpus
from steepest.lab.files import make_folder, replace
from steepest.lab.model import Decoder, non_embedding
from steepest.lab.race.calibrate import calibrated_steps
from steepest.lab.race.plan import Race, Trial, check_corpus, model_config
from steepest.lab.race.protocol import Course
from steepest.lab.race.result import evidence
from steepest.lab.study.training import train_trial

ROUNDS = 8
"""Rounds of the calibration."""

Submit = Callable[..., list[Outcome]]


def hold(
    race: Race,
    corpus: Corpus,
    *,
    runs: Path,
    out: Path,
    workers: int,
    command: str,
    watch: Callable[[Course, Job, Any], None] = lambda course, job, value: None,
    submit: Submit = submit,
) -> dict[str, Any]:
    """Runs all that is not yet finished, writes ``out/race.json``, returns what it holds.

    ``watch(course, job, value)`` sees the progress of jobs, value None when a trial ends. Held again, a race that
    was interrupted goes on where it was.
    """
    began = time.monotonic()
    passes = check_corpus(race, corpus)
    costs = _costs(race, corpus)  # builds every optimizer once: what cannot be built is told before anything runs
    make_folder(out)

    def job(trial: Trial, priority: float) -> Job:
        return Job(trial.name, train_trial, (race.config(trial), runs, corpus.path, 1), priority)

    course = Course(race, job)

    def then(outcome: Outcome) -> Iterable[Job]:
        jobs = course.ended(outcome)
        watch(course, outcome.job, None)
        return jobs

    submit(course.begin(), workers, then=then, progress=lambda running, value: watch(course, running, value))
    if race.baseline.name in course.failures:
        raise SteepestError(
            f"the baseline failed: {course.failures[race.baseline.name]}: "
            "mend that and run the same command again; what is finished is kept"
        )
    calibration = calibrated(
        race, course, corpus, out, submit, lambda running, value: watch(course, running, value)
    )
    told = _told(race, corpus, passes, workers, command)
    found = evidence(course, calibration)
    for name, cost in costs.items():
        found["results"][name] |= cost
    told |= found
    told["seconds"] = time.monotonic() - began
    told["warnings"] = _warnings(course, calibration)
    replace(out / "race.json", _json(told))
    return told


def calibrated(
    race: Race,
    course: Course,
    corpus: Corpus,
    out: Path,
    submit: Submit,
    progress: Callable[[Job, Any], None] | None = None,
) -> dict[str, Any]:
    """The step times at the tuned rates; those of an earlier call where nothing that matters has changed."""
    best = {name: tuned.best for name, tuned in course.tuned.items() if tuned.best is not None}
    configs = {name: race.config(Trial(name, lr, race.tuning_seed, race.tokens)) for name, lr in best.items()}
    return calibrated_steps(configs, corpus, out, ROUNDS, submit, progress)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _told(race: Race, corpus: Corpus, passes: float, workers: int, command: str) -> dict[str, Any]:
    """What race.json holds beside the evidence."""
    base, manifest, model = race.base, corpus.manifest, model_config(race, corpus)
    source = manifest["source"]
    kept = ("batch", "seq", "accumulation", "clip", "divergence", "precision", "compile", "engine", "device")
    return {
        "format": 1,
        "command": command,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "baseline": race.baseline.name,
        "optimizers": [entrant.name for entrant in race.entrants],
        "setup": {
            "model": dataclasses.asdict(model),
            "model_name": base.model.preset,
            "non_embedding": non_embedding(model),
            "parameters": sum(p.numel() for p in Decoder(model, device="meta").parameters()),
            "corpus": {
                "source": source if isinstance(source, str) else ", ".join(source),
                "documents": manifest["documents"],
                "train_tokens": manifest["train_tokens"],
                "val_tokens": manifest["val_tokens"],
                "tokenizer": manifest["tokenizer"],
                "vocab_size": manifest["vocab_size"],
                "identity": manifest["identity"],
            },
            "passes": passes,
            "tokens": race.tokens,
            "budgets": list(race.budgets),
            "batch": base.batch,
            "seq": base.seq,
            "steps": race.tokens // (base.batch * base.seq),
            "schedule": base.schedule.told(),
            "clip": base.clip,
            "seeds": list(race.seeds),
            "law_seeds": race.law_seeds,
            "tuning_seed": race.tuning_seed,
            "tuning": dataclasses.asdict(race.tuning),
            "evaluation_tokens": base.evaluation.tokens,
            "workers": workers,
        },
        "untuned": {
            "shared": {
                "model": base.model.preset,
                "vocabulary": corpus.vocab_size,
                "schedule": base.schedule.told(),
                "estimate": dataclasses.asdict(base.estimate),
                **{name: getattr(base, name) for name in kept},
            },
            "per_optimizer": {
                e.name: _untuned(e.contender.identity(1.0, **e.hyperparameters)) for e in race.entrants
            },
        },
        "versions": record.versions(),
        "hardware": record.hardware(),
    }


def _untuned(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Every hyperparameter but the learning rate, the companion's among them."""
    values = {name: value for name, value in identity["hyperparameters"].items() if name != "lr"}
    return values | ({"companion": identity["companion"]} if "companion" in identity else {})


def _costs(race: Race, corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Routing and bytes of state of each entrant on the race's model."""
    model = Decoder(model_config(race, corpus), race.tuning_seed)
    weights = sum(p.numel() for p in model.parameters())
    return {
        e.name: {
            "state_bytes_per_weight": e.contender.state_bytes(model, **e.hyperparameters) / weights,
            "routing": e.contender.routing(model, **e.hyperparameters),
        }
        for e in race.entrants
    }


def _warnings(course: Course, calibration: Mapping[str, Any]) -> list[str]:
    said = [f"a run failed: {reason}" for reason in (course.failures | course.law_failures).values()]
    if "error" in calibration:
        said.append(f"the timing of the steps failed, so nothing is said in seconds: {calibration['error']}")
    present = sum(result.present for result in course.results.values())
    if present:
        said.append(
            f"{present} of {len(course.results)} runs were finished before this call; "
            "its seconds do not hold theirs"
        )
    return said
