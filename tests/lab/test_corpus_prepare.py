"""A request becomes shards and a manifest: the same bytes however often it was interrupted."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steepest.core.errors import BadInput, CorruptFile, SteepestError
from steepest.lab import corpus as corpora
from steepest.lab import files
from steepest.lab.corpus import Corpus, CorpusConfig, build, gather

Tree = dict[str, bytes]


def _document(number: int) -> str:
    draw = np.random.default_rng(number)
    return f"# {number}\n" + "".join(draw.choice(list("abc def\n"), 2500))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Forty documents of 2.5 kB, three of them twice, and an empty one."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.txt").write_text(_document(number))
    for number in range(3):
        (folder / f"copy-{number}.txt").write_text(_document(number))
    (folder / "empty.txt").touch()
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces, shards and batches from little text."""
    monkeypatch.setattr(gather, "PIECE_BYTES", 20_000)
    monkeypatch.setattr(build, "SHARD_BYTES", 30_000)
    monkeypatch.setattr(build, "ENCODE_BYTES", 2_000)


def _config(texts: Path, **options: object) -> CorpusConfig:
    return CorpusConfig(**{"source": str(texts), "tokenizer": "bytes", "validation": 0.1, **options})  # type: ignore[arg-type]


def _documents(corpus: Corpus, side: str) -> list[str]:
    """The documents of a side, read back from its tokens."""
    tokens = np.asarray(getattr(corpus, side))
    ends = np.flatnonzero(tokens == corpus.tokenizer.separator)
    return [corpus.decode(part) for part in np.split(tokens, ends + 1)[:-1]]


def _tree(folder: Path) -> Tree:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"
    }


def test_every_distinct_document_is_on_exactly_one_side(texts: Path, tmp_path: Path) -> None:
    corpus = corpora.prepare(_config(texts), tmp_path / "out")
    train, val = _documents(corpus, "train"), _documents(corpus, "val")
    assert not set(train) & set(val)
    assert sorted(train + val) == sorted(_document(number) for number in range(40))
    manifest = corpus.manifest
    assert (manifest["documents"], manifest["duplicates"], manifest["empty"]) == (40, 3, 1)
    assert manifest["val_documents"] == len(val) == 4


def test_the_manifest_counts_what_is_there(texts: Path, tmp_path: Path) -> None:
    corpus = corpora.prepare(_config(texts), tmp_path / "out")
    manifest = corpus.manifest
    for side in ("train", "val"):
        documents = _documents(corpus, side)
        size = sum(len(text.encode()) for text in documents)
        assert manifest[f"{side}_bytes"] == size
        assert manifest[f"{side}_tokens"] == len(getattr(corpus, side)) == size + len(documents)
        assert corpus.bytes_per_token(side) == size / (size + len(documents))
    assert corpus.vocab_size == 256 and corpus.train.dtype == np.uint8 and manifest["lossless"]
    assert {path.name for path in corpus.path.iterdir()} == {
        "manifest.json", "tokenizer.json", "train-00000.npy", "val-00000.npy", "lock",
    }  # fmt: skip


def test_bpe_is_trained_on_training_documents_alone(texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs tokenizers: pip install 'steepest[lab]'")
    seen: list[str] = []
    original = build.tokenizers.make

    def spy(spec: str, training_texts: object) -> object:
        seen.extend(training_texts)  # type: ignore[call-overload]
        return original(spec, iter(seen))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.tokenizers, "make", spy)
        corpus = corpora.prepare(_config(texts, tokenizer="bpe:300"), tmp_path / "out")
    assert sorted(seen) == sorted(_documents(corpus, "train"))
    assert corpus.vocab_size == 300 and corpus.train.dtype == np.uint16
    assert int(np.asarray(corpus.train).max()) < 300
    assert corpus.decode(corpus.encode("def abc")) == "def abc"


def test_bpe_is_trained_on_a_sample_of_a_large_text(texts: Path, tmp_path: Path, small_parts: None) -> None:
    pytest.importorskip("tokenizers", reason="needs tokenizers: pip install 'steepest[lab]'")
    config = _config(texts, tokenizer="bpe:300")
    whole = corpora.prepare(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "BPE_TRAINING_BYTES", 10_000)
        sample = corpora.prepare(config, tmp_path / "sample")
    assert whole.manifest["bpe_training_bytes"] == whole.manifest["train_bytes"]
    assert 10_000 <= sample.manifest["bpe_training_bytes"] < 13_000
    assert sample.manifest["tokenizer_sha256"] != whole.manifest["tokenizer_sha256"]


