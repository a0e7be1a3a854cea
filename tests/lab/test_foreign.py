"""Records of others: what is read as what, and that nothing wrong with them is silent or takes the rest along."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest import cli
from steepest.core.errors import BadInput, CorruptFile
from steepest.lab.analysis.runs import DIVERGED, FINISHED, UNFINISHED, Run
from steepest.lab.foreign import read, write
from steepest.lab.foreign.columns import FIELDS, RENAMED

ROW = {"optimizer": "muon", "size": "130m", "weights": "1000", "tokens": "20000", "loss": "3.25", "hp.lr": "0.016"}


def table(path: Path, *rows: dict[str, object]) -> Path:
    """A CSV of ROW with each row's own entries over it."""
    whole = [ROW | row for row in rows]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in whole for key in row)))
        writer.writeheader()
        writer.writerows(whole)
    return path


def test_a_plain_table_is_read(tmp_path: Path) -> None:
    found = read(
        table(tmp_path / "a.csv", {"seed": 1, "steps": 10, "seconds": "2.5", "flops": "1e15", "phase": "I"})
    )
    assert found.runs == [
        Run("", "muon", "130m", 1000, 20000, {"lr": 0.016}, FINISHED, 3.25, 1, "", 10, 1e15, 2.5, None, "I",
            source="a.csv row 2")
    ]  # fmt: skip
    assert (found.rows, found.left_out, found.repeated, found.complaints, found.unread) == (1, 0, 0, [], {})


@pytest.mark.parametrize(
    ("own", "weights", "tokens"),
    [
        ({"tokens": "", "ratio": "2"}, 1000, 40000),
        ({"weights": "", "ratio": "2"}, 500, 20000),
        ({"weights": "1e3", "tokens": "2e4"}, 1000, 20000),
    ],
)
def test_of_weights_tokens_and_ratio_two_suffice(
    tmp_path: Path, own: dict[str, object], weights: int, tokens: int
) -> None:
    run = read(table(tmp_path / "a.csv", own)).runs[0]
    assert (run.weights, run.tokens) == (weights, tokens)


def test_a_ratio_that_contradicts_the_tokens_is_told_and_tokens_count(tmp_path: Path) -> None:
    found = read(table(tmp_path / "a.csv", {"ratio": "4"}))
    assert found.runs[0].ratio == 1
    assert "4, but tokens over 20 weights are 1" in str(found.complaints[0])


def test_hyperparameters_come_from_json_and_from_columns_under_one_set_of_names(tmp_path: Path) -> None:
    settings_ = json.dumps({"learning_rate": 0.008, "train_batch_size": 128, "max_grad_norm": None, "odd": [1, 2]})
    own = {
        "hp.lr": "",
        "hyperparameters": settings_,
        "epsilon": "1e-20",
        "betas": "(0.9, 0.98)",
        "hp.kind": "true",
    }
    run = read(table(tmp_path / "a.csv", own)).runs[0]
    of_json = {"lr": 0.008, "batch": 128, "clip": None, "odd": "[1, 2]"}
    assert run.hyperparameters == of_json | {"eps": 1e-20, "beta1": 0.9, "beta2": 0.98, "kind": True}


def test_the_callers_map_goes_first_and_may_name_a_constant(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", {"eval/loss": "3.5", "peak": "0.5", "loss": "9", "size": "", "hp.decay": "0.8"}
    )
    wanted = {"loss": "eval/loss", "hp.lr": "peak", "size": "=tiny", "hp.cooldown": "hp.decay"}
    found = read(path, wanted)
    assert (found.runs[0].loss, found.runs[0].size) == (3.5, "tiny")
    assert found.runs[0].hyperparameters == {"lr": 0.5, "cooldown": 0.8}
    assert found.unread["loss"] == "loss is 'eval/loss'"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"los": "x"}, "unknown column 'los' before '=': did you mean 'loss'?"),
        ({"loss": "lossy"}, "no column 'lossy' for loss: did you mean 'loss'?"),
        ({"loss": "q"}, "no column 'q' for loss: there are optimizer, size"),
    ],
)
def test_a_wrong_map_is_one_line(tmp_path: Path, wanted: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput) as error:
        read(table(tmp_path / "a.csv", {}), wanted)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_columns_are_named_with_the_nearest_known(tmp_path: Path) -> None:
    found = read(table(tmp_path / "a.csv", {"weight_deca": "0.1", "colour": "red"}))
    assert found.unread == {"weight_deca": "did you mean 'hp.weight_decay'?", "colour": ""}


