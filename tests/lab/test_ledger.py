"""Records become evidence: what cannot be believed is told and left out, the rest is there, as fast as it was."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steepest.cli import main
from steepest.core.errors import BadInput, CorruptFile
from steepest.lab import foreign, record
from steepest.lab.config import ModelChoice, OptimizerConfig, RunConfig, ScheduleConfig
from steepest.lab.corpus import Corpus
from steepest.lab.ledger import index, ledger, read_runs, runs_of

Change = Callable[[dict[str, Any], dict[str, Any]], None]


@pytest.fixture(scope="module")
def real(tiny_corpus: Corpus, tiny_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a run of Muon; its rows are 30 steps."""
    from steepest.lab.train import train

    config = replace(
        tiny_config,
        optimizer=OptimizerConfig("muon:momentum=0.9", 0.01),
        model=ModelChoice("20k", {"layers": 1, "qk_norm": True}),
        schedule=ScheduleConfig("wsd-sqrt", 0.1),
        seed=7,
    )
    return train(config, tmp_path_factory.mktemp("real"), corpus=tiny_corpus).folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An empty folder of runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def add(real: Path, runs: Path, change: Change | None = None, *, folder: str = "", **settings: Any) -> Path:
    """Another record like ``real``: ``settings`` go over what determines it, ``change`` over (header, result)."""
    header, result = (json.loads((real / name).read_text()) for name in (record.HEADER, record.RESULT))
    hyperparameters = header["determines"]["optimizer"]["hyperparameters"]
    for name, value in settings.items():
        (hyperparameters if name in hyperparameters else header["determines"])[name] = value
    return put(runs, header, result, (real / record.ROWS).read_bytes(), change, folder)


def put(
    runs: Path, header: dict[str, Any], result: dict[str, Any], rows: bytes, change: Change | None, folder: str
) -> Path:
    text = record.canonical(header["determines"])
    header["identity"] = result["identity"] = hashlib.sha256(text.encode()).hexdigest()
    if change is not None:
        change(header, result)
    path = runs / (folder or str(header["identity"])[:16])
    path.mkdir()
    (path / record.HEADER).write_text(json.dumps(header))
    if result:
        (path / record.RESULT).write_text(json.dumps(result))
    (path / record.ROWS).write_bytes(rows)
    return path


def unfinished(header: dict[str, Any], result: dict[str, Any]) -> None:
    result.clear()


def setting(part: int, name: str, value: Any) -> Change:
    """Puts a value into the header (0) or the result (1)."""

    def change(*files: dict[str, Any]) -> None:
        files[part][name] = value

    return change


# ---- what a run is


def test_a_record_is_a_run_with_all_that_may_be_varied_flat(real: Path, tiny_corpus: Corpus) -> None:
    (entry,) = read_runs(real.parent).entries
    run, result = entry.run, json.loads((real / record.RESULT).read_text())
    assert (run.run, run.optimizer, run.status, run.loss) == (real.name, "muon", "finished", result["val_loss"])
    assert (run.size, run.weights, run.variant) == ("20k:layers=1", 10_240, "qk-norm")
    assert (run.tokens, run.steps, run.seed, entry.step) == (30 * 64, 30, 7, 30)
    assert run.seconds == pytest.approx(result["seconds"] + result["evaluation_seconds"])
    expected = {
        "lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "ns_coefficients": "[3.4445,-4.775,2.0315]",
        "companion.beta1": 0.8, "companion.beta2": 0.98, "companion.lr_ratio": 0.3,
        "batch": 4, "seq": 16, "clip": 1.0, "schedule": "wsd-sqrt", "warmup": 0.1, "cooldown": 0.2,
    }  # fmt: skip
    assert expected.items() <= run.hyperparameters.items()
    assert not {"betas", "companion", "version", "accumulation", "precision"} & set(run.hyperparameters)
    assert entry.ground["corpus"] == tiny_corpus.manifest["identity"][:8]
    assert entry.created == pytest.approx(time.time(), abs=600)
    assert run.state_bytes is not None and 4 < run.state_bytes < 8  # one moment of the matrices, two of the rest
    assert run.curve == ()


