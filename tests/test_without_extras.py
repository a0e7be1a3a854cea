"""Where only torch and numpy are installed: what works, and what the rest says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXTRAS = [
    "datasets",
    "jinja2",
    "pandas",
    "rich",
    "scipy",
    "tensorboard",
    "tokenizers",
    "wandb",
]
BYTES = ["--tokenizer", "bytes"]
SMALL = ["--model", "20k", "--batch", "4", "--seq", "32", "--tokens", "1000"]


def steepest(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter to which the extras are not installed."""
    code = (
        f"import sys; sys.modules |= dict.fromkeys({EXTRAS})\n"
        "from steepest.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("".join(f"{n} squared is {n * n}.\n\n" for n in range(3000)))
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [["list"], ["show", "soap"], ["info"], ["memory", "--model", "20k", "--optimizer", "muon"], ["--version"]],
    ids=" ".join,
)
def test_what_the_library_has_is_shown(folder: Path, words: list[str]) -> None:
    ended = steepest(folder, *words)
    assert ended.returncode == 0 and ended.stdout, ended.stderr


def test_a_model_is_trained_on_bytes_and_speaks(folder: Path) -> None:
    ended = steepest(folder, "train", "--corpus", "text.txt", *BYTES, *SMALL, "--sample", "5")
    assert ended.returncode == 0 and "nats/token" in ended.stdout, ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["corpus", "text.txt"],  # a BPE is trained
        ["corpus", "rows.jsonl", *BYTES],
        ["train", "--corpus", "text.txt", *BYTES, *SMALL, "--mirror", "tensorboard"],
    ],
    ids=["bpe", "jsonl", "tensorboard"],
)
def test_what_is_missing_is_answered_with_its_install_line(folder: Path, words: list[str]) -> None:
    (folder / "rows.jsonl").write_text('{"text": "x"}\n')
    ended = steepest(folder, *words)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1 and "pip install 'steepest[" in ended.stderr