@pytest.mark.parametrize(
    ("own", "status", "loss", "told"),
    [
        ({"loss": "nan"}, DIVERGED, None, "loss: the loss is nan: taken as diverged"),
        ({"loss": "inf", "diverged": "1"}, DIVERGED, None, ""),
        ({"loss": "7.5", "diverged": "True"}, DIVERGED, None, ""),
        ({"loss": "", "status": "diverged"}, DIVERGED, None, ""),
        ({"loss": "7.5"}, DIVERGED, None, ""),
        ({"loss": "4.5", "state": "crashed"}, UNFINISHED, None, ""),
        ({"loss": ""}, UNFINISHED, None, "loss: none is given: taken as unfinished"),
        ({"loss": "", "status": "finished"}, UNFINISHED, None, "none is given though it is finished"),
        ({"status": "exploded"}, UNFINISHED, None, "column status: 'exploded' is no status"),
        ({"diverged": "0"}, FINISHED, 3.25, ""),
    ],
)
def test_how_a_run_ended(
    tmp_path: Path, own: dict[str, object], status: str, loss: float | None, told: str
) -> None:
    found = read(table(tmp_path / "a.csv", own), diverged_above=6)
    assert (found.runs[0].status, found.runs[0].loss) == (status, loss)
    assert told in " ".join(map(str, found.complaints)) and bool(told) == bool(found.complaints)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"loss": "abc"}, "a.csv row 3, column loss: 'abc' is no number: the row is left out"),
        ({"loss": "-1"}, "column loss: -1 is no cross-entropy"),
        ({"tokens": "0"}, "column tokens: '0' is not above 0"),
        ({"weights": "1,000"}, "column weights: '1,000' is no number"),
        ({"tokens": ""}, "two of weights (without embeddings), tokens and ratio are needed"),
        ({"optimizer": ""}, "no optimizer"),
        ({"seed": "1.5"}, "column seed: '1.5' is no whole number"),
        ({"diverged": "perhaps"}, "column diverged: 'perhaps' is neither true nor false"),
        ({"val_loss": "3.3"}, "3.25', and column 'val_loss' says '3.3'; both mean loss: choose with --columns"),
        ({"hyperparameters": "{oops"}, "column hyperparameters: '{oops' is no JSON object"),
    ],
)
def test_a_row_that_cannot_be_read_is_told_and_the_rest_is_read(
    tmp_path: Path, own: dict[str, object], message: str
) -> None:
    found = read(table(tmp_path / "a.csv", {}, own, {"seed": 7}))
    assert [run.seed for run in found.runs] == [None, 7]
    assert (found.rows, found.left_out) == (3, 1)
    assert message in str(found.complaints[0])


@pytest.mark.parametrize(
    "own",
    [
        {"seconds": "-3"},
        {"seconds": "soon"},
        {"flops": "inf"},
        {"steps": "many"},
        {"curve": "[[1]]"},
        {"hp.x": "nan"},
    ],
)
def test_a_bad_value_that_no_verdict_needs_is_dropped_and_its_run_kept(
    tmp_path: Path, own: dict[str, object]
) -> None:
    found = read(table(tmp_path / "a.csv", own))
    run = found.runs[0]
    assert (run.seconds, run.flops, run.steps, run.curve) == (None, None, None, ())
    assert run.hyperparameters == {"lr": 0.016}
    assert "it is dropped" in str(found.complaints[0])


def test_a_run_told_twice_counts_once_and_runs_that_disagree_are_both_kept_and_told(tmp_path: Path) -> None:
    found = read(table(tmp_path / "a.csv", {}, {}, {"loss": "3.5"}, {"seed": "1", "loss": "3.5"}))
    assert [(run.seed, run.loss) for run in found.runs] == [(None, 3.25), (None, 3.5), (1, 3.5)]
    assert found.repeated == 1
    (complaint,) = found.complaints
    assert "one identity with row 2 (no seed given)" in str(complaint) and "both are kept" in str(complaint)


