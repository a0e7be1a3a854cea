"""`steepest corpus`."""

import json
from pathlib import Path

import pytest

from steepest.cli import main


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {number} of a text\n" for number in range(4000)))
    return path


def _said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["corpus", *words])
    return status, *capsys.readouterr()


def test_the_summary_shows_documents_tokens_bytes_per_token_and_passes(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    status, said, errors = _said(capsys, str(text), "--tokenizer", "bytes", "--out", out, "--verify")
    assert status == 0 and errors == ""
    for words in ("1 train, 1 validation", "vocabulary 256", "bytes/token", "per million", "each hashed"):
        assert words in said


def test_json_is_the_manifest_and_its_folder_can_be_inspected(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(text), "--tokenizer", "bytes", "--out", str(tmp_path / "out"), "--json")
    _, said, _ = _said(capsys, *words)
    first = json.loads(said)
    assert first["train_tokens"] > first["val_tokens"] > 0
    assert first["passes_per_million_tokens"] == 1e6 / first["train_tokens"]
    _, said, _ = _said(capsys, first["path"], "--json")
    assert json.loads(said) == first


@pytest.mark.parametrize(
    "wrong",
    [
        ["nowhere.txt"],
        ["stdlb"],
        ["TEXT", "--tokenizer", "bite"],
        ["TEXT", "--max-bytes", "12XB"],
        ["TEXT", "--max-bytes", "1e999"],
        ["TEXT", "--validation", "0.9"],
        ["TEXT", "--max-bytes", "1KB", "--tokenizer", "bytes", "--validation", "nan"],
    ],
)
def test_bad_input_is_one_line_and_status_2(
    wrong: list[str], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(text) if word == "TEXT" else word for word in wrong]
    status, said, errors = _said(capsys, *words, "--out", str(tmp_path / "out"))
    assert status == 2 and said == ""
    assert errors.startswith("steepest: ") and errors.count("\n") == 1


def test_a_size_may_have_a_unit(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"{number}\n" + text.read_text()[:5000])
    words = (
        str(folder),
        "--tokenizer",
        "bytes",
        "--out",
        str(tmp_path / "out"),
        "--max-bytes",
        "0.05MB",
        "--json",
    )
    manifest = json.loads(_said(capsys, *words)[1])
    assert manifest["documents"] == 10
