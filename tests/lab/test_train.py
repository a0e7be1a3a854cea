"""The same configuration ends with the same bits, killed or not; what goes wrong is recorded or said in a line."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steepest.cli import main
from steepest.core.errors import BadInput, CorruptFile, SteepestError, UnknownName
from steepest.engines import why_not_compiled
from steepest.lab import checkpoint, record
from steepest.lab import corpus as corpora
from steepest.lab.analysis.spikes import scores
from steepest.lab.batches import batch
from steepest.lab.config import CheckpointConfig, EvaluationConfig, OptimizerConfig, RunConfig, ScheduleConfig
from steepest.lab.corpus import Corpus
from steepest.lab.files import Busy
from steepest.lab.mirrors import mirror
from steepest.lab.train import Progress, RunResult, load_model, sample_text, train
from steepest.schedules import named

EVERY_STEP = CheckpointConfig(0.0)


def numbers(folder: Path) -> dict[str, Any]:
    """Everything that a run wrote except times: rows, result, weights, optimizer state."""

    def timeless(row: dict[str, Any] | None) -> dict[str, Any]:
        return {key: value for key, value in (row or {}).items() if not key.endswith("seconds")}

    return {
        "rows": [timeless(row) for row in record.read_rows(folder)],
        "result": timeless(record.read_result(folder)),
        "checkpoint": checkpoint.load(folder / checkpoint.NAME),
    }


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


# ---- the loop


def test_a_run_is_the_plain_loop_bit_for_bit(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    config = replace(tiny_config, optimizer=OptimizerConfig("torch:AdamW", 3e-3, {"weight_decay": 0.2}), seed=5)
    result = train(config, runs, corpus=tiny_corpus)

    from steepest.lab.config import plan
    from steepest.lab.model import Decoder

    model = Decoder(plan(config, tiny_corpus.manifest).model, seed=5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.2)
    losses = []
    for step in range(30):
        factor = (step + 1) / 3 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 27))
        optimizer.param_groups[0]["lr"] = 3e-3 * factor
        output = model.loss(batch(tiny_corpus, seed=5, step=step, size=4, seq=16))
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.nll.item())
    assert [row["loss"] for row in record.read_rows(result.folder)] == losses
    assert_same(dict(load_model(result.folder).state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("spec", ["adamw", "muon", "soap"])
def test_the_loss_falls(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path, spec: str) -> None:
    config = replace(tiny_config, optimizer=OptimizerConfig(spec, 0.01), tokens=80 * 64)
    result = train(config, runs, corpus=tiny_corpus)
    first = record.read_rows(result.folder)[0]
    assert result.status == "finished"
    assert result.val_loss is not None
    assert result.val_loss < first["val_loss"] - 0.5


def test_the_result_is_in_bits_per_byte_too(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    result = train(tiny_config, runs, corpus=tiny_corpus)
    assert result.val_loss is not None
    # With bytes as tokens, a token is a byte but for the documents' separators.
    expected = result.val_loss / math.log(2) / tiny_corpus.bytes_per_token("val")
    assert result.val_bits_per_byte == pytest.approx(expected)
    assert result.tokens == 30 * 4 * 16
    assert 0 < result.optimizer_seconds < result.seconds
    assert result.seconds == pytest.approx(result.optimizer_seconds + result.forward_backward_seconds)


def test_accumulation_is_the_mean_over_the_whole_batch(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path
) -> None:
    whole = train(tiny_config, runs, corpus=tiny_corpus)
    parts = train(replace(tiny_config, accumulation=4), runs, corpus=tiny_corpus)
    for one, other in zip(record.read_rows(whole.folder), record.read_rows(parts.folder), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
    assert parts.val_loss == pytest.approx(whole.val_loss, rel=1e-4)


def test_every_group_follows_the_schedule_from_its_own_rate(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path
) -> None:
    config = replace(
        tiny_config,
        optimizer=OptimizerConfig("muon", 0.02, {"companion": {"lr": 0.001}}),
        schedule=ScheduleConfig("linear", warmup=2.0, minimum=0.5),
    )
    result = train(config, runs, corpus=tiny_corpus)
    last = 0.5 + 0.5 * (1 - 27 / 28)
    groups = checkpoint.load(result.folder / checkpoint.NAME)["optimizer"]["param_groups"]
    assert sorted({float(group["lr"]) for group in groups}) == pytest.approx([0.001 * last, 0.02 * last])
    assert record.read_rows(result.folder)[0]["lr"] == pytest.approx(0.01)


def test_evaluations_come_at_their_cadence_and_at_the_end(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path
) -> None:
    config = replace(tiny_config, evaluation=EvaluationConfig(tokens=64, every=12))
    rows = record.read_rows(train(config, runs, corpus=tiny_corpus).folder)
    assert [row["step"] for row in rows if row["val_loss"] is not None] == [1, 12, 24, 30]


def test_the_evaluation_does_not_depend_on_the_batch_size(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path
) -> None:
    tiny_rate = replace(tiny_config, optimizer=OptimizerConfig("torch:SGD", 1e-30), tokens=64)
    losses = {train(replace(tiny_rate, batch=size), runs, corpus=tiny_corpus).val_loss for size in (1, 4, 5)}
    assert max(map(float, losses)) - min(map(float, losses)) < 1e-5  # type: ignore[arg-type]


def test_progress_tells_every_step(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    seen: list[Progress] = []
    train(tiny_config, runs, corpus=tiny_corpus, progress=seen.append)
    assert [now.step for now in seen] == list(range(1, 31))
    assert all(now.tokens_per_second > 0 for now in seen)
    assert seen[-1].seconds_left == 0


def test_bf16_autocast_trains_float32_weights(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    plain = train(tiny_config, runs, corpus=tiny_corpus)
    half = train(replace(tiny_config, precision="bf16"), runs, corpus=tiny_corpus)
    assert half.val_loss != plain.val_loss
    assert half.val_loss == pytest.approx(plain.val_loss, rel=0.05)
    assert {p.dtype for p in load_model(half.folder).parameters()} == {torch.float32}


def test_training_leaves_torch_as_it_was(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    before = torch.get_num_threads(), torch.get_rng_state(), signal.getsignal(signal.SIGINT)
    train(replace(tiny_config, tokens=64), runs, corpus=tiny_corpus, threads=2)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert signal.getsignal(signal.SIGINT) is before[2]


def test_a_trained_model_writes_text(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    model = load_model(train(tiny_config, runs, corpus=tiny_corpus).folder)
    text = sample_text(model, tiny_corpus, 20, prompt="abc", seed=1)
    assert text.startswith("abc")
    assert len(text.encode("utf-8", "replace")) > 3
    assert text == sample_text(model, tiny_corpus, 20, prompt="abc", seed=1)


# ---- divergence


def test_a_run_with_a_loss_far_above_the_first_ends_early_with_its_reason(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path
) -> None:
    config = replace(tiny_config, optimizer=OptimizerConfig("torch:SGD", 1e3))
    result = train(config, runs, corpus=tiny_corpus)
    assert result.status == "diverged"
    assert result.step < 30
    assert result.val_loss is None
    assert "above 2 times the first" in str(result.reason)
    assert len(record.read_rows(result.folder)) == result.step
    assert train(config, runs, corpus=tiny_corpus) == replace(result, present=True)


def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_are_touched(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steepest.lab.model import Decoder, LossOutput

    calls = []
    plain = Decoder.loss

    def breaking(self: Decoder, sequences: torch.Tensor) -> LossOutput:
        calls.append(1)
        output = plain(self, sequences)
        return LossOutput(output.loss * math.nan, output.nll * math.nan) if len(calls) == 8 else output

    monkeypatch.setattr(Decoder, "loss", breaking)
    config = replace(tiny_config, evaluation=EvaluationConfig(tokens=16, every=100))
    result = train(config, runs, corpus=tiny_corpus)
    assert (result.status, result.step, result.reason) == ("diverged", 7, "loss is nan at step 7")
    assert record.read_rows(result.folder)[-1]["loss"] is None


# ---- identity and repetition


def test_a_finished_run_is_returned_and_not_trained_again(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path
) -> None:
    first = train(tiny_config, runs, corpus=tiny_corpus)
    before = {path: path.read_bytes() for path in first.folder.iterdir() if path.name != "lock"}
    again = train(tiny_config, runs, corpus=tiny_corpus)
    assert again == replace(first, present=True)
    assert {path: path.read_bytes() for path in first.folder.iterdir() if path.name != "lock"} == before


def test_the_result_scores_the_spikes_of_its_rows_and_an_old_one_is_scored_when_it_is_read(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path
) -> None:
    config = replace(tiny_config, tokens=tiny_config.batch * tiny_config.seq * 120)
    first = train(config, runs, corpus=tiny_corpus)
    rows = record.read_rows(first.folder)
    result = record.read_result(first.folder)
    assert result is not None
    assert result["spikes"] == first.spikes == scores(rows)
    assert first.spikes["gradient_norm"]["spike_score"] is not None and first.spikes["diverged"] is False
    del result["spikes"]
    record.write_result(first.folder, result)
    assert train(config, runs, corpus=tiny_corpus).spikes == first.spikes


def test_a_profile_that_is_read_seldom_moves_every_step_of_training(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path
) -> None:
    schedule = ScheduleConfig("rex", warmup=2.0, options={"sampling": 3, "start": 0.0})
    result = train(replace(tiny_config, schedule=schedule), runs, corpus=tiny_corpus)
    expected = named("rex", result.steps, 2, sampling=3, start=0.0)
    rates = [row["lr"] for row in record.read_rows(result.folder)]
    assert rates == pytest.approx([result.lr * expected(t) for t in range(result.steps)])
    assert rates[0] == 0.0


def test_the_header_says_all_that_made_the_run(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    result = train(tiny_config, runs, corpus=tiny_corpus)
    header = record.read_header(result.folder)
    assert RunConfig.from_mapping(header["config"]) == tiny_config
    assert header["identity"] == result.identity == tiny_config.identity(tiny_corpus.manifest)
    assert header["corpus"]["identity"] == tiny_corpus.identity
    assert "def update" in header["optimizer"]["text"]
    (session,) = header["sessions"]
    assert session["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in session["versions"]["torch"]
    assert session["threads"] == 1
    assert session["hardware"]["cores"] == os.cpu_count()
    assert record.list_runs(runs) == [result.folder]


def test_pandas_reads_a_record(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    result = train(tiny_config, runs, corpus=tiny_corpus)
    table = pandas.read_json(result.folder / "rows.jsonl", lines=True, precise_float=True)
    whole = ["step", "tokens", "estimate_seconds"]  # zeros are read as whole numbers
    assert set(table.dtypes.drop(whole).astype(str)) == {"float64"}
    assert table["val_loss"].iloc[-1] == result.val_loss


# ---- kills

_processes = multiprocessing.get_context("forkserver")
# What a child imports before its first step: loaded once, a process starts in milliseconds.
_processes.set_forkserver_preload(
    ["pytest", "torch._dynamo", "steepest.lab.train", "steepest.registry", "steepest.cli"]
)


def _train(config: RunConfig, runs: Path) -> None:
    train(config, runs, corpus=corpora.open(str(config.corpus.source)), notice=lambda message: None)


def _train_and_die(config: RunConfig, runs: Path, operation: int) -> None:
    """Trains, and is killed at the ``operation``-th touch of a file: before it, or half through a row."""
    count = 0

    def dying(real: Callable[..., Any], tear: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def touch(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == operation:
                if tear:
                    tear(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return touch

    def half_a_row(self: record.Record, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row).encode()[:40])

    os.replace = dying(os.replace)
    os.fsync = dying(os.fsync)
    record.Record.append = dying(record.Record.append, half_a_row)  # type: ignore[method-assign]
    _train(config, runs)


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    tiny_corpus: Corpus, tiny_config: RunConfig, tmp_path: Path
) -> None:
    # SOAP: a basis and a calendar in the state, so that a resume at any phase is told from a plain one.
    config = replace(
        tiny_config,
        optimizer=OptimizerConfig("soap", 3e-3),
        tokens=200 * 64,
        checkpoint=CheckpointConfig(0.02),
        evaluation=EvaluationConfig(tokens=256, every=10),
    )
    whole = train(config, tmp_path / "whole", corpus=tiny_corpus)
    folder = tmp_path / "killed" / whole.identity[:16]
    rows = folder / record.ROWS
    draw, kills = random.Random(0), 0

    def size(path: Path) -> int:
        return path.stat().st_size if path.exists() else 0

    while record.read_result(folder) is None and kills < 12:
        process = _processes.Process(target=_train, args=(config, tmp_path / "killed"))
        # Told in bytes of rows, not in seconds: a quick machine would end the run before it is killed.
        # The first row is past the start, whose every touch of a file has a test of its own.
        until = size(rows) + draw.randint(1, size(whole.folder / record.ROWS) // 10)
        process.start()
        while process.is_alive() and size(rows) < until:
            time.sleep(0.0005)
        process.join(draw.uniform(0.0, 0.01))
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            kills += 1
        process.join()
    train(config, tmp_path / "killed", corpus=tiny_corpus, notice=lambda message: None)
    assert kills >= 3
    assert len(record.read_header(folder)["sessions"]) > 1
    assert_same(numbers(folder), numbers(whole.folder))


def test_a_run_killed_at_each_touch_of_a_file_ends_with_the_same_bits(
    tiny_corpus: Corpus, tiny_config: RunConfig, tmp_path: Path
) -> None:
    config = replace(
        tiny_config, tokens=2 * 64, checkpoint=EVERY_STEP, evaluation=EvaluationConfig(tokens=64, every=2)
    )
    whole = numbers(train(config, tmp_path / "whole", corpus=tiny_corpus).folder)
    operation = 0
    while True:
        operation += 1
        runs = tmp_path / str(operation)
        process = _processes.Process(target=_train_and_die, args=(config, runs, operation))
        process.start()
        process.join()
        if process.exitcode == 0:  # it has fewer touches than that
            break
        assert process.exitcode == -signal.SIGKILL
        assert_same(numbers(train(config, runs, corpus=tiny_corpus).folder), whole)
    assert operation > 12


def test_rows_past_the_checkpoint_are_superseded_and_never_edited(
    tiny_corpus: Corpus, tiny_config: RunConfig, tmp_path: Path
) -> None:
    whole = train(tiny_config, tmp_path / "whole", corpus=tiny_corpus)
    # Torn in the second row: the record of a kill before the first checkpoint.
    lines = (whole.folder / record.ROWS).read_bytes().splitlines(keepends=True)
    folder = tmp_path / "killed" / whole.folder.name
    folder.mkdir(parents=True)
    (folder / record.ROWS).write_bytes(lines[0] + lines[1] + lines[2][:20])
    train(tiny_config, tmp_path / "killed", corpus=tiny_corpus)
    after = (folder / record.ROWS).read_bytes()
    assert after.startswith(lines[0] + lines[1])
    assert len(after.splitlines()) == 32
    assert_same(numbers(folder), numbers(whole.folder))


def test_an_interrupt_writes_a_checkpoint_at_the_end_of_its_step(
    tiny_corpus: Corpus, tiny_config: RunConfig, tmp_path: Path
) -> None:
    whole = train(tiny_config, tmp_path / "whole", corpus=tiny_corpus)

    def interrupt(now: Progress) -> None:
        if now.step == 11:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, tmp_path / "other", corpus=tiny_corpus, progress=interrupt)
    folder = tmp_path / "other" / whole.folder.name
    assert checkpoint.load(folder / checkpoint.NAME)["step"] == 11
    train(tiny_config, tmp_path / "other", corpus=tiny_corpus)
    assert_same(numbers(folder), numbers(whole.folder))


# ---- damage


@pytest.fixture
def interrupted(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> tuple[RunConfig, Path]:
    """A run that stopped at step 20, with checkpoints of steps 19 and 20."""
    config = replace(tiny_config, checkpoint=EVERY_STEP)

    def interrupt(now: Progress) -> None:
        if now.step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, runs, corpus=tiny_corpus, progress=interrupt)
    return config, runs / config.identity(tiny_corpus.manifest)[:16]


def test_a_truncated_checkpoint_costs_the_steps_since_the_one_before(
    tiny_corpus: Corpus, interrupted: tuple[RunConfig, Path], tmp_path: Path
) -> None:
    config, folder = interrupted
    path = folder / checkpoint.NAME
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    notices: list[str] = []
    train(config, folder.parent, corpus=tiny_corpus, notice=notices.append)
    assert "checkpoint.pt is truncated or damaged: going on from checkpoint.previous.pt at step 18" in notices[0]
    assert_same(numbers(folder), numbers(train(config, tmp_path / "whole", corpus=tiny_corpus).folder))


def test_a_truncated_record_is_named_and_nothing_is_overwritten(
    tiny_corpus: Corpus, interrupted: tuple[RunConfig, Path]
) -> None:
    config, folder = interrupted
    path = folder / record.ROWS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "lock"}
    with pytest.raises(CorruptFile, match="but the record ends at step 6: restore it, or delete"):
        train(config, folder.parent, corpus=tiny_corpus)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "lock"} == before


def test_a_full_disk_at_a_checkpoint_loses_nothing(
    tiny_corpus: Corpus, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tiny_config, checkpoint=EVERY_STEP)
    real, count = checkpoint.replace, 0

    def full(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count == 9:
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
                real(*args, **kwargs)
        real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "replace", full)
        with pytest.raises(SteepestError, match=r"cannot write .*checkpoint\.pt: No space left"):
            train(config, tmp_path / "full", corpus=tiny_corpus)
    result = train(config, tmp_path / "full", corpus=tiny_corpus)
    assert_same(numbers(result.folder), numbers(train(config, tmp_path / "whole", corpus=tiny_corpus).folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "cudda"}, "device 'cudda' cannot be used here"),
        ({"optimizer": OptimizerConfig("muno", 0.1)}, "did you mean 'muon'"),
        ({"seq": 10**6}, "needs"),
        ({"engine": "lop"}, "engine"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SteepestError, match=message) as caught:
        train(replace(tiny_config, **change), runs, corpus=tiny_corpus)
    assert "\n" not in str(caught.value)


def test_compiling_without_a_compiler_is_one_line(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steepest.lab.runtime.why_not_compiled", lambda: "no C++ compiler")
    with pytest.raises(BadInput, match="compile=true cannot run here: no C\\+\\+ compiler"):
        train(replace(tiny_config, compile=True), runs, corpus=tiny_corpus)


@pytest.mark.slow
def test_a_compiled_run_learns_the_same(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    if missing := why_not_compiled():
        pytest.skip(missing)
    plain = train(tiny_config, runs, corpus=tiny_corpus)
    fast = train(replace(tiny_config, compile=True), runs, corpus=tiny_corpus)
    assert fast.val_loss == pytest.approx(plain.val_loss, rel=1e-3)


def test_no_threads_is_bad_input(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    with pytest.raises(BadInput, match="threads=0"):
        train(tiny_config, runs, corpus=tiny_corpus, threads=0)


# ---- mirrors


def test_tensorboard_shows_the_rows_of_the_record(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'steepest[mirrors]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(tiny_config, runs, corpus=tiny_corpus, mirrors=[mirror("tensorboard")])
    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    rows = record.read_rows(result.folder)
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows]
    assert len(events.Scalars("val_loss")) == sum(row["val_loss"] is not None for row in rows)


def test_wandb_takes_the_rows_offline(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="pip install 'steepest[mirrors]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    result = train(tiny_config, runs, corpus=tiny_corpus, mirrors=[mirror("wandb")])
    assert result.status == "finished"
    assert list((result.folder / "wandb").glob("offline-run-*"))


def test_an_unknown_mirror_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match="did you mean 'tensorboard'"):
        mirror("tensorbord")


# ---- the command


def test_the_command_trains_goes_on_and_prints_json(
    tiny_corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text(
        f'batch = 4\nseq = 16\ntokens = 640\n[corpus]\nsource = "{tiny_corpus.path}"\n'
        '[model]\npreset = "20k"\nlayers = 1\nwidth = 16\nffn = 16\n[evaluation]\ntokens = 64\n'
    )
    words = ["train", str(toml), "--optimizer", "lion", "--lr", "1e-3", "--out", str(tmp_path / "out")]
    assert main([*words, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["steps"], planned["optimizer"], planned["lr"]) == (10, "lion", 0.001)
    assert not Path(planned["record"]).exists()
    assert main([*words, "--json", "--sample", "5"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["present"], told["record"]) == ("finished", False, planned["record"])
    assert told["sample"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "a finished run is not trained again" in printed
    assert f"validation {told['val_loss']:.4f} nats/token" in printed
    assert "spikes: the run is too short to say" in printed and told["spikes"]["loss"]["spike_score"] is None
    assert f"record: {planned['record']}" in printed


def test_the_command_says_that_a_run_diverged_and_exits_1(
    tiny_corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--optimizer torch:SGD --lr 1000 --model 20k --batch 4 --seq 16 --tokens 1920"
    status = main(["train", *words.split(), "--corpus", str(tiny_corpus.path), "--out", str(tmp_path)])
    assert status == 1
    assert "diverged: loss" in capsys.readouterr().out
    (folder,) = record.list_runs(tmp_path)
    result = record.read_result(folder)
    assert result is not None and result["spikes"]["diverged"] is True


@pytest.mark.parametrize("words", ["--lr nan", "--tokens 0", "--optimizer muno", "--set batchh=3", "nothing.toml"])
def test_bad_input_is_one_line_and_exit_2(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words.split(), "--out", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())  # answered before a corpus is built
    told = capsys.readouterr()
    assert told.err.startswith("steepest: ")
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_two_calls_at_once_train_once(tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    processes = [_processes.Process(target=_train, args=(tiny_config, runs)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    (folder,) = record.list_runs(runs)
    assert len(record.read_header(folder)["sessions"]) == 1
    result: RunResult = train(tiny_config, runs, corpus=tiny_corpus)
    assert result.present
    assert (folder / record.ROWS).read_bytes().count(b"\n") == 30


def test_a_run_that_another_call_trains_is_refused_to_who_will_not_wait(
    tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path
) -> None:
    pytest.importorskip("fcntl", reason="this system has no file locks")
    refusals = []

    def again(progress: Progress) -> None:
        if not refusals:
            with pytest.raises(Busy, match=f"in use by process {os.getpid()}") as refused:
                train(tiny_config, runs, corpus=tiny_corpus, wait=False)
            refusals.append(refused)

    assert train(tiny_config, runs, corpus=tiny_corpus, progress=again, wait=False).status == "finished"
    assert refusals
    assert train(tiny_config, runs, corpus=tiny_corpus, wait=False).present


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_released_gradients_change_no_number_and_no_identity(
    tiny_config: RunConfig, tiny_corpus: Corpus, tmp_path: Path, clip: float, accumulation: int
) -> None:
    config = replace(tiny_config, clip=clip, accumulation=accumulation, tokens=8 * 4 * 16)
    plain = train(config, tmp_path / "plain", corpus=tiny_corpus)
    released = train(replace(config, release=True), tmp_path / "released", corpus=tiny_corpus)
    assert plain.identity == released.identity
    assert_same(numbers(plain.folder), numbers(released.folder))


def test_where_pieces_are_stacked_release_is_part_of_the_identity(
    tiny_config: RunConfig, tiny_corpus: Corpus
) -> None:
    for engine, same in (("auto", False), ("loop", True)):
        config = replace(tiny_config, optimizer=OptimizerConfig("muon", 0.02), engine=engine)
        released = replace(config, release=True)
        manifest = tiny_corpus.manifest
        assert (config.identity(manifest) == released.identity(manifest)) is same


def test_a_run_that_cannot_be_released_says_so(tiny_config: RunConfig, tiny_corpus: Corpus, runs: Path) -> None:
    for spec, told in (("sophia", "sophia wants"), ("torch:SGD", "not of this package")):
        with pytest.raises(BadInput, match=f"release=true: .*{told}"):
            config = replace(tiny_config, optimizer=OptimizerConfig(spec, 0.01), release=True)
            train(config, runs, corpus=tiny_corpus)
    with pytest.raises(BadInput, match="a compiled graph is not kept"):
        replace(tiny_config, release=True, compile=True)