def test_a_stray_quotation_mark_costs_its_own_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = ["optimizer,weights,tokens,loss,seed", *(f"adamw,1000,20000,3.{seed},{seed}" for seed in range(6))]
    lines[3] = 'adamw,"1000,20000,3.2,2'
    path.write_text("\n".join(lines))
    found = read(path)
    assert [run.seed for run in found.runs] == [0, 1, 3, 4, 5]
    assert (found.rows, found.left_out, found.complaints[0].row) == (6, 1, 4)


def test_a_truncated_file_loses_its_last_row_alone(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", *({"seed": str(seed)} for seed in range(20)))
    path.write_bytes(path.read_bytes()[:-8])
    found = read(path)
    assert len(found.runs) == 19 and "values for 7 columns" in str(found.complaints[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "cannot read"),
        ("a.xlsx", b"", "a file of records ends in .csv"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"optimizer,loss\n", "holds no rows"),
        ("a.csv", b"\x7fELF\x80\xff", "is not UTF-8 text"),
        ("a.csv", b"a,a\n1,2\n", "has the column 'a' more than once"),
        ("a.csv", b"red,blue\n1,2\n", "no run in"),
        ("a.json", b"{", "is no JSON"),
        ("a.json", b"3", "holds no list of runs"),
        ("a.parquet", b"PAR1", "is no whole Parquet file"),
    ],
)
def test_a_file_without_runs_is_one_line_with_its_name(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises((BadInput, CorruptFile)) as error:
        read(tmp_path / name)
    assert message in str(error.value) and name in str(error.value) and "\n" not in str(error.value)


WANDB = [
    {
        "name": "fair-sea-1",
        "state": "finished",
        "config": {"optimizer": {"spec": "muon", "lr": 0.02}, "weights": 1000, "seed": {"value": 3, "desc": None}},
        "summary": {"eval/loss": 3.1, "loss": 2.9, "_runtime": 61.5, "tokens": 20000},
    },
    {
        "name": "dark-wood-2",
        "state": "crashed",
        "config": {"optimizer": {"spec": "muon", "lr": 0.5}, "weights": 1000, "seed": 3},
        "summary": {"eval/loss": "NaN", "loss": math.nan, "_runtime": 5, "tokens": 20000},
    },
]


@pytest.mark.parametrize("form", ["json", "jsonl", "columns", "printed"])
def test_exports_of_wandb_are_read_as_its_api_gives_them(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"export.{'csv' if form == 'printed' else 'jsonl' if form == 'jsonl' else 'json'}"
    if form == "printed":  # pandas' to_csv of the data frame in W&B's own example prints the dicts
        with open(path, "w", newline="", encoding="utf-8") as file:
            rows = [{"": place, **run} for place, run in enumerate(WANDB)]
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps(run) for run in WANDB))
    else:
        by_column = {key: {str(place): run[key] for place, run in enumerate(WANDB)} for key in WANDB[0]}
        path.write_text(json.dumps(by_column if form == "columns" else WANDB))
    found = read(path)
    first, second = found.runs
    assert (first.run, first.optimizer, first.seed, first.loss, first.seconds) == (
        "fair-sea-1",
        "muon",
        3,
        3.1,
        61.5,
    )
    assert first.hyperparameters == {"lr": 0.02} and first.weights == 1000 and first.status == FINISHED
    assert (second.status, second.loss, second.hyperparameters) == (DIVERGED, None, {"lr": 0.5})
    assert found.unread == {"summary.loss": ""}  # the training loss


