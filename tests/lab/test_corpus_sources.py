"""From a source's name to its documents."""

import json
from pathlib import Path

import pytest

from steepest.core.errors import BadInput, MissingExtra, UnknownName
from steepest.lab.corpus import CorpusConfig, sources


def _read(source: str | tuple[str, ...], **options: object) -> list[bytes | sources.Skipped]:
    config = CorpusConfig(source, **options)  # type: ignore[arg-type]
    return list(sources.documents(sources.resolve(config), config.text_field))


def test_the_default_is_the_standard_library_without_tests_and_installed_packages() -> None:
    found = sources.resolve(CorpusConfig())
    paths = [source.path for source in found if isinstance(source, sources.TextFile)]
    assert {"argparse.py", "typing.py"} <= {path.name for path in paths}
    assert not [path for path in paths if {"site-packages", "test", "tests"} & set(path.parts[-4:-1])]
    assert sum(path.stat().st_size for path in paths) > 5_000_000


def test_a_folder_gives_its_files_in_order_of_name_and_skips_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", ".git/x.txt", "c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert _read(str(tmp_path)) == [b"a/z.txt", b"b.txt", b"c.md"]
    assert _read(str(tmp_path), pattern="*.txt") == [b"b.txt"]
    assert _read(f"{tmp_path}/**/*.txt") == [b"a/z.txt", b"b.txt"]


def test_several_sources_are_read_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("one")
    (tmp_path / "2.txt").write_text("two")
    assert _read((f"{tmp_path}/2.txt", f"{tmp_path}/1.txt")) == [b"two", b"one"]


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert _read(f"{tmp_path}/x.txt") == [b"hello"]


def test_a_binary_file_is_refused_when_named_and_skipped_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"ab\0cd")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadInput, match=r"a\.bin is not text: a NUL byte at offset 2"):
        _read(f"{tmp_path}/a.bin")
    with pytest.raises(BadInput, match=r"b\.txt is not text: not UTF-8 at offset 3"):
        _read(f"{tmp_path}/b.txt")
    skipped = [sources.Skipped("a.bin: a NUL byte at offset 2"), sources.Skipped("b.txt: not UTF-8 at offset 3")]
    assert _read(str(tmp_path)) == skipped


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nowhere.txt", BadInput, "no such file or folder: 'nowhere.txt'"),
        ("stdlb", UnknownName, "did you mean 'stdlib'"),
        ("empty.txt", BadInput, "empty.txt is empty"),
        ("hollow", BadInput, r"folder hollow holds no file that matches"),
        ("*.md", BadInput, r"no file matches '\*\.md'"),
        ("hf:", BadInput, "is not of the form hf:NAME"),
    ],
)
def test_a_source_that_is_not_there_is_named(
    name: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "hollow").mkdir()
    with pytest.raises(error, match=words) as caught:
        sources.resolve(CorpusConfig(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"validation": 0.0}, {"validation": float("nan")}, {"seed": -1}, {"max_bytes": 0}, {"source": ()}]
)
def test_a_request_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        CorpusConfig(**wrong)  # type: ignore[arg-type]


def test_a_hub_name_holds_revision_subset_and_split() -> None:
    assert sources.resolve(CorpusConfig("hf:org/set@abc:sample:validation")) == [
        sources.HubRows("org/set", "abc", "sample", "validation")
    ]
    assert sources.resolve(CorpusConfig("hf:org/set")) == [sources.HubRows("org/set", None, None, "train")]


def _rows_file(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    pyarrow = pytest.importorskip("pyarrow", reason="needs datasets: pip install 'steepest[lab]'")
    table = pyarrow.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        from pyarrow import parquet

        parquet.write_table(table, path)
    else:
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_every_row_is_a_document(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs datasets: pip install 'steepest[lab]'")
    rows: list[dict[str, object]] = [{"body": "é one", "n": 1}, {"body": None, "n": 2}, {"body": "a\0b", "n": 3}]
    path = _rows_file(tmp_path / f"rows{suffix}", rows)
    expected = ["é one".encode(), b"", sources.Skipped("row 3: a NUL byte at offset 1")]
    assert _read(str(path), text_field="body") == expected
    (tmp_path / "README.md").write_text("about the rows")
    assert _read(str(tmp_path), text_field="body") == expected, "a folder with rows is its rows"
    with pytest.raises(BadInput, match=r"has no field 'text' \(it has: body, n\)"):
        _read(str(path))
    with pytest.raises(BadInput, match="field 'n' is int, not text"):
        _read(str(path), text_field="n")


def test_a_broken_row_file_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets", reason="needs datasets: pip install 'steepest[lab]'")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n{broken\n')
    with pytest.raises(BadInput, match=r"cannot read .*rows\.jsonl.*; mend or leave out this file"):
        _read(str(path))
    assert capfd.readouterr() == ("", "")


def test_rows_without_datasets_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    path = _rows_file(tmp_path / "rows.jsonl", [{"text": "x"}])
    with pytest.raises(MissingExtra, match=r"pip install 'steepest\[lab\]'"):
        _read(str(path))
