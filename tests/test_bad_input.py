"""Bad input on the command line: one line on stderr that names the thing and the next step; nothing is lost."""

from __future__ import annotations

import json
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from steepest import cli

ORACLES = Path(__file__).parent / "oracles"
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
RUN = ["--corpus", "text.txt", "--tokenizer", "bytes", "--model", "20k", "--batch", "4", "--seq", "32"]
RUN += ["--tokens", "2000", "--lr", "1e-3", "--set", "checkpoint.seconds=0"]
STEPS = 16


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of texts, good and bad, that the commands run in."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    paragraphs = (" ".join(draw.choices(WORDS, k=100)) for _ in range(150))
    Path("text.txt").write_text("\n\n".join(paragraphs))
    Path("empty.txt").touch()
    Path("short.txt").write_text("too short\n")
    Path("binary.txt").write_bytes(bytes(range(256)) * 400)
    Path("empty").mkdir()
    Path("torn.jsonl").write_text('{"text": "x"}\n{"text": ')
    Path("torn.parquet").write_bytes(b"PAR1 and no more")
    Path("torn.toml").write_text("batch = [")
    return tmp_path


class Ended:
    """How a command ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out = status, out
        # Progress is no message: lines such as "3/16  loss 4.1 ..."
        self.lines = [line for line in err.splitlines() if line.startswith("steepest: ")]
        self.err = err

    def refused(self, *words: str) -> None:
        """Exit status 2, and one line that holds these words."""
        assert self.status == 2, self.err
        assert len(self.lines) == 1 and "Traceback" not in self.err, self.err
        for word in words:
            assert word in self.lines[0], f"{word!r} is not in: {self.lines[0]}"


Command = Callable[..., Ended]


@pytest.fixture
def steepest(capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*words: str) -> Ended:
        capsys.readouterr()
        status = cli.main(words)
        return Ended(status, *capsys.readouterr())

    return command


def finished(steepest: Command, *words: str) -> dict[str, object]:
    """The result of a run that ends well, without its times."""
    ended = steepest("train", *RUN, "--json", *words)
    assert ended.status == 0, ended.err
    told = json.loads(ended.out)
    return {key: told[key] for key in ("status", "val_loss", "val_bits_per_byte", "tokens")}


def interrupted(steepest: Command, monkeypatch: pytest.MonkeyPatch, step: int = 9) -> Path:
    """The folder of a run that an interrupt ended at a step."""
    from steepest.cli import train

    def stop(now: object) -> None:
        if now.step == step:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "_plain_line", stop)
        ended = steepest("train", *RUN)
    assert ended.status == 130 and len(ended.lines) == 1, ended.err
    (folder,) = (path.parent for path in Path("runs").glob("*/rows.jsonl"))
    assert not (folder / "result.json").exists()
    return folder


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes: writes end with an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---- the command line itself


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["rase"], ["'rase'", "'race'"]),
        (["corpus", "--sed", "1"], ["--sed", "steepest corpus --help"]),
        (["corpus", "--seed", "one"], ["--seed", "'one'", "steepest corpus --help"]),
    ],
)
def test_a_wrong_verb_or_option_is_one_line(steepest: Command, words: list[str], answers: list[str]) -> None:
    steepest(*words).refused(*answers)


# ---- optimizers


@pytest.mark.parametrize(
    ("spec", "answers"),
    [
        ("muno", ["'muno'", "did you mean 'muon'?", "steepest list"]),
        ("torch:Adma", ["'Adma'", "did you mean 'Adamax'?"]),
        ("./mine.py:MyRule", ["mine.py", "./mine.py:MyRule"]),
        ("nowhere.module:Class", ["nowhere.module:Class", "No module named 'nowhere'"]),
        ("json:JSONDecoder", ["JSONDecoder", "neither a steepest Rule nor a torch.optim.Optimizer"]),
        ("muon:momentun=0.9", ["'momentun'", "did you mean 'momentum'?"]),
        ("muon:variant=kimmi", ["'kimmi'", "did you mean 'kimi'?"]),
        ("muon:momentum=2", ["momentum=2", "[0, 1)"]),
        ("muon:momentum=nan", ["momentum=", "nan", "[0, 1)"]),
        ("muon:momentum=high", ["momentum", "'high'"]),
        ("muon:nesterov=perhaps", ["nesterov", "'perhaps'"]),
        ("adamw:betas=0.9", ["betas=0.9", "2 numbers"]),
        ("soap:precondition_frequency=0", ["precondition_frequency=0", "at least 1"]),
        ("soap:precondition_frequency=1.5", ["precondition_frequency=1.5", "whole number"]),
    ],
)
@pytest.mark.parametrize("verb", ["train", "race"])
def test_an_optimizer_that_cannot_be_is_named(steepest: Command, verb: str, spec: str, answers: list[str]) -> None:
    words = ["train", *RUN, "--optimizer", spec] if verb == "train" else ["race", spec]
    steepest(*words).refused(*answers)


@pytest.mark.parametrize("lr", ["nan", "inf", "0", "-1"])
def test_a_learning_rate_that_is_no_rate_is_refused(steepest: Command, lr: str) -> None:
    steepest("train", *RUN, "--lr", lr).refused("lr=", "3e-4")


def test_a_diverged_run_says_so_and_exits_1(steepest: Command) -> None:
    ended = steepest("train", *RUN, "--lr", "1e9")
    assert ended.status == 1 and "diverged" in ended.out and "smaller lr" in ended.out


# ---- settings


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["--tokens", "0"], ["tokens=0", "at least 1"]),
        (["--batch", "0"], ["batch=0", "at least 1"]),
        (["--seed", "-1"], ["seed=-1", "at least 0"]),
        (["--model", "21k"], ["'21k'", "did you mean '20k'?"]),
        (["--seq", "100000000"], ["100000000", "shorten the sequence"]),
        (["--set", "model.width=33"], ["width=33", "heads"]),
        (["--set", "schedule.name=cosin"], ["'cosin'", "did you mean 'cosine'?"]),
        (["--set", "batsch=3"], ["'batsch'", "did you mean 'batch'?"]),
        (["--set", "batch"], ["'batch'", "key=value"]),
        (["--set", "engine=compield"], ["'compield'", "did you mean 'compiled'?"]),
        (["--device", "abacus"], ["'abacus'", "cpu"]),
        (["--mirror", "wandbox"], ["'wandbox'", "wandb"]),
        (["--threads", "0"], ["threads=0", "at least 1"]),
        (["--sample", "-3"], ["--sample -3", "number of tokens"]),
        (["nowhere.toml"], ["nowhere.toml", "check the path"]),
        (["torn.toml"], ["torn.toml", "cannot be read"]),
    ],
)
def test_a_setting_that_cannot_be_is_named(steepest: Command, words: list[str], answers: list[str]) -> None:
    steepest("train", *RUN, *words).refused(*answers)


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["--seeds", "0"], ["seeds", "0"]),
        (["--seeds", "-1"], ["seeds", "-1"]),
        (["--workers", "0"], ["workers", "0", "at least 1"]),
        (["--budgets", "half"], ["'half'", "0.25,0.5,1,2"]),
        (["--budgets", "nan"], ["nan"]),
        (["--budgets", "0"], ["budget"]),
        (["--tuning-runs", "0"], ["tuning", "0"]),
        (["--tuning-factor", "1"], ["1"]),
        (["--tokens", "0"], ["tokens=0", "at least 1"]),
        (["--model", "51k"], ["'51k'", "did you mean '50k'?"]),
        (["--baseline", "adamv"], ["'adamv'", "did you mean 'adamw'?"]),
        (["--set", "lion.lr=nan"], ["lr"]),
        (["--set", "lion.momentum=0.9"], ["lion", "'momentum'"]),
        (["--schedule", "cosin"], ["'cosin'", "did you mean 'cosine'?"]),
    ],
)
def test_a_race_that_cannot_be_run_is_refused_before_anything_runs(
    steepest: Command, words: list[str], answers: list[str]
) -> None:
    steepest("race", "lion", "--corpus", "text.txt", "--tokenizer", "bytes", *words).refused(*answers)
    assert not Path("race").exists() and not list(Path("runs").glob("*/header.json"))


# ---- verify, show, report


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["verify", "nowhere"], ["nowhere", "inputs.npz"]),
        (["verify", "empty"], ["empty", "holds no trajectory"]),
        (["verify", str(ORACLES), "--only", "muno"], ["'muno'", "did you mean 'muon'?"]),
        (["verify", str(ORACLES), "--engine", "lop"], ["'lop'", "did you mean 'loop'?"]),
        (["show", "muno"], ["'muno'", "did you mean 'muon'?"]),
        (["report", "nowhere"], ["nowhere", "steepest race"]),
    ],
)
def test_what_is_not_there_is_named(steepest: Command, words: list[str], answers: list[str]) -> None:
    steepest(*words).refused(*answers)


def test_a_truncated_trajectory_fails_and_the_others_are_replayed(steepest: Command) -> None:
    for name in ("lion", "signum"):
        shutil.copytree(ORACLES / name, f"copy/{name}")
    shutil.copy(ORACLES / "inputs.npz", "copy")
    (torn,) = Path("copy/lion").glob("*.npz")
    torn.write_bytes(torn.read_bytes()[:200])
    ended = steepest("verify", "copy")
    assert ended.status == 1 and str(torn) in ended.out and "is damaged" in ended.out
    assert "1 fail" in ended.out and "0 pass" not in ended.out


def test_truncated_inputs_are_named(steepest: Command) -> None:
    shutil.copytree(ORACLES / "lion", "copy/lion")
    Path("copy/inputs.npz").write_bytes((ORACLES / "inputs.npz").read_bytes()[:200])
    steepest("verify", "copy").refused("copy/inputs.npz is damaged", "copy it again")


@pytest.mark.parametrize("content", ["", '{"format": 1, "comm', '{"format": 1}', '{"format": 99}', "[]"])
def test_a_truncated_or_foreign_race_file_is_named(steepest: Command, content: str) -> None:
    Path("race").mkdir()
    Path("race/race.json").write_text(content)
    steepest("report", "race").refused("race/race.json", "steepest race")
    assert Path("race/race.json").read_text() == content


# ---- texts


@pytest.mark.parametrize(
    ("source", "answers"),
    [
        ("nowhere.txt", ["'nowhere.txt'", "no such file", "stdlib"]),
        ("nothing*.txt", ["'nothing*.txt'", "check the pattern"]),
        ("empty.txt", ["empty.txt is empty", "give a file that holds text"]),
        ("empty", ["empty", "holds no file", "name another folder"]),
        ("binary.txt", ["binary.txt is not text", "give UTF-8 text"]),
        ("short.txt", ["too little text", "short.txt", "add text"]),
        ("stlib", ["'stlib'", "did you mean 'stdlib'?"]),
    ],
)
@pytest.mark.parametrize("verb", ["corpus", "train", "race"])
def test_a_text_that_cannot_be_used_is_named(
    steepest: Command, verb: str, source: str, answers: list[str]
) -> None:
    words = {
        "corpus": ["corpus", source],
        "train": ["train", *RUN, "--corpus", source],
        "race": ["race", "lion", "--corpus", source],
    }
    steepest(*words[verb]).refused(*answers)


@pytest.mark.parametrize("source", ["torn.jsonl", "torn.parquet"])
def test_a_torn_data_set_is_named(steepest: Command, source: str) -> None:
    pytest.importorskip("datasets", reason="pip install 'steepest[lab]'")
    steepest("corpus", source).refused(source, "mend or leave out this file")


def test_a_damaged_shard_is_named_and_the_corpus_kept(steepest: Command) -> None:
    assert steepest("corpus", "text.txt", "--tokenizer", "bytes").status == 0
    (shard,) = Path("runs").rglob("train-*.npy")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    steepest("corpus", "text.txt", "--tokenizer", "bytes", "--verify").refused(shard.name)
    assert shard.exists()


# ---- disks and files


def test_a_full_disk_while_shards_are_written_loses_nothing(steepest: Command) -> None:
    with full_disk(20_000):
        steepest("corpus", "text.txt", "--tokenizer", "bytes").refused("cannot write", "same command again")
    ended = steepest("corpus", "text.txt", "--tokenizer", "bytes", "--verify")
    assert ended.status == 0, ended.err


def test_a_full_disk_while_training_loses_nothing(steepest: Command) -> None:
    undisturbed = finished(steepest, "--out", "undisturbed")
    assert steepest("corpus", "text.txt", "--tokenizer", "bytes").status == 0
    with full_disk(2_000):
        steepest("train", *RUN).refused("cannot write", "runs/", "same command again")
    assert finished(steepest) == undisturbed


def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    steepest: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = finished(steepest, "--out", "undisturbed")
    checkpoint = interrupted(steepest, monkeypatch) / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    ended = steepest("train", *RUN)
    assert ended.status == 0 and len(ended.lines) == 1
    assert str(checkpoint) in ended.lines[0] and "going on from" in ended.lines[0]
    assert finished(steepest) == undisturbed


def test_with_every_checkpoint_truncated_the_run_is_named_and_kept(
    steepest: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(steepest, monkeypatch)
    for checkpoint in folder.glob("checkpoint*.pt"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    rows = (folder / "rows.jsonl").read_bytes()
    steepest("train", *RUN).refused("truncated or damaged", str(folder), "restore it, or delete")
    assert (folder / "rows.jsonl").read_bytes() == rows


def test_a_record_that_ends_in_half_a_row_is_mended(steepest: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = finished(steepest, "--out", "undisturbed")
    rows = interrupted(steepest, monkeypatch) / "rows.jsonl"
    with rows.open("ab") as file:
        file.write(b'{"step": 10, "tok')
    assert finished(steepest) == undisturbed
    steps = [json.loads(line)["step"] for line in rows.read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, STEPS + 1))


def test_a_record_that_lost_rows_is_named_and_kept(steepest: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = interrupted(steepest, monkeypatch) / "rows.jsonl"
    first, *rest = rows.read_text().splitlines(keepends=True)
    rows.write_text(first + "".join(rest[2:]))
    kept = rows.read_bytes()
    steepest("train", *RUN).refused(str(rows), "lacks step 2", "restore it, or delete")
    assert rows.read_bytes() == kept


def test_a_truncated_result_is_named(steepest: Command) -> None:
    undisturbed = finished(steepest)
    (result,) = Path("runs").glob("*/result.json")
    result.write_text(result.read_text()[:20])
    steepest("train", *RUN).refused(str(result), "delete it and run the same command again")
    result.unlink()
    assert finished(steepest) == undisturbed
