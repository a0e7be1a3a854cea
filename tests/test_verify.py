"""The conformance kit finds what it must find: a changed number, a changed option, a missing one, damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steepest.cli import main

ORACLES = Path(__file__).parent / "oracles"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Trajectories of AdamW and Muon alone."""
    shutil.copyfile(ORACLES / "inputs.npz", tmp_path / "inputs.npz")
    for path in ("adamw/adamw", "muon/keller-f64"):
        (tmp_path / path).parent.mkdir()
        for ending in (".json", ".npz"):
            shutil.copyfile(ORACLES / f"{path}{ending}", tmp_path / f"{path}{ending}")
    return tmp_path


def verdicts(folder: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    status = main(["verify", str(folder), "--json", str(folder / "out.json"), *words])
    return status, json.loads((folder / "out.json").read_text())


def change(path: Path, how: Callable[[dict[str, Any]], None]) -> None:
    told = json.loads(path.read_text())
    how(told)
    path.write_text(json.dumps(told))


def change_array(path: Path, key: str, how: Callable[[np.ndarray], None]) -> None:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    how(arrays.setdefault(key, np.full(12, 0.02)))
    np.savez(path, **arrays)


def test_an_untouched_folder_passes_with_status_0(folder: Path) -> None:
    status, found = verdicts(folder)
    assert status == 0
    assert [(v["optimizer"], v["variant"], v["engine"], v["status"]) for v in found] == [
        ("adamw", "adamw", "loop", "pass"),
        ("muon", "keller-f64", "loop", "pass"),
    ]
    assert all(v["error"] < 1e-12 and v["tolerance"] == 1e-9 and v["reason"] == "" for v in found)


def test_one_recorded_number_changed_in_the_eighth_digit_fails_and_says_where(folder: Path) -> None:
    def nudge(weights: np.ndarray) -> None:
        weights[3, 2] += 1e-8

    change_array(folder / "adamw/adamw.npz", "param/005/tall", nudge)
    status, found = verdicts(folder)
    assert status == 1
    assert (found[0]["status"], found[1]["status"]) == ("fail", "pass")
    assert "step 5, tall" in found[0]["reason"]


@pytest.mark.parametrize(("name", "value"), [("beta2", 0.99899), ("weight_decay", 0.11), ("eps", 1e-7)])
def test_one_hyperparameter_changed_fails(folder: Path, name: str, value: float) -> None:
    change(folder / "adamw/adamw.json", lambda told: told["hyperparameters"].update({name: value}))
    status, found = verdicts(folder, "--only", "adamw")
    assert (status, found[0]["status"]) == (1, "fail")


def test_the_recorded_learning_rate_of_each_step_is_followed(folder: Path) -> None:
    path = folder / "muon/keller-f64.npz"
    change_array(path, "extra/lr", lambda rates: None)
    assert verdicts(folder, "--only", "muon")[1][0]["status"] == "pass"

    def halve(rates: np.ndarray) -> None:
        rates[4:] /= 2

    change_array(path, "extra/lr", halve)
    status, found = verdicts(folder, "--only", "muon/keller-f64")
    assert (status, len(found), found[0]["status"]) == (1, 1, "fail")


def test_not_a_number_in_a_trajectory_fails(folder: Path) -> None:
    def spoil(weights: np.ndarray) -> None:
        weights[0] = np.nan

    change_array(folder / "adamw/adamw.npz", "param/011/bias", spoil)
    status, found = verdicts(folder)
    assert (status, found[0]["status"], found[0]["error"]) == (1, "fail", None)


def test_a_tensor_that_must_not_move_and_moves_fails(folder: Path) -> None:
    change(folder / "adamw/adamw.json", lambda told: told["total_move"].update(norm=0))
    status, found = verdicts(folder, "--only", "adamw")
    assert status == 1 and "norm" in found[0]["reason"]


def test_options_are_read_from_the_file_and_not_from_its_name(folder: Path) -> None:
    for ending in (".json", ".npz"):
        (folder / f"muon/keller-f64{ending}").rename(folder / f"muon/anything{ending}")
    status, found = verdicts(folder, "--only", "muon")
    assert (status, found[0]["variant"], found[0]["status"]) == (0, "anything", "pass")


def test_an_optimizer_without_a_rule_is_not_implemented_and_fails_only_when_strict(folder: Path) -> None:
    (folder / "adamw").rename(folder / "unheard")
    change(folder / "unheard/adamw.json", lambda told: told.update(optimizer="unheard"))
    status, found = verdicts(folder)
    assert status == 0
    assert found[1]["status"] == "not implemented" and "unheard" in found[1]["reason"]
    assert verdicts(folder, "--strict")[0] == 1


def test_an_option_that_the_rule_does_not_have_is_not_implemented_and_named(folder: Path) -> None:
    change(folder / "adamw/adamw.json", lambda told: told["hyperparameters"].update(foresight=2))
    found = verdicts(folder, "--only", "adamw")[1]
    assert found[0]["status"] == "not implemented" and "foresight" in found[0]["reason"]


def test_a_truncated_trajectory_fails_by_name_and_the_others_go_on(folder: Path) -> None:
    path = folder / "adamw/adamw.npz"
    path.write_bytes(path.read_bytes()[:5000])
    status, found = verdicts(folder)
    assert status == 1
    assert found[0]["status"] == "fail" and "damaged" in found[0]["reason"]
    assert found[1]["status"] == "pass"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing"], "no folder"),
        (["empty"], "holds no trajectory"),
        ([".", "--only", "adam"], "unknown trajectory 'adam': did you mean 'adamw'"),
        ([".", "--engine", "lop"], "unknown engine 'lop': did you mean 'loop'"),
    ],
)
def test_nothing_to_replay_is_status_2_and_one_line(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    assert main(["verify", str(folder / words[0]), *words[1:]]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_the_table_counts_and_lists_each_engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "--only", "adamw", "--engine", "batched"]) == 0
    told = capsys.readouterr().out
    assert "batched" in told and "1 pass, 0 fail, 0 not implemented" in told


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A trajectory whose gradients and estimates come from its loss."""
    shutil.copyfile(ORACLES / "inputs.npz", tmp_path / "inputs.npz")
    (tmp_path / "adahessian").mkdir()
    for ending in (".json", ".npz"):
        shutil.copyfile(ORACLES / f"adahessian/e2e_rowavg{ending}", tmp_path / f"adahessian/e2e_rowavg{ending}")
    return tmp_path


def test_gradients_and_estimates_come_from_the_loss_that_a_trajectory_tells(measured: Path) -> None:
    path = measured / "adahessian/e2e_rowavg.npz"
    assert verdicts(measured)[1][0]["error"] < 1e-12

    def turn(z: np.ndarray) -> None:
        z[0, 0] = -z[0, 0]

    change_array(path, "extra/z/002/square", turn)
    status, found = verdicts(measured)
    assert (status, found[0]["status"]) == (1, "fail") and "square" in found[0]["reason"]


def test_a_recorded_loss_that_is_another_fails(measured: Path) -> None:
    def raise_third(losses: np.ndarray) -> None:
        losses[2] *= 1 + 1e-6

    change_array(measured / "adahessian/e2e_rowavg.npz", "extra/loss", raise_third)
    status, found = verdicts(measured)
    assert (status, found[0]["reason"].split(" at ")[1]) == (1, "the loss before step 2")


def test_a_loss_of_an_unknown_form_is_not_implemented_and_told(measured: Path) -> None:
    path = measured / "adahessian/e2e_rowavg.json"
    change(path, lambda told: told["extra"].update(loss=told["extra"]["loss"].replace("cosh", "sinh")))
    (found,) = verdicts(measured)[1]
    assert found["status"] == "not implemented" and "log sinh" in found["reason"]