def test_the_table_that_wandbs_page_exports_is_read(tmp_path: Path) -> None:
    path = tmp_path / "wandb_export.csv"
    path.write_text(
        '"Name","ID","State","Runtime","optimizer","model.preset","weights","tokens","optimizer.lr","val_loss","Tags"\n'
        '"fair-sea-1","1jx","finished","61","adamw","20k","1000","20000","0.003","3.1",""\n'
    )
    run = read(path).runs[0]
    assert (run.run, run.size, run.seconds, run.loss, run.hyperparameters) == (
        "1jx",
        "20k",
        61.0,
        3.1,
        {"lr": 0.003},
    )


def test_parquet_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"optimizer": ["adamw", "muon"], "weights": [1000] * 2, "tokens": [20000] * 2, "loss": [3.1, None]}
    columns |= {"hp.lr": [0.1, None], "hyperparameters": ['{"beta1": 0.9}'] * 2}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert [run.status for run in found.runs] == [FINISHED, UNFINISHED]
    assert [run.hyperparameters for run in found.runs] == [{"lr": 0.1, "beta1": 0.9}, {"beta1": 0.9}]


words = (
    st.text("abcxyz -_é,\"'\n", min_size=1, max_size=6)
    .map(str.strip)
    .filter(lambda word: word and not word.replace("_", "").isdigit())
)
positive = st.floats(1e-6, 1e18)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), words
)


@st.composite
def any_run(draw: st.DrawFn, place: int) -> Run:
    status = draw(st.sampled_from([FINISHED, DIVERGED, UNFINISHED]))
    return Run(
        run=f"run {place}", optimizer=draw(words), size=draw(words), weights=draw(st.integers(1, 10**12)),
        tokens=draw(st.integers(1, 10**14)), hyperparameters=draw(st.dictionaries(words, scalars, max_size=4)),
        status=status, loss=draw(st.floats(1e-3, 20)) if status == FINISHED else None, seed=place,
        variant=draw(st.one_of(st.just(""), words)), steps=draw(st.one_of(st.none(), st.integers(0, 10**9))),
        flops=draw(st.one_of(st.none(), positive)), seconds=draw(st.one_of(st.none(), positive)),
        state_bytes=draw(st.one_of(st.none(), positive)), purpose=draw(st.one_of(st.just(""), words)),
        reason="lost" if status != FINISHED else None,
        curve=tuple(draw(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 20)), max_size=3))), source="here",
    )  # fmt: skip


@settings(deadline=None)
@given(st.data())
def test_runs_written_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    runs = [data.draw(any_run(place)) for place in range(data.draw(st.integers(1, 4)))]
    path = write(runs, tmp_path_factory.mktemp("runs") / "runs.csv")
    found = read(path)
    assert found.runs == runs
    assert (found.complaints, found.unread, found.left_out) == ([], {}, 0)


def test_a_curve_of_any_length_comes_back(tmp_path: Path) -> None:
    curve = tuple((step * 1000, 3 + 1 / (step + 1)) for step in range(20_000))
    run = Run("a", "adamw", "s", 10, 200, {"lr": 0.1}, FINISHED, 3.0, curve=curve, source="x")
    assert read(write([run], tmp_path / "runs.csv")).runs == [run]


def test_the_example_on_the_page_runs_and_the_page_names_every_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "importing.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", page, re.S)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    exec(example[1], {})
    assert capsys.readouterr().out.startswith("1 [Complaint(file='sweep.csv', row=3, column='loss'")
    assert len(read(tmp_path / "runs.csv").runs) == 1
    for own, others in FIELDS.items():
        assert all(f"`{name}`" in page for name in (own, *others))
    assert all(f"`{own}`" in page for own in RENAMED.values())


def test_the_verb_writes_what_it_read_and_tells_what_it_could_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / "a.csv", {"peak": "0.5"}, {"loss": "abc", "peak": "1"})
    assert cli.main(["import", str(path), "--columns", "hp.lr=peak", "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "1 runs of 1 optimizers in 1 cells (1 finished) from 2 rows" in out
    assert "a.csv row 3, column loss: 'abc' is no number" in err
    assert read(tmp_path / "out" / "runs.csv").runs[0].hyperparameters == {"lr": 0.5}
    assert cli.main(["import", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == 1
    assert cli.main(["import", str(path), "--columns", "loss"]) == 2
    assert "give OWN=THEIRS" in capsys.readouterr().err