def test_identity_follows_content_and_seed_but_not_file_names(texts: Path, tmp_path: Path) -> None:
    first = corpora.prepare(_config(texts), tmp_path / "out")
    other_seed = corpora.prepare(_config(texts, seed=1), tmp_path / "out")
    assert other_seed.identity != first.identity
    assert _documents(other_seed, "val") != _documents(first, "val")
    for path in texts.iterdir():
        path.rename(path.with_name(f"renamed-{path.name[::-1]}.txt"))
    renamed = corpora.prepare(_config(texts), tmp_path / "elsewhere")
    assert renamed.identity == first.identity
    (texts / "more.txt").write_text(_document(99))
    assert corpora.prepare(_config(texts), tmp_path / "out").identity != first.identity


def test_a_prepared_corpus_is_reused_and_can_be_named_as_source(texts: Path, tmp_path: Path) -> None:
    first = corpora.prepare(_config(texts), tmp_path / "out")
    stages: list[str] = []
    again = corpora.prepare(_config(texts), tmp_path / "out", lambda stage, done, total: stages.append(stage))
    assert not stages and again.manifest == first.manifest
    assert corpora.prepare(CorpusConfig(str(first.path)), tmp_path / "unused").path == first.path
    with pytest.raises(BadInput, match="cannot be mixed"):
        corpora.prepare(CorpusConfig((str(first.path), str(texts))), tmp_path / "unused")
    assert not (tmp_path / "unused").exists()


def test_few_documents_are_cut_into_blocks(tmp_path: Path) -> None:
    lines = [f"line {number} of a single text\n" for number in range(5000)]
    (tmp_path / "one.txt").write_text("".join(lines))
    corpus = corpora.prepare(_config(tmp_path / "one.txt"), tmp_path / "out")
    sides = {side: set("".join(_documents(corpus, side)).splitlines(True)) for side in ("train", "val")}
    assert sides["train"] and sides["val"] and not sides["train"] & sides["val"]
    assert sides["train"] | sides["val"] < set(lines), "the gaps are on neither side"
    assert corpus.manifest["split"].startswith("blocks of documents, with a gap")


def test_max_bytes_stops_the_reading(texts: Path, tmp_path: Path) -> None:
    corpus = corpora.prepare(_config(texts, max_bytes=60_000), tmp_path / "out")
    size = corpus.manifest["train_bytes"] + corpus.manifest["val_bytes"]
    assert 60_000 <= size < 63_000


