"""From runs to the document of a study: which losses count, what is said of them, what is not supported."""

import json
import math
from dataclasses import replace

import pytest

from steepest.core.errors import UnknownName
from steepest.lab.analysis import evidence as evidence_module
from steepest.lab.analysis.evidence import evidence, told
from steepest.lab.analysis.finals import behind, finals_of, lost
from steepest.lab.analysis.runs import DIVERGED, FINISHED, UNFINISHED, Cell, Run

GIVEN = {"baseline": "adamw", "title": "a study", "command": "steepest study run a.toml", "source": "made"}


def one(loss, *, name="adamw", lr=0.01, seed=0, purpose="tune", status=FINISHED, tokens=400_000, **more):
    return Run(
        run=f"{name}-{lr}-{seed}-{purpose}-{tokens}-{len(more)}",
        optimizer=name,
        size="20k",
        weights=20_000,
        tokens=tokens,
        hyperparameters={"lr": lr},
        status=status,
        loss=loss,
        seed=seed,
        purpose=purpose,
        **more,
    )


def failed(status=DIVERGED, **given):
    return one(None, status=status, **given)


# ---- which losses count


def test_fresh_seeds_are_averaged_and_the_runs_that_chose_the_setting_are_not_among_them():
    tuned = [one(3.0, lr=0.01), one(2.9, lr=0.02), one(3.1, lr=0.04)]
    fresh = [one(2.95 + 0.01 * seed, lr=0.02, seed=seed, purpose="final") for seed in (1, 2, 3)]
    (final,) = finals_of(tuned + fresh[::-1])
    assert final.losses == (2.96, 2.97, 2.98) and final.seeds == (1, 2, 3)
    assert final.values == {"lr": 0.02} and final.how == "mean of 3 fresh seeds"
    assert behind(tuned + fresh, [final]) == fresh


def test_further_budgets_of_the_baseline_count_as_fresh():
    (final,) = finals_of([one(3.0), one(3.1, seed=1, purpose="law"), one(3.3, seed=2, purpose="law")])
    assert final.loss == pytest.approx(3.2)


def test_without_fresh_seeds_the_minimum_counts_and_says_of_how_many():
    runs = [one(3.0), one(2.9, lr=0.02), failed(lr=0.08)]
    (final,) = finals_of(runs)
    assert (final.losses, final.how) == ((2.9,), "minimum of 2 runs of one seed")
    several = finals_of([replace(run, seed=n) for n, run in enumerate(runs)])[0]
    assert several.how == "minimum of 2 runs"


def test_a_cell_whose_final_seed_diverged_has_no_final_loss_and_the_reason_is_told():
    runs = [one(3.0), one(3.0, seed=1, purpose="final"), failed(seed=2, purpose="final")]
    assert finals_of(runs) == []
    assert lost(runs) == {runs[0].cell: "1 of its 2 final runs diverged"}


def test_final_runs_that_are_still_to_come_are_said():
    runs = [one(3.0, seed=1, purpose="final"), failed(UNFINISHED, seed=2, purpose="final")]
    assert finals_of(runs)[0].how == "mean of 1 fresh seed, 1 not finished"
    assert lost([failed(UNFINISHED)]) == {runs[0].cell: "no run of it is finished"}
    assert lost([failed(), failed(UNFINISHED, lr=0.1)]) == {runs[0].cell: "no run of it is finished, 1 diverged"}


def test_of_two_settings_that_were_measured_the_one_with_more_seeds_counts_then_the_lower():
    def fresh(lr, *losses):
        return [one(loss, lr=lr, seed=seed, purpose="final") for seed, loss in enumerate(losses, 1)]

    assert finals_of(fresh(0.01, 2.0) + fresh(0.02, 3.0, 3.0))[0].values == {"lr": 0.02}
    assert finals_of(fresh(0.01, 3.1, 3.1) + fresh(0.02, 3.0, 3.0))[0].values == {"lr": 0.02}


# ---- the document


@pytest.fixture(scope="module")
def study(made):
    runs = made.made()
    return runs, evidence(runs, finals_of(runs), **GIVEN)


def test_the_document_is_json_and_holds_every_cell_once(study):
    runs, document = study
    text = json.dumps(document, allow_nan=False)
    assert json.dumps(json.loads(text)) == text
    assert (document["format"], document["kind"], document["runs_count"]) == (1, "study", len(runs))
    cells = {(cell["optimizer"], cell["size"], cell["tokens"]) for cell in document["cells"]}
    assert len(cells) == len(document["cells"]) == 6 * 3 * 4
    assert sum(cell["runs"] for cell in document["cells"]) == len(runs)
    assert sum(cell["spent_tokens"] for cell in document["cells"]) == sum(run.tokens for run in runs)


