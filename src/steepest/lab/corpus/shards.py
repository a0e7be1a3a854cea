"""Token files and their manifest: what a prepared corpus is on disk, and how it is read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steepest.core.errors import BadInput, CorruptFile
from steepest.lab.corpus import tokenizer as tokenizers

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
HEAD_BYTES = 1 << 16
_CHUNK = 1 << 22


class Tokens:
    """The tokens of one side: a read-only sequence over memory-mapped shards.

    ``len(tokens)``, ``tokens[a:b]`` and ``numpy.asarray(tokens)`` work as on one long array.
    """

    def __init__(self, shards: list[npt.NDArray[Any]]) -> None:
        self.shards = shards
        self.ends = np.cumsum([len(shard) for shard in shards])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type: the smallest unsigned one that holds the vocabulary."""
        return self.shards[0].dtype

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return np.asarray(self)[key]
            return self._copy(start, np.empty(max(stop - start, 0), self.dtype))
        index = range(len(self))[key]
        return self._copy(index, np.empty(1, self.dtype))[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        whole = self.shards[0] if len(self.shards) == 1 and not copy else np.concatenate(self.shards)
        return np.asarray(whole, dtype)

    def windows(self, starts: Iterable[int], length: int) -> npt.NDArray[np.int64]:
        """Tokens ``start : start + length`` for every start: int64[n, length]."""
        starts = list(starts)
        out = np.empty((len(starts), length), np.int64)
        for row, start in zip(out, starts, strict=True):
            self._copy(start, row)
        return out

    def _copy(self, start: int, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Fill ``out`` from position ``start`` on, across shard borders."""
        number = int(np.searchsorted(self.ends, start, side="right"))
        filled = 0
        while filled < len(out):
            shard = self.shards[number]
            offset = start + filled - (int(self.ends[number]) - len(shard))
            part = shard[offset : offset + len(out) - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            number += 1
        return out


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus. ``manifest["identity"]`` is the hash of its tokens, split and tokenizer."""

    path: Path
    manifest: dict[str, Any]
    train: Tokens
    val: Tokens

    @property
    def identity(self) -> str:
        """sha256 of what determines the numbers: the tokens of both sides and the tokenizer."""
        return str(self.manifest["identity"])

    @property
    def vocab_size(self) -> int:
        """How many rows an embedding needs."""
        return int(self.manifest["vocab_size"])

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer, read when it is first asked for: training needs none."""
        return tokenizers.load(self.path / TOKENIZER)

    def bytes_per_token(self, split: str = "val") -> float:
        """Bytes of text per token of ``split`` ("train" or "val"): bits/byte = nats/token / ln 2 / this."""
        return float(self.manifest[f"{split}_bytes"]) / float(self.manifest[f"{split}_tokens"])

    def encode(self, text: str) -> list[int]:
        """Token numbers of ``text``, without a separator."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token numbers; separators and broken characters do not raise."""
        return self.tokenizer.decode([int(i) for i in ids])


def shard_bytes(tokens: npt.NDArray[Any]) -> bytes:
    """The content of a shard file: numpy's .npy, so that anything reads it."""
    buffer = io.BytesIO()
    np.save(buffer, tokens, allow_pickle=False)
    return buffer.getvalue()


def shard_entry(name: str, split: str, tokens: int, text_bytes: int, content: bytes) -> dict[str, Any]:
    """The manifest's line for a shard."""
    return {
        "file": name,
        "split": split,
        "tokens": tokens,
        "text_bytes": text_bytes,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "head_sha256": hashlib.sha256(content[:HEAD_BYTES]).hexdigest(),
    }


def identity(shards: list[dict[str, Any]], tokenizer_sha256: str) -> str:
    """The corpus identity: sha256 over every shard's hash and side, in order, and the tokenizer's."""
    parts = [[shard["split"], shard["sha256"]] for shard in shards]
    return hashlib.sha256(json.dumps([FORMAT, tokenizer_sha256, parts]).encode()).hexdigest()


def is_corpus(path: str | Path) -> bool:
    """Whether ``path`` is a prepared corpus; a manifest.json alone may be anybody's."""
    manifest = Path(path) / MANIFEST
    return manifest.is_file() and b'"tokenizer_sha256"' in manifest.read_bytes()


def open_corpus(path: str | Path) -> Corpus:
    """Open a prepared corpus and check what can be checked at once: sizes, heads, tokenizer, manifest.

    Raises BadInput when there is none at ``path`` and CorruptFile, naming the file, when one is damaged,
    truncated or belongs to another corpus. :func:`verify` also reads every shard whole.
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise BadInput(f"{folder} holds no prepared corpus (no {MANIFEST}): run `steepest corpus` to make one")
    manifest = _read_manifest(folder)
    tokenizer = folder / TOKENIZER
    if not tokenizer.is_file() or _file_sha256(tokenizer) != manifest["tokenizer_sha256"]:
        raise CorruptFile(f"{tokenizer} is missing, damaged or of another corpus: {_remedy(folder)}")
    for entry in manifest["shards"]:
        _check_shard(folder, entry)
    sides = {}
    for split in ("train", "val"):
        names = [entry["file"] for entry in manifest["shards"] if entry["split"] == split]
        sides[split] = Tokens([np.load(folder / name, mmap_mode="r") for name in names])
    return Corpus(folder, manifest, sides["train"], sides["val"])


def verify(corpus: Corpus, progress: Callable[[str, int, int], None] | None = None) -> None:
    """Hash every shard whole and compare. Raises CorruptFile that names the first one that differs."""
    total = sum(entry["bytes"] for entry in corpus.manifest["shards"])
    done = 0
    for entry in corpus.manifest["shards"]:
        path = corpus.path / entry["file"]
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                if progress:
                    progress("verify", done, total)
        if digest.hexdigest() != entry["sha256"]:
            raise CorruptFile(
                f"shard {path} is damaged (sha256 differs from the manifest): {_remedy(corpus.path)}"
            )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        format = manifest["format"]
        whole = format != FORMAT or manifest["identity"] == identity(
            manifest["shards"], manifest["tokenizer_sha256"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"{path} is not the manifest of a corpus: {_remedy(folder)}") from error
    if format != FORMAT:
        raise CorruptFile(f"{path} has format {format!r}, this version reads {FORMAT}: {_remedy(folder)}")
    if not whole:
        raise CorruptFile(f"{path} was edited or damaged (its identity does not match): {_remedy(folder)}")
    return manifest


def _check_shard(folder: Path, entry: dict[str, Any]) -> None:
    path = folder / entry["file"]
    if not path.is_file():
        raise CorruptFile(f"shard {path} is missing: {_remedy(folder)}")
    size = path.stat().st_size
    if size != entry["bytes"]:
        fault = "truncated" if size < entry["bytes"] else "too long or of another corpus"
        raise CorruptFile(f"shard {path} is {fault} ({size} of {entry['bytes']} bytes): {_remedy(folder)}")
    with open(path, "rb") as file:
        head = hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()
    if head != entry["head_sha256"]:
        raise CorruptFile(f"shard {path} is damaged or of another corpus: {_remedy(folder)}")


def _file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remedy(folder: Path) -> str:
    return f"remove {folder} and run the command that made it again"
