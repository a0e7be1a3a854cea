"""Noise, power, certificates and search in the evidence document, its limits and its figures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from steepest.cli import main
from steepest.lab.analysis.certainty import noise_section
from steepest.lab.analysis.evidence import evidence
from steepest.lab.analysis.finals import finals_of
from steepest.lab.analysis.limits import limits
from steepest.lab.analysis.noise import irrelevant
from steepest.lab.analysis.runs import Run
from steepest.lab.report.study import certificates as drawn
from steepest.lab.report.study.schema import checked

RATES = (0.005, 0.01, 0.02)


def run(optimizer: str, tokens: int, loss: float, seed: int, purpose: str, **values: Any) -> Run:
    hyperparameters = {"lr": 0.01, "beta1": 0.9, **values}
    return Run("r", optimizer, "50k", 50_000, tokens, hyperparameters, "finished", loss, seed, purpose=purpose)


def study_runs() -> list[Run]:
    """Two optimizers at four budgets: lr bracketed, beta1 of muon at an edge; three fresh seeds of each winner."""
    random = np.random.default_rng(0)
    runs = []
    for gain, optimizer in ((0.0, "adamw"), (0.1, "muon")):
        for tokens in (1000, 2000, 4000, 8000):
            law = 2 + 40 * tokens**-0.4 - gain
            runs += [run(optimizer, tokens, law + 0.2 * (lr != 0.01), 0, "tuning", lr=lr) for lr in RATES]
            runs += [run(optimizer, tokens, law + float(random.normal()) * 0.01, s, "final") for s in (1, 2, 3)]
        if gain:
            runs.append(run(optimizer, 1000, 6.0, 0, "tuning", beta1=0.8))
    return runs


def document(runs: list[Run], **more: Any) -> dict[str, Any]:
    finals = finals_of(runs)
    made = evidence(
        runs, finals, baseline="adamw", title="t", command="steepest study", source="here", spaces=more
    )
    return checked(json.loads(json.dumps(made, allow_nan=False)))


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    return document(study_runs())


def test_the_sections_say_noise_power_and_certificates_from_runs(study: dict[str, Any]) -> None:
    noise, power = study["noise"], study["power"]
    assert noise["own_freedom"] == 8
    assert [floor["optimizer"] for floor in noise["optimizers"]] == ["adamw", "muon"]
    assert noise["low"] < noise["sd"] < noise["high"]
    assert {row["word"] for row in noise["differences"]} == {"lower"}
    assert (power["seeds"], power["places"], power["optimizers"]) == (3, 4, 2)
    slopes = [at["slope"] for at in power["at"]]
    assert slopes == pytest.approx([0.4 * 40 * tokens**-0.4 for tokens in (1000, 2000, 4000, 8000)], rel=0.1)
    verdicts = {(entry["optimizer"], entry["tokens"]): entry["text"] for entry in study["certificates"]}
    assert verdicts["adamw", 1000] == "certified: locally optimal, bracketed in its one coordinate"
    assert verdicts["muon", 1000] == "not certified: beta1 at the high edge"
    assert [row["optimizer"] for row in study["accounting"]] == ["adamw", "muon"]


def test_the_limits_name_what_is_not_certified_and_what_was_not_seen(study: dict[str, Any]) -> None:
    said = "\n".join(study["not_supported"])
    assert "1 of 8 winners are not certified as local optima: beta1 at the edge of its grid in 1." in said
    assert "3 seeds tell two optimizers apart that differ by" in said
    assert "The search spaces were not equal: from 2 (adamw) to 3 (muon) one-step neighbours to try." in said
    bare = {key: value for key, value in study.items() if key != "certificates"}
    assert "What was tried around the winners is not told" in "\n".join(limits(bare))


def test_a_given_search_space_replaces_what_was_tried() -> None:
    spaced = document(study_runs(), muon={"lr": (*RATES, 0.04), "beta1": (0.8, 0.9, 0.95), "eps": (0, 1)})
    entry = next(e for e in spaced["certificates"] if (e["optimizer"], e["tokens"]) == ("muon", 1000))
    assert entry["text"] == "not certified: 2 of 5 neighbours not tried"
    assert not entry["inferred"]


def test_one_seed_and_an_irrelevant_hyperparameter_tell_what_one_seed_could_see() -> None:
    runs = [
        run(name, tokens, 3.0 - 0.01 * (name == "muon") + jump * 1e-3, 0, "", eps=eps)
        for name in ("adamw", "muon")
        for tokens in (1000, 2000)
        for jump, eps in ((0, 1e-20), (1, 1e-15), (-1, 1e-10))
    ]
    told = irrelevant(runs, "eps")
    sections = noise_section(runs, finals_of(runs), "adamw", irrelevant=[told], worth={})
    assert sections["noise"]["sd"] == pytest.approx(1e-3)
    assert (sections["power"]["seeds"], sections["power"]["curve"][0]["seeds"]) == (1, 1)
    assert sections["power"]["text"][0].startswith("one seed tells two optimizers apart")
    assert noise_section(runs, finals_of(runs), "adamw") == {}


def test_every_figure_draws_for_desktop_and_phone_with_its_numbers(study: dict[str, Any]) -> None:
    figures = [draw(study) for draw in drawn.DRAWN]
    assert [figure.key for figure in figures if figure] == ["certificates", "standings", "search-spent", "power"]
    for figure in figures:
        assert figure is not None
        assert figure.rows
        for board in (figure.wide, figure.narrow):
            assert "data-tip" in board.markup()
            assert "nan" not in board.markup()
        assert all(not isinstance(value, dict | list) for row in figure.rows for value in row.values())
    grid = figures[0]
    assert grid is not None
    assert "7 of 8 winners are certified" in grid.caption
    assert "not certified: beta1 at the high edge" in grid.wide.markup()


def test_without_data_no_figure_is_drawn(study: dict[str, Any]) -> None:
    sections = ("noise", "power", "certificates", "accounting")
    bare = checked({key: value for key, value in study.items() if key not in sections})
    assert [draw(bare) for draw in drawn.DRAWN] == [None] * len(drawn.DRAWN)


def test_the_verb_plans_from_a_study_and_draws(study: dict[str, Any], tmp_path: Any, capsys: Any) -> None:
    (tmp_path / "study.json").write_text(json.dumps(study))
    picture = tmp_path / "power.svg"
    assert main(["power", str(tmp_path), "--figure", str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["curve"] == study["power"]["curve"]
    assert "this study" in picture.read_text(encoding="utf-8")
    assert main(["power", "--sd", "0.01", "--figure", "power.png"]) == 2