def test_speedups_of_made_runs_are_found_where_the_law_was_fitted(study, made):
    _, document = study
    found = {(e["optimizer"], e["size"], e["ratio"]): e for e in document["speedups"]}
    for size, weights in made.SIZES.items():
        doublings = math.log2(weights / 20_000)
        for name in ("muon", "soap", "kron", "nadamw"):
            true = 1 + (made.SPEEDUPS[name] - 1) * 0.9**doublings
            assert found[name, size, 2.0]["speedup"] == pytest.approx(true, rel=0.06)
    assert found["muon", "20k", 1.0]["word"] == "faster" and found["lion", "20k", 2.0]["word"] == "slower"


def test_intervals_of_final_losses_hold_their_means_and_widen_with_the_level(made):
    runs = made.made(sizes={"20k": 20_000})
    narrow, wide = (evidence(runs, finals_of(runs), **GIVEN, level=level) for level in (0.5, 0.95))
    for a, b in zip(narrow["cells"], wide["cells"], strict=True):
        assert b["low"] < a["low"] < a["loss"] < a["high"] < b["high"]


def test_one_seed_has_no_interval_and_no_verdict(made):
    runs = [replace(run, purpose="", seed=0) for run in made.made(sizes={"20k": 20_000}) if run.purpose == "tune"]
    document = evidence(runs, finals_of(runs), **GIVEN)
    assert {cell["low"] for cell in document["cells"]} == {None}
    assert {entry["low"] for entry in document["speedups"]} == {None}
    said = " ".join(document["not_supported"])
    assert "Every loss is that of one seed" in said
    assert "24 of 24 final losses are the minimum over the" in said and "biased low" in said


def test_only_the_lowest_runs_of_a_cell_are_in_the_document(study, monkeypatch):
    runs, _ = study
    monkeypatch.setattr(evidence_module, "SHOWN_RUNS", 2 * 72)
    shown = evidence(runs, finals_of(runs), **GIVEN)["runs"]
    assert len(shown) == 2 * 72
    mine = [run for run in runs if run.cell == Cell("muon", "20k", 400_000)]
    lowest = sorted(run.ranked for run in mine)[:2]
    assert [
        r["loss"] for r in shown if (r["optimizer"], r["tokens"], r["size"]) == ("muon", 400_000, "20k")
    ] == lowest


def test_curves_are_those_of_the_final_runs_at_the_longest_schedule_with_their_end(study):
    runs, document = study
    assert {(c["size"], c["tokens"]) for c in document["curves"]} == {
        ("20k", 3_200_000), ("50k", 8_000_000), ("110k", 17_600_000)
    }  # fmt: skip
    ends = {run.curve[-1][1] for run in runs if run.purpose == "final"}
    assert len(document["curves"]) == 3 * 6 * 3 and all(c["points"][-1][1] in ends for c in document["curves"])


def test_a_run_as_a_row_has_its_hyperparameters_as_columns():
    row = told(one(3.0, reason="as made"))
    assert (row["hp.lr"], row["ratio"], row["loss"], row["reason"]) == (0.01, 1.0, 3.0, "as made")


def test_a_baseline_without_runs_is_named():
    with pytest.raises(UnknownName, match=r"adam.*adamw"):
        evidence([one(3.0)], finals_of([one(3.0)]), **GIVEN | {"baseline": "adam"})


def test_a_baseline_whose_every_run_diverged_leaves_cells_and_no_law():
    runs = [failed(), one(3.0, name="muon")]
    document = evidence(runs, finals_of(runs), **GIVEN)
    assert "laws" not in document and [cell["loss"] for cell in document["cells"]] == [None, 3.0]
    assert "No final loss of adamw at 20k 1×: no run of it is finished, 1 diverged" in " ".join(
        document["not_supported"]
    )


# ---- what the evidence does not support


def said_of(runs, **given):
    return " ".join(evidence(runs, finals_of(runs), **GIVEN, **given)["not_supported"])


def test_what_was_not_run_is_said_but_not_of_further_budgets_of_the_baseline():
    runs = [one(3.0), one(2.9, tokens=800_000), one(2.7, tokens=1_600_000), one(2.9, name="muon")]
    assert "Not run" not in said_of(runs)
    runs.append(one(2.8, name="lion", tokens=800_000))
    assert "Not run: lion at 20k 1×." in said_of(runs) and "Not run: muon at 20k 2×." in said_of(runs)


def test_unequal_tuning_is_said_with_both_ends():
    runs = [one(3.0), *(one(3.0 + n, name="muon", lr=n) for n in range(4))]
    assert "Tuning was not equal: from 1 runs a cell (adamw) to 4 (Muon)" in said_of(runs, labels={"muon": "Muon"})


def test_reach_and_clock_are_said():
    said = said_of([one(3.0), one(2.9, name="muon")])
    assert "One size, 20k, data-to-model ratios 1×" in said and "No run records its time" in said
    said = said_of([one(3.0, seconds=1.0), one(2.9, name="muon")])
    assert "1 of 2 cells record no time" in said