def test_a_curve_is_read_when_it_is_asked_for(real: Path) -> None:
    (run,) = read_runs(real.parent, curves=True).runs
    rows = record.read_rows(real)
    assert run.curve == tuple((row["tokens"], row["val_loss"]) for row in rows if row["val_loss"] is not None)
    assert run.curve[-1] == (30 * 64, run.loss)


def test_unusual_settings_and_a_rules_own_clip_have_names_of_their_own(real: Path, runs: Path) -> None:
    header = json.loads((real / record.HEADER).read_text())
    hyperparameters = header["determines"]["optimizer"]["hyperparameters"] | {"clip": 0.5}
    add(
        real,
        runs,
        optimizer=header["determines"]["optimizer"] | {"hyperparameters": hyperparameters},
        precision="bf16",
        compass={"north": 1},
    )
    values = runs_of(runs)[0].hyperparameters
    assert (values["rule.clip"], values["clip"]) == (0.5, 1.0)
    assert (values["precision"], values["compass.north"]) == ("bf16", 1)


@pytest.mark.parametrize(
    ("optimizer", "spec", "name"),
    [
        ({"rule": "muon", "version": 2}, "muon:variant=kimi", "muon"),
        ({"class": "torch.optim.adamw.AdamW"}, "torch:AdamW:eps=1e-6", "torch:AdamW"),
        ({"rule": "mine", "version": 1, "text_sha256": "ab" * 32}, "./mine.py:Mine", "./mine.py:Mine"),
    ],
)
def test_options_in_a_name_are_hyperparameters(
    real: Path, runs: Path, optimizer: dict[str, Any], spec: str, name: str
) -> None:
    def change(header: dict[str, Any], result: dict[str, Any]) -> None:
        header["config"]["optimizer"]["spec"] = spec

    add(real, runs, change, optimizer=optimizer | {"hyperparameters": {"lr": 1.0}})
    assert runs_of(runs)[0].optimizer == name


def test_a_run_under_way_tells_its_last_whole_row(real: Path, runs: Path) -> None:
    path = add(real, runs, unfinished)
    rows = (path / record.ROWS).read_bytes().splitlines(keepends=True)
    (path / record.ROWS).write_bytes(b"".join(rows[:12]) + rows[12][:30])
    (entry,) = read_runs(runs).entries
    assert (entry.run.status, entry.run.loss, entry.step) == ("unfinished", None, 12)
    assert entry.run.reason == "12 of 30 steps"
    assert entry.updated == (path / record.ROWS).stat().st_mtime
    (path / record.ROWS).write_bytes(b"".join(rows[:13]))  # the header is as it was
    assert read_runs(runs).entries[0].step == 13


@pytest.mark.parametrize("rows", [None, b"", b'{"step": 1, "lo'])
def test_a_run_that_has_no_row_yet_is_at_step_0(real: Path, runs: Path, rows: bytes | None) -> None:
    path = add(real, runs, unfinished)
    (path / record.ROWS).unlink() if rows is None else (path / record.ROWS).write_bytes(rows)
    (entry,) = read_runs(runs).entries
    assert (entry.step, entry.run.status) == (0, "unfinished")


def test_a_diverged_run_has_no_loss_however_low_it_stood(real: Path, runs: Path) -> None:
    def change(header: dict[str, Any], result: dict[str, Any]) -> None:
        result |= {"status": "diverged", "reason": "loss is nan at step 9", "step": 9, "val_loss": 1.0}

    add(real, runs, change)
    (run,) = runs_of(runs)
    assert (run.status, run.loss, run.reason) == ("diverged", None, "loss is nan at step 9")


