"""From a source's name to its documents: a file or a row is a document, and a document is UTF-8 bytes."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steepest.core.errors import BadInput, MissingExtra, UnknownName
from steepest.lab.corpus.config import CorpusConfig

ROW_FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".jsonl.gz": "json",
    ".jsonl.zst": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}

# Tests are three quarters as long as the library and mostly repetition; build records hold a machine's paths.
_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass(frozen=True)
class Skipped:
    """A place in a source that gave no document, and why; counted and listed in the manifest."""

    reason: str


@dataclass(frozen=True)
class TextFile:
    """A file that is one document. What the user named must be text; what a folder holds may be skipped."""

    path: Path
    named: bool

    def fingerprint(self) -> str:
        return _file_hash(self.path)

    def documents(self, text_field: str) -> Iterator[bytes | Skipped]:
        content = _reading(self.path, self.path.read_bytes).removeprefix(b"\xef\xbb\xbf")
        fault = _not_text(content)
        if fault and self.named:
            raise BadInput(f"{self.path} is not text: {fault}; give UTF-8 text, JSONL, Parquet or Arrow")
        yield Skipped(f"{self.path.name}: {fault}") if fault else content


@dataclass(frozen=True)
class RowFile:
    """A JSONL, Parquet or Arrow file: every row is a document."""

    path: Path
    format: str

    def fingerprint(self) -> str:
        return f"{self.format}:{_file_hash(self.path)}"

    def documents(self, text_field: str) -> Iterator[bytes | Skipped]:
        return _rows(str(self.path), text_field, self.format, data_files=str(self.path), split="train")


@dataclass(frozen=True)
class HubRows:
    """A data set of the Hugging Face Hub, read as a stream: every row is a document."""

    name: str
    revision: str | None
    subset: str | None
    split: str

    def fingerprint(self) -> str:
        # A stream's content is not known before it is read; a revision pins it.
        return f"hf:{self.name}@{self.revision or ''}:{self.subset or ''}:{self.split}"

    def documents(self, text_field: str) -> Iterator[bytes | Skipped]:
        what = f"hf:{self.name}"
        return _rows(what, text_field, self.name, self.subset, split=self.split, revision=self.revision)


Source = TextFile | RowFile | HubRows


def resolve(config: CorpusConfig) -> list[Source]:
    """The files and data sets that ``config.source`` names, in an order that depends on names only.

    Raises BadInput for a path that does not exist and for a folder or glob that holds nothing.
    """
    return [found for name in config.sources for found in _resolve_one(name, config.pattern)]


def describe(config: CorpusConfig) -> str:
    """The sources in words, for tables and pages."""
    words = {"stdlib": f"standard library of Python {platform.python_version()}, source text"}
    return ", ".join(words.get(name, name) for name in config.sources)


def documents(sources: list[Source], text_field: str) -> Iterator[bytes | Skipped]:
    """Every document of every source, in order; the same sources give the same sequence."""
    for source in sources:
        yield from source.documents(text_field)


def _resolve_one(name: str, pattern: str) -> list[Source]:
    if name == "stdlib":
        return [TextFile(path, named=False) for path in _standard_library()]
    if name.startswith("hf:"):
        return [_hub(name)]
    path = Path(name).expanduser()
    if path.is_dir():
        files = [p for p in sorted(path.glob(pattern)) if p.is_file() and not _hidden(p.relative_to(path))]
        if not files:
            raise BadInput(f"folder {name} holds no file that matches {pattern!r}: name another folder or pattern")
        found = [_file(p, named=False) for p in files]
        return [source for source in found if isinstance(source, RowFile)] or found
    if path.exists():
        if not path.is_file():
            raise BadInput(f"{name} is neither a file nor a folder: give one of these")
        if path.stat().st_size == 0:
            raise BadInput(f"{name} is empty: give a file that holds text")
        return [_file(path, named=True)]
    if glob.has_magic(name):
        files = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]
        if not files:
            raise BadInput(f"no file matches {name!r}: check the pattern, or name a file or a folder")
        return [_file(p, named=False) for p in files]
    if os.sep not in name and "." not in name:
        raise UnknownName.among("corpus", name, ["stdlib"], "(or a file, a folder, a glob, hf:NAME)")
    raise BadInput(f"no such file or folder: {name!r}; give a file, a folder, a glob, hf:NAME or stdlib")


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [b for b in below if b not in _NOT_LIBRARY and not b.startswith("config-")]
        found += [Path(folder, n) for n in names if n.endswith(".py") and not n.startswith("_sysconfigdata")]
    if not found:
        raise BadInput(f"this Python has no library source text under {root}: name a file or a folder instead")
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def _hub(name: str) -> HubRows:
    parts = name.removeprefix("hf:").split(":")
    if not parts[0] or len(parts) > 3:
        raise BadInput(f"corpus {name!r} is not of the form hf:NAME[@REVISION][:SUBSET[:SPLIT]]")
    repository, _, revision = parts[0].partition("@")
    subset = parts[1] if len(parts) > 1 and parts[1] else None
    return HubRows(repository, revision or None, subset, parts[2] if len(parts) > 2 else "train")


def _file(path: Path, named: bool) -> Source:
    name = path.name.lower()
    for suffix, format in ROW_FORMATS.items():
        if name.endswith(suffix):
            return RowFile(path, format)
    return TextFile(path, named)


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in relative.parts)


def _not_text(content: bytes) -> str | None:
    """Why ``content`` is no document, or None. NUL is kept free: it ends the byte tokenizer's documents."""
    zero = content.find(b"\0")
    if zero >= 0:
        return f"a NUL byte at offset {zero}"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at offset {error.start}"
    return None


def _reading(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def _file_hash(path: Path) -> str:
    def digest() -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return _reading(path, digest)


def _rows(what: str, text_field: str, *place: str | None, **options: Any) -> Iterator[bytes | Skipped]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra.of(f"reading {what}", "datasets") from error
    row = -1
    try:
        with _quiet("datasets", "huggingface_hub"):
            for row, values in enumerate(datasets.load_dataset(*place, streaming=True, **options)):
                yield _row_text(what, row, values, text_field)
    except (BadInput, GeneratorExit):
        raise
    except Exception as error:  # readers of formats raise what they like; one line must come of it
        cause = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        place_read = f" after row {row + 1}" if row >= 0 else ""
        step = "check the name and the network" if what.startswith("hf:") else "mend or leave out this file"
        raise BadInput(f"cannot read {what}{place_read}: {cause}; {step}") from error


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Keep libraries from logging what is about to be raised and told in one line."""
    before = [logging.getLogger(name).level for name in loggers]
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in zip(loggers, before, strict=True):
            logging.getLogger(name).setLevel(level)


def _row_text(what: str, row: int, values: dict[str, Any], text_field: str) -> bytes | Skipped:
    if text_field not in values:
        fields = ", ".join(sorted(map(str, values)))
        raise BadInput(f"{what} has no field {text_field!r} (it has: {fields}): name the one that holds the text")
    text = values[text_field]
    if text is None:
        return b""
    if not isinstance(text, str):
        kind = type(text).__name__
        raise BadInput(f"{what}, row {row + 1}: field {text_field!r} is {kind}, not text: name another field")
    content = text.encode("utf-8", errors="replace")
    fault = _not_text(content)
    return Skipped(f"row {row + 1}: {fault}") if fault else content
