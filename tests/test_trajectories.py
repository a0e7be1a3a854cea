"""Each optimizer walks the trajectory that its authors' own code took, under every engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cases import needs_compiler

from steepest.registry import rule_of_trajectory, rules
from steepest.verify import one, trajectories

ORACLES = Path(__file__).parent / "oracles"
with np.load(ORACLES / "inputs.npz") as archive:
    INPUTS = {key: archive[key] for key in archive.files}
PATHS = [pytest.param(p, id=f"{p.parent.name}/{p.stem}") for p in trajectories(ORACLES)]


def test_every_rule_has_a_trajectory() -> None:
    # Shampoo's papers describe two programs that are not theirs alone: tests/references stands for them. RMSprop
    # walks beside torch's own in test_rmsprop.py, and below Fira here.
    found = (rule_of_trajectory(json.loads(p.read_text())) for p in trajectories(ORACLES))
    replayed = {rule for rule in found if rule is not None}
    # A piece of SPAM is replayed in what is made of it.
    pieces = {one.__module__ for rule in replayed for one in rule.__mro__ if ".wrappers." in one.__module__}
    rest = {rule for rule in set(rules().values()) - replayed if rule.__module__ not in pieces}
    assert rest <= {rules()["shampoo"], rules()["rmsprop"]}


@pytest.mark.parametrize("engine", ["loop", "batched"])
@pytest.mark.parametrize("path", PATHS)
def test_the_authors_trajectory_is_walked(path: Path, engine: str) -> None:
    verdict = one(path, INPUTS, engine)
    assert verdict.status == "pass", verdict


# Trajectories of one rule share their kernels' text, not their options: one compiled variant of a rule stands
# for it here, all of them run with `make test-slow` and `steepest verify tests/oracles --engine compiled`.
FIRST = {p.parent.name: p for p in reversed(trajectories(ORACLES))}.values()


@needs_compiler
@pytest.mark.parametrize(
    "path",
    [pytest.param(*p.values, id=p.id, marks=[] if p.values[0] in FIRST else [pytest.mark.slow]) for p in PATHS],
)
def test_the_authors_trajectory_is_walked_compiled(path: Path) -> None:
    verdict = one(path, INPUTS, "compiled")
    assert verdict.status == "pass", verdict