# ---- what cannot be believed


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: truncated(path / record.HEADER), "header.json is damaged"),
        (lambda path: truncated(path / record.RESULT), "result.json is damaged"),
        (lambda path: (path / record.HEADER).write_text(""), "header.json is damaged"),
        (lambda path: (path / record.RESULT).write_text("[" * 100_000), "result.json is damaged"),
        (lambda path: (path / record.HEADER).write_text('{"format": 2}'), "not of format 1"),
        (lambda path: (path / record.HEADER).write_text('{"format": 1}'), "lacks 'determines'"),
        (lambda path: (path / record.HEADER).unlink(), "holds no header.json"),
        (lambda path: [(path / record.HEADER).unlink(), (path / record.HEADER).mkdir()], "cannot be read: Is a"),
    ],
)
def test_a_damaged_record_is_named_and_the_good_ones_are_there(
    real: Path, runs: Path, spoil: Callable[[Path], Any], told: str
) -> None:
    bad, good = add(real, runs, lr=0.1), add(real, runs, lr=0.2)
    spoil(bad)
    for _ in range(2):  # without the index, and with it
        found = read_runs(runs)
        assert [run.run for run in found.runs] == [good.name]
        (problem,) = found.problems
        assert str(bad) in problem and told in problem and "\n" not in problem
    notices: list[str] = []
    assert [run.run for run in runs_of(runs, notice=notices.append)] == [good.name]
    assert notices == [f"left out: {problem}"]
    with pytest.raises(CorruptFile, match=told):
        runs_of(runs, [bad.name])


@pytest.mark.parametrize("loss", [None, "3.1", float("nan"), float("inf"), True, -1.0, [3.1]])
def test_a_final_loss_that_is_no_number_is_told(real: Path, runs: Path, loss: Any) -> None:
    bad = add(real, runs, setting(1, "val_loss", loss))
    found = read_runs(runs)
    assert not found.runs
    assert found.problems[0].startswith(f"{bad}/result.json has val_loss {loss!r}, which is no loss")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (setting(1, "status", "paused"), "has status 'paused', which this version does not know"),
        (setting(1, "step", 12), "says finished at step 12 of 30, its header 30 steps"),
        (setting(1, "steps", 40), "at step 30 of 40, its header 30 steps"),
        (setting(1, "identity", "0" * 64), "result.json is of another run, 0000000000000000"),
        (setting(0, "identity", "f" * 64), "header.json is not what its identity ffffffffffffffff says"),
        (setting(0, "tokens", "many"), "tokens is 'many'"),
        (lambda header, result: header.pop("sessions"), "lacks 'sessions'"),
        (lambda header, result: result.pop("seconds"), "lacks 'seconds'"),
        (setting(0, "config", 3), "cannot be read"),
    ],
)
def test_a_record_that_contradicts_itself_is_told(real: Path, runs: Path, change: Change, told: str) -> None:
    bad, good = add(real, runs, change, lr=0.1, folder="bad"), add(real, runs, lr=0.2)
    found = read_runs(runs)
    assert [run.run for run in found.runs] == [good.name]
    assert str(bad) in found.problems[0] and told in found.problems[0]


def test_rows_that_end_in_no_row_are_told(real: Path, runs: Path) -> None:
    path = add(real, runs, unfinished)
    (path / record.ROWS).write_bytes(b"no row\n" * 20)
    assert "rows.jsonl ends in no row" in read_runs(runs).problems[0]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_record_that_may_not_be_read_is_told(real: Path, runs: Path) -> None:
    bad, good = add(real, runs, lr=0.1), add(real, runs, lr=0.2)
    bad.chmod(0)
    try:
        found = read_runs(runs)
    finally:
        bad.chmod(0o700)
    assert [run.run for run in found.runs] == [good.name]
    assert found.problems == (f"{bad} cannot be read: Permission denied",)