def test_parts_do_not_change_the_tokens(texts: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    whole = corpora.prepare(_config(texts), tmp_path / "whole")
    request.getfixturevalue("small_parts")
    parts = corpora.prepare(_config(texts), tmp_path / "parts")
    assert len(parts.manifest["shards"]) > 3
    for side in ("train", "val"):
        assert np.array_equal(np.asarray(getattr(parts, side)), np.asarray(getattr(whole, side)))


KILLED = """
import os, signal, sys
from steepest.lab import corpus as corpora
from steepest.lab.corpus import CorpusConfig, build, gather
gather.PIECE_BYTES, build.SHARD_BYTES, build.ENCODE_BYTES = 20_000, 30_000, 2_000
left = int(sys.argv[3])
def deadly(call):
    def wrapped(*args, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return wrapped
os.fsync, os.replace, os.rmdir = deadly(os.fsync), deadly(os.replace), deadly(os.rmdir)
corpora.prepare(CorpusConfig(sys.argv[1], tokenizer="bytes", validation=0.1), sys.argv[2])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system with SIGKILL")
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    texts: Path, tmp_path: Path, small_parts: None
) -> None:
    corpora.prepare(_config(texts), tmp_path / "calm")
    kills = 0
    for life in range(5, 200, 4):
        command = [sys.executable, "-c", KILLED, str(texts), str(tmp_path / "killed"), str(life)]
        status = subprocess.run(command, timeout=60, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
        if status == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
    assert status == 0 and kills >= 3
    assert _tree(tmp_path / "killed") == _tree(tmp_path / "calm")


def test_on_a_full_disk_one_line_is_told_and_the_same_command_goes_on(
    texts: Path, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = _tree(corpora.prepare(_config(texts), tmp_path / "calm").path.parent)
    original = os.fsync
    for room in range(0, 40, 3):
        left = room

        def full(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(descriptor)

        monkeypatch.setattr(files.os, "fsync", full)
        try:
            corpora.prepare(_config(texts), tmp_path / "full")
        except SteepestError as error:
            assert "No space left" in str(error) and "\n" not in str(error)
            assert not list((tmp_path / "full").rglob("*.tmp")), "partial files are removed"
        else:
            break
        finally:
            monkeypatch.setattr(files.os, "fsync", original)
    corpora.prepare(_config(texts), tmp_path / "full")
    assert room > 6 and _tree(tmp_path / "full") == calm


def test_processes_that_prepare_one_corpus_at_once_all_get_it(texts: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom steepest.lab import corpus\n"
        "config = corpus.CorpusConfig(sys.argv[1], tokenizer='bytes', validation=0.1)\n"
        "print(corpus.prepare(config, sys.argv[2]).identity)"
    )
    command = [sys.executable, "-c", code, str(texts), str(tmp_path / "out")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate(timeout=60)[0].strip() for process in running}
    assert said == {corpora.prepare(_config(texts), tmp_path / "alone").identity}
    corpora.verify(corpora.prepare(_config(texts), tmp_path / "out"))


def test_too_little_text_says_how_much_is_needed_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("hello " * 100)
    with pytest.raises(BadInput, match=r"too little text: .*small\.txt holds 600 bytes.*at least 32768"):
        corpora.prepare(_config(tmp_path / "small.txt"), tmp_path / "out")
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(BadInput, match=r"blank\.txt holds no text: every document is empty"):
        corpora.prepare(_config(tmp_path / "blank.txt"), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def _damage(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_damaged_file_is_named(texts: Path, tmp_path: Path) -> None:
    for number, (name, offset, words) in enumerate(
        [
            ("train-00000.npy", 200, "is damaged or of another corpus"),
            ("val-00000.npy", 200, "is damaged or of another corpus"),
            ("tokenizer.json", 3, "is missing, damaged or of another corpus"),
            ("manifest.json", 0, "is not the manifest of a corpus"),
        ]
    ):
        corpus = corpora.prepare(_config(texts), tmp_path / f"{number}")
        _damage(corpus.path / name, offset)
        with pytest.raises(CorruptFile, match=f"{name} {words}"):
            corpora.open(corpus.path)


def test_a_truncated_missing_or_foreign_shard_is_named(texts: Path, tmp_path: Path) -> None:
    corpus = corpora.prepare(_config(texts), tmp_path / "out")
    shard = corpus.path / "train-00000.npy"
    content = shard.read_bytes()
    other = corpora.prepare(_config(texts, seed=3), tmp_path / "out").path / "train-00000.npy"
    shard.write_bytes(content[:-1])
    with pytest.raises(CorruptFile, match=rf"{shard} is truncated \({len(content) - 1} of {len(content)} bytes\)"):
        corpora.open(corpus.path)
    foreign = other.read_bytes()
    shard.write_bytes((foreign + content)[: len(content)])
    with pytest.raises(CorruptFile, match=rf"{shard} is damaged or of another corpus"):
        corpora.open(corpus.path)
    shard.unlink()
    with pytest.raises(CorruptFile, match=rf"{shard} is missing"):
        corpora.prepare(_config(texts), tmp_path / "out")


def test_verify_finds_damage_beyond_what_opening_reads(texts: Path, tmp_path: Path) -> None:
    corpus = corpora.prepare(_config(texts), tmp_path / "out")
    _damage(corpus.path / "train-00000.npy", 80_000)
    reopened = corpora.open(corpus.path)
    with pytest.raises(CorruptFile, match=r"train-00000\.npy is damaged"):
        corpora.verify(reopened)


def test_an_edited_manifest_is_refused(texts: Path, tmp_path: Path) -> None:
    corpus = corpora.prepare(_config(texts), tmp_path / "out")
    manifest = json.loads((corpus.path / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (corpus.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptFile, match=r"manifest\.json was edited or damaged"):
        corpora.open(corpus.path)


def test_a_folder_without_a_corpus_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="run `steepest corpus`"):
        corpora.open(tmp_path)