def test_a_refusing_system_is_told_with_the_file(real: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = add(real, runs, lr=0.1), add(real, runs, lr=0.2)
    stamp = index.stamp

    def refused(folder: str) -> str | None:
        if folder == str(bad):
            raise PermissionError(13, "Permission denied", folder)
        return stamp(folder)

    monkeypatch.setattr(ledger, "stamp", refused)
    found = read_runs(runs)
    assert [run.run for run in found.runs] == [good.name]
    assert found.problems == (f"{bad} cannot be read: Permission denied",)


def test_two_records_of_one_run_that_disagree_are_both_named_and_neither_is_used(real: Path, runs: Path) -> None:
    one = add(real, runs, setting(1, "val_loss", 3.25))
    two = add(real, runs, setting(1, "val_loss", 3.5), folder="copy")
    good = add(real, runs, lr=0.2)
    found = read_runs(runs)
    assert [run.run for run in found.runs] == [good.name]
    (problem,) = found.problems
    assert all(word in problem for word in (f"{one} says loss 3.25", f"{two} says loss 3.5", "keep the right one"))


def test_copies_of_one_record_count_once_and_the_finished_one_counts(real: Path, runs: Path) -> None:
    add(real, runs, unfinished, folder="a younger copy")
    one = add(real, runs)
    add(real, runs, folder="copy")
    (run,) = runs_of(runs)
    assert (run.status, run.source) == ("finished", str(one))


def test_a_run_that_was_only_evaluated_elsewhere_is_no_second_run(real: Path, runs: Path) -> None:
    add(real, runs, evaluation={"tokens": 256, "steps": [1, 30]})
    add(real, runs, evaluation={"tokens": 256, "steps": [1, 15, 30]})
    add(real, runs, evaluation={"tokens": 512, "steps": [1, 30]})
    found = read_runs(runs)
    assert len(found.runs) == 2
    names = [path.name for path in runs.iterdir() if path.is_dir()]
    assert [run.run for run in runs_of(runs, names)] == names  # who asks for both gets both
    assert any("1 runs repeat another one" in warning for warning in found.warnings)


# ---- clocks


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (setting(1, "seconds", -3.0), "its seconds are no times"),
        (setting(1, "evaluation_seconds", "long"), "its seconds are no times"),
        (setting(1, "optimizer_seconds", 1e6), "its parts took longer than the whole"),
        (setting(0, "sessions", [{"time": "2999-01-01T00:00:00+0000"}]), "it began in the future"),
        (
            setting(0, "sessions", [{"time": "2026-01-02T00:00:00+0000"}, {"time": "2026-01-01T00:00:00+0000"}]),
            "a later session began before an earlier one",
        ),
        (setting(0, "sessions", [{"time": "yesterday"}]), "the times of its sessions cannot be read"),
        (setting(0, "sessions", []), "it tells no session"),
    ],
)
def test_a_clock_that_jumped_costs_the_times_and_not_the_loss(
    real: Path, runs: Path, change: Change, told: str
) -> None:
    path = add(real, runs, change)
    for _ in range(2):
        found = read_runs(runs)
        (entry,) = found.entries
        assert entry.run.loss is not None
        assert (entry.run.seconds, entry.created) == (None, None)
        assert found.warnings == (f"{path}: {told}: its times are not used",)


def test_seconds_that_go_backwards_in_the_rows_are_told_where_rows_are_read(real: Path, runs: Path) -> None:
    path = add(real, runs)
    lines = (path / record.ROWS).read_bytes().splitlines()
    last = json.loads(lines[-1]) | {"seconds": 0.0}
    (path / record.ROWS).write_bytes(b"\n".join([*lines[:-1], json.dumps(last).encode(), b""]))
    assert read_runs(runs).runs[0].seconds is not None
    found = read_runs(runs, curves=True)
    assert found.runs[0].seconds is None and found.runs[0].curve
    assert "the seconds of its rows go backwards" in found.warnings[0]


def test_damaged_rows_cost_the_curve_and_not_the_loss(real: Path, runs: Path) -> None:
    path = add(real, runs)
    lines = (path / record.ROWS).read_bytes().splitlines()
    (path / record.ROWS).write_bytes(b"\n".join([*lines[:5], b"{", *lines[6:], b""]))
    found = read_runs(runs, curves=True)
    assert found.runs[0].loss is not None and found.runs[0].curve == ()
    assert "rows.jsonl line 6 is damaged" in found.warnings[0]


# ---- a newer version


def test_unknown_keys_are_told_and_the_run_is_there(real: Path, runs: Path) -> None:
    add(real, runs, setting(0, "weather", "fair"), lr=0.1)
    add(real, runs, setting(0, "weather", "fair"), lr=0.2)
    add(real, runs, setting(1, "mood", 1), lr=0.3)
    found = read_runs(runs)
    assert len(found.runs) == 3 and not found.problems
    assert sorted(found.warnings) == [
        "1 records hold result.json: mood, which this version does not know: it is left out",
        "2 records hold header.json: weather, which this version does not know: it is left out",
    ]


def test_an_unknown_field_of_the_model_is_a_variant(real: Path, runs: Path) -> None:
    header = json.loads((real / record.HEADER).read_text())
    add(real, runs, model=header["determines"]["model"] | {"experts": 4})
    assert runs_of(runs)[0].variant == "qk-norm experts=4"


# ---- what cannot be compared


def test_runs_on_another_corpus_are_told_apart(real: Path, runs: Path) -> None:
    own = json.loads((real / record.HEADER).read_text())["determines"]["corpus"][:8]
    for lr in (0.1, 0.2):
        add(real, runs, lr=lr)
    other = add(real, runs, corpus="ab" * 32, seq=8)
    found = read_runs(runs)
    variants = {run.run: run.variant for run in found.runs}
    assert variants.pop(other.name) == "qk-norm corpus=abababab seq=8"
    assert set(variants.values()) == {"qk-norm"}
    assert any(f"2 on corpus={own}, 1 on corpus=abababab" in warning for warning in found.warnings)


def test_runs_of_an_older_rule_are_told_apart_and_the_newest_is_the_base(real: Path, runs: Path) -> None:
    optimizer = json.loads((real / record.HEADER).read_text())["determines"]["optimizer"]
    for lr in (0.1, 0.2):
        old = {"version": 9, "hyperparameters": optimizer["hyperparameters"] | {"lr": lr}}
        add(real, runs, optimizer=optimizer | old)
    new = add(real, runs, optimizer=optimizer | {"version": 10})
    other = add(real, runs, optimizer={"rule": "lion", "version": 1, "hyperparameters": {"lr": 1.0}})
    found = read_runs(runs)
    variants = {run.run: run.variant for run in found.runs}
    assert variants.pop(new.name) == variants.pop(other.name) == "qk-norm"
    assert set(variants.values()) == {"qk-norm rule-version=9.1"}
    assert found.warnings == ("runs of another rule-version of muon than 10.1 are told apart by their variant",)


# ---- some of them


def test_runs_come_in_the_order_of_their_identities(real: Path, runs: Path) -> None:
    one, two, _ = (add(real, runs, lr=lr) for lr in (0.1, 0.2, 0.3))
    identity = json.loads((two / record.HEADER).read_text())["identity"]
    assert [run.run for run in runs_of(runs, [identity, one.name])] == [two.name, one.name]
    with pytest.raises(CorruptFile, match=r"0{16} holds no header.json"):
        runs_of(runs, [one.name, "0" * 64])


def test_a_folder_without_runs_is_empty_and_a_missing_one_is_bad_input(runs: Path) -> None:
    (runs / "corpora").mkdir()
    (runs / "notes.txt").write_text("mine")
    assert read_runs(runs).entries == ()
    with pytest.raises(BadInput, match=r"no folder .*elsewhere"):
        read_runs(runs / "elsewhere")
    with pytest.raises(BadInput, match=r"notes.txt cannot be read: Not a directory"):
        read_runs(runs / "notes.txt")


def test_no_torch_is_needed() -> None:
    code = "import sys, steepest.lab.ledger, steepest.cli.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- the index


@pytest.fixture
def ten(real: Path, runs: Path) -> Path:
    """Ten runs, one of them under way, one diverged."""
    for place in range(8):
        add(real, runs, lr=0.1 + place)
    add(real, runs, unfinished, lr=10.0)
    add(real, runs, lambda h, r: r.update(status="diverged", step=4, reason="loss is nan"), lr=11.0)
    return runs


def read_by_reading(runs: Path) -> ledger.Ledger:
    (runs / index.NAME).unlink(missing_ok=True)
    found = read_runs(runs)
    (runs / index.NAME).unlink(missing_ok=True)
    return found


def test_what_was_read_once_is_not_read_again(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_runs(ten)

    def never(folder: str) -> None:
        raise AssertionError(f"{folder} is read again")

    monkeypatch.setattr(ledger, "read_entry", never)
    assert read_runs(ten) == first
    assert runs_of(ten, [first.runs[3].run]) == [first.runs[3]]


def test_a_record_that_changed_is_read_again(ten: Path) -> None:
    run = next(run for run in read_runs(ten).runs if run.loss is not None)
    path = Path(run.source, record.RESULT)
    result = json.loads(path.read_text()) | {"val_loss": 1.5}
    path.write_text(json.dumps(result))
    assert runs_of(ten, [run.run])[0].loss == 1.5
    path.unlink()
    assert runs_of(ten, [run.run])[0].status == "unfinished"


def test_a_record_that_is_gone_is_not_listed(ten: Path) -> None:
    run = read_runs(ten).runs[0]
    Path(run.source).rename(ten.parent / "away")
    assert run.run not in [run.run for run in read_runs(ten).runs]


def test_an_index_cut_anywhere_or_with_any_byte_changed_gives_the_same_runs(ten: Path) -> None:
    expected = read_by_reading(ten)
    assert read_runs(ten) == expected
    path = ten / index.NAME
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place])
        assert read_runs(ten) == expected
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert read_runs(ten) == expected
    path.write_bytes(os.urandom(1000))
    assert read_runs(ten) == expected
    assert read_runs(ten) == expected


def test_what_another_version_of_the_index_says_is_not_used(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_runs(ten)
    monkeypatch.setattr(index, "VERSION", b"0")
    monkeypatch.setattr(index, "_texts", lambda entry: [b"of", b"another"])
    os.remove(ten / index.NAME)
    read_runs(ten)
    monkeypatch.undo()
    assert read_runs(ten) == expected


def test_a_folder_where_no_index_can_be_written_is_listed(ten: Path) -> None:
    expected = read_by_reading(ten)
    (ten / index.NAME).mkdir()
    assert read_runs(ten) == expected


def test_an_index_of_lines_that_are_out_of_date_is_written_anew(
    ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "DEAD", 5)
    expected = read_runs(ten)
    path = ten / index.NAME
    for _ in range(4):
        path.write_bytes(path.read_bytes() + path.read_bytes())
        assert read_runs(ten) == expected
        assert path.read_bytes().count(b"\n") <= 2 * 10 + 5


def test_processes_that_list_at_once_and_are_killed_leave_an_index_that_is_right(ten: Path) -> None:
    expected = read_by_reading(ten)
    code = (
        "import sys; from pathlib import Path; from steepest.lab.ledger import index, read_runs\n"
        "path = Path(sys.argv[1])\n"
        "while True: (path / index.NAME).unlink(missing_ok=True); assert len(read_runs(path).runs) == 10"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(ten)]) for _ in range(3)]
    try:
        until = time.monotonic() + 60
        while not (ten / index.NAME).exists() and time.monotonic() < until:
            time.sleep(0.01)
        for _ in range(20):
            assert read_runs(ten) == expected
        assert [process.poll() for process in processes] == [None] * 3
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert read_runs(ten) == expected
    assert read_runs(ten) == expected


def test_the_order_of_keys_in_a_record_does_not_matter(real: Path, runs: Path) -> None:
    def shuffled(header: dict[str, Any], result: dict[str, Any]) -> None:
        header["determines"] = dict(reversed(copy.deepcopy(header["determines"]).items()))

    add(real, runs, shuffled)
    assert len(runs_of(runs)) == 1


# ---- the command


def runs_command(*words: object) -> int:
    return main(["runs", *map(str, words)])


def test_the_command_lists_what_can_be_compared_together_and_best_first(
    real: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lr, loss in ((0.1, 3.2), (0.2, 3.1), (0.3, 3.3)):
        add(real, runs, setting(1, "val_loss", loss), lr=lr)
    add(real, runs, lambda h, r: r.update(status="diverged", step=4), lr=9.0, momentum=0.5)
    path = add(real, runs, unfinished, lr=0.4)
    os.utime(path / record.ROWS, (time.time() - 7200,) * 2)
    assert runs_command(runs) == 0
    head, _, *rows, blank, totals = capsys.readouterr().out.splitlines()
    assert " ".join(head.split()) == "run optimizer size tokens variant lr seed loss time began status settings"
    assert [row.split()[7] for row in rows[:3]] == ["3.1000", "3.2000", "3.3000"]
    assert sum("diverged at 4 of 30" in row and "momentum=0.5" in row for row in rows) == 1
    assert sum("at 30 of 30, last row 2 h ago" in row for row in rows) == 1
    assert blank == ""
    assert totals.startswith("5 runs: 3 finished, 1 diverged, 1 unfinished; 7.94k tokens in ")


def test_the_command_shows_those_that_are_asked_for(
    real: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = [{"time": "2026-01-01T00:00:00+0000"}]
    ancient = add(real, runs, setting(0, "sessions", old), lr=0.1)
    lion = add(real, runs, optimizer={"rule": "lion", "version": 1, "hyperparameters": {"lr": 1.0}})
    young = add(real, runs, unfinished, lr=0.2)

    def shown(*words: str) -> set[str]:
        assert runs_command(runs, "--json", *words) == 0
        return {run["run"] for run in json.loads(capsys.readouterr().out)["runs"]}

    assert shown() == {ancient.name, lion.name, young.name}
    assert shown("--optimizer", "lion") == {lion.name}
    assert shown("--optimizer", "lion", "--optimizer", "muon") == shown("--size", "20k:layers=1") == shown()
    assert shown("--status", "unfinished") == {young.name}
    assert shown("--since", "1h") == shown("--since", "2026-01-02") == {lion.name, young.name}
    assert shown("--since", "2025-12-31") == shown("--sort", "began") == shown("--sort", "time") == shown()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--optimizer mun", "unknown optimizer of these runs 'mun': did you mean 'muon'?"),
        ("--size 20", "unknown size of these runs '20'"),
        ("--since yesterday", "--since 'yesterday': give a date such as 2026-01-31, or a span"),
        ("--csv .", "cannot write . (Is a directory)"),
        ("--status lost", "--help"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(
    real: Path, runs: Path, capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    add(real, runs)
    assert runs_command(runs, *words.split()) == 2
    found = capsys.readouterr()
    assert told in found.err and found.err.count("\n") == 1 and found.out == ""


def test_the_command_tells_at_the_end_what_it_left_out_and_exits_1(
    real: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(real, runs, setting(1, "seconds", -1.0))
    bad = [add(real, runs, setting(1, "val_loss", None), lr=0.1 + place) for place in range(12)]
    assert runs_command(runs) == 1
    found = capsys.readouterr()
    assert "1 runs: 1 finished" in found.out and "12 records left out" in found.out
    lines = found.err.splitlines()
    assert lines[0].startswith("left out: ") and any(path.name in lines[0] for path in bad)
    assert lines[10] == "left out: 2 more"
    assert lines[11].endswith("its seconds are no times: its times are not used")
    assert runs_command(runs, "--json") == 1
    whole = json.loads(capsys.readouterr().out)
    assert (len(whole["problems"]), len(whole["warnings"]), whole["of"]) == (12, 1, 1)


def test_the_command_writes_every_hyperparameter_in_a_column(
    real: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(real, runs, size=7)
    file = runs.parent / "runs.csv"
    assert runs_command(runs, "--csv", file) == 0
    assert capsys.readouterr().out.endswith(f"{file}: 1 runs in columns\n")
    with open(file, newline="") as text:
        (row,) = csv.DictReader(text)
    (run,) = runs_of(runs)
    assert (row["optimizer"], row["size"], row["hp.size"], row["reason"]) == ("muon", "20k:layers=1", "7", "")
    (again,) = foreign.read(file).runs
    assert again.cell == run.cell
    assert (again.loss, again.seed, again.seconds) == (run.loss, run.seed, run.seconds)
    assert again.hyperparameters == run.hyperparameters


def test_an_empty_folder_has_no_runs_and_a_missing_one_is_bad_input(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs_command(runs) == 0
    assert capsys.readouterr().out == f"no runs in {runs}\n"
    assert runs_command(runs / "elsewhere") == 2
    assert "no folder" in capsys.readouterr().err


def test_thousands_of_records_are_read_by_several_processes(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_by_reading(ten)
    monkeypatch.setattr(ledger, "MANY", 5)
    monkeypatch.setattr(ledger, "PART", 3)
    read: list[int] = []
    assert read_runs(ten, workers=2, progress=read.append) == expected
    assert max(read) == 10
    truncated(ten / expected.runs[0].run / record.HEADER)
    (ten / index.NAME).unlink()
    assert len(read_runs(ten, workers=2).problems) == 1
