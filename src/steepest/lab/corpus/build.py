"""From a request to a prepared corpus: gather, split, tokenize, write; a killed stage is gone on with."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steepest.core.errors import BadInput
from steepest.lab.corpus import sources, split
from steepest.lab.corpus import tokenizer as tokenizers
from steepest.lab.corpus.config import CorpusConfig
from steepest.lab.corpus.gather import Gathered, Progress, gather
from steepest.lab.corpus.shards import (
    FORMAT,
    MANIFEST,
    TOKENIZER,
    Corpus,
    identity,
    is_corpus,
    open_corpus,
    shard_bytes,
    shard_entry,
)
from steepest.lab.files import locked, make_folder, replace

FEWEST_BYTES = 32 << 10
SHARD_BYTES = 32 << 20  # of text; what a kill can cost at most
ENCODE_BYTES = 1 << 20  # the longest text handed to a tokenizer at once: its memory is many times the text's
BPE_TRAINING_BYTES = 64 << 20


def prepare(config: CorpusConfig, root: str | Path, progress: Progress | None = None) -> Corpus:
    """Build the token shards of ``config`` under ``root``, or open them when they stand.

    The folder's name is the hash of the request: the sources' content, the tokenizer, seed and validation
    share. It may be killed at any moment; the same call goes on and ends with the same bytes. Two processes
    may prepare the same corpus at once: the second waits and opens what the first made. A source that is
    itself a prepared corpus is opened.

    Raises BadInput, UnknownName, MissingExtra, CorruptFile, each in one line.
    """
    if ready := [name for name in config.sources if is_corpus(name)]:
        if len(config.sources) > 1:
            raise BadInput(f"{ready[0]} is a prepared corpus and cannot be mixed: give it alone, or its texts")
        return open_corpus(ready[0])
    tokenizers.check(config.tokenizer)
    found = sources.resolve(config)
    request = _request(config, found)
    folder = Path(root) / request[:16]
    building = folder / "building"  # its presence beside a manifest: killed while tidying up
    if building.exists() or not (folder / MANIFEST).exists():
        with locked(make_folder(folder)):
            if not (folder / MANIFEST).exists():
                try:
                    _build(config, found, request, folder, progress or (lambda stage, done, total: None))
                except BadInput:
                    _tidy(folder, found)
                    raise
            shutil.rmtree(building, ignore_errors=True)
    return open_corpus(folder)


def _request(config: CorpusConfig, found: list[sources.Source]) -> str:
    """Hash of all that determines the result, by content: renamed or touched files are the same corpus."""
    parts = {
        "format": FORMAT,
        "sources": [source.fingerprint() for source in found],
        "tokenizer": tokenizers.identity(config.tokenizer),
        "validation": config.validation,
        "seed": config.seed,
        "text_field": config.text_field,
        "max_bytes": config.max_bytes,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _build(
    config: CorpusConfig, found: list[sources.Source], request: str, folder: Path, progress: Progress
) -> None:
    building = make_folder(folder / "building")
    text = gather(config, found, building, progress)
    size = int(text.lengths.sum())
    if size < FEWEST_BYTES:
        raise BadInput(
            f"too little text: {sources.describe(config)} holds {size} bytes without duplicates, "
            f"at least {FEWEST_BYTES} are needed; add text"
        )
    sides, how = _sides(config, text)
    tokenizer = _tokenizer(config, text, sides["train"], folder / TOKENIZER, progress)
    shards = _write_shards(text, sides, tokenizer, folder, building, progress)
    manifest = _manifest(config, request, text, sides, how, tokenizer, shards)
    replace(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def _tidy(folder: Path, found: list[sources.Source]) -> None:
    """Leave nothing of a request that cannot be met, except what was read of a stream: that was costly."""
    if not any(isinstance(source, sources.HubRows) for source in found):
        shutil.rmtree(folder, ignore_errors=True)


def _sides(config: CorpusConfig, text: Gathered) -> tuple[dict[str, list[split.Piece]], str]:
    lengths = text.lengths
    if len(lengths) < split.FEWEST_DOCUMENTS:
        train, val = split.by_block(lengths.tolist(), text.text, config.validation, config.seed)
        how = "blocks of documents, with a gap around every validation block"
    else:
        held_out = split.by_document(lengths, config.validation)
        whole = [split.Piece(number, 0, int(length)) for number, length in enumerate(lengths.tolist())]
        train = [piece for piece, out in zip(whole, held_out, strict=True) if not out]
        val = [piece for piece, out in zip(whole, held_out, strict=True) if out]
        how = "whole documents"
    return {"train": train, "val": val}, f"{how}; exact duplicates removed first"


def _tokenizer(
    config: CorpusConfig, text: Gathered, train: list[split.Piece], path: Path, progress: Progress
) -> tokenizers.Tokenizer:
    if path.exists():
        return tokenizers.load(path)
    sample = _bpe_sample(train)
    total = _size(sample)

    def texts() -> Iterator[str]:
        done = 0
        for chunk in _chunks(text, sample):
            done += len(chunk)
            progress("tokenizer", done, total)
            yield chunk.decode()

    tokenizer = tokenizers.make(config.tokenizer, texts())
    replace(path, tokenizer.serialized())
    return tokenizer


def _bpe_sample(train: list[split.Piece]) -> list[split.Piece]:
    """The first pieces up to BPE_TRAINING_BYTES; their order is shuffled, so they are a fair sample."""
    ends = itertools.accumulate(piece.stop - piece.start for piece in train)
    return [piece for piece, end in zip(train, ends, strict=True) if end - _size([piece]) < BPE_TRAINING_BYTES]


def _size(pieces: Iterable[split.Piece]) -> int:
    """Bytes of text."""
    return sum(piece.stop - piece.start for piece in pieces)


def _write_shards(
    text: Gathered,
    sides: dict[str, list[split.Piece]],
    tokenizer: tokenizers.Tokenizer,
    folder: Path,
    building: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    total = _size(piece for pieces in sides.values() for piece in pieces)
    done = 0
    shards = []
    for side, pieces in sides.items():
        for number, group in enumerate(_groups(pieces)):
            name = f"{side}-{number:05}.npy"
            note = building / f"{name}.json"
            if note.exists():  # written after its shard, so the shard is whole
                entry = json.loads(note.read_bytes())
            else:
                tokens = _encode(
                    text, group, tokenizer, lambda size, start=done: progress("encode", start + size, total)
                )
                content = shard_bytes(tokens)
                text_bytes = _size(group)
                entry = shard_entry(name, side, len(tokens), text_bytes, content)
                replace(folder / name, content)
                replace(note, json.dumps(entry).encode())
            shards.append(entry)
            done += entry["text_bytes"]
            progress("encode", done, total)
    return shards


def _groups(pieces: list[split.Piece]) -> Iterator[list[split.Piece]]:
    """Pieces in runs of about SHARD_BYTES: the cut depends on lengths alone, so a resumed run cuts alike."""
    group: list[split.Piece] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += piece.stop - piece.start
        if size >= SHARD_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _encode(
    text: Gathered, pieces: list[split.Piece], tokenizer: tokenizers.Tokenizer, progress: Any
) -> npt.NDArray[Any]:
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    ending = [] if tokenizer.separator is None else [np.array([tokenizer.separator], dtype)]
    out: list[npt.NDArray[Any]] = []
    done = 0
    for batch in _batches(text, pieces):
        encoded = tokenizer.encode_many([chunk.decode() for chunk, _ in batch])
        for ids, (chunk, last) in zip(encoded, batch, strict=True):
            out.append(ids.astype(dtype))
            out += ending if last else []
            done += len(chunk)
        progress(done)
    return np.concatenate(out)


def _batches(text: Gathered, pieces: list[split.Piece]) -> Iterator[list[tuple[bytes, bool]]]:
    """Chunks in batches of about ENCODE_BYTES, each with whether it ends its piece."""
    batch: list[tuple[bytes, bool]] = []
    size = 0
    for piece in pieces:
        chunks = list(_chunks(text, [piece]))
        for number, chunk in enumerate(chunks, 1):
            batch.append((chunk, number == len(chunks)))
            size += len(chunk)
            if size >= ENCODE_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _chunks(text: Gathered, pieces: Iterable[split.Piece]) -> Iterator[bytes]:
    """The text of the pieces, in parts of at most about ENCODE_BYTES that end at a line or a character."""
    for piece in pieces:
        content = text.text(piece.document)[piece.start : piece.stop]
        start = 0
        while start < len(content):
            stop = len(content)
            if stop - start > ENCODE_BYTES:
                stop = split.line_end(content, start + ENCODE_BYTES)
            yield bytes(content[start:stop])
            start = stop


def _manifest(
    config: CorpusConfig,
    request: str,
    text: Gathered,
    sides: dict[str, list[split.Piece]],
    how: str,
    tokenizer: tokenizers.Tokenizer,
    shards: list[dict[str, Any]],
) -> dict[str, Any]:
    """Everything about a corpus except when and where it was made: the same request gives the same file."""
    tokenizer_sha256 = tokenizers.sha256(tokenizer)

    def total(side: str, field: str) -> int:
        return sum(entry[field] for entry in shards if entry["split"] == side)

    return {
        "format": FORMAT,
        "identity": identity(shards, tokenizer_sha256),
        "request": request,
        "source": sources.describe(config),
        "config": asdict(config),
        "documents": len(text.lengths),
        "train_documents": len({piece.document for piece in sides["train"]}),
        "val_documents": len({piece.document for piece in sides["val"]}),
        "split": how,
        "read": text.read,
        "duplicates": text.duplicates,
        "empty": text.empty,
        "skipped": text.skipped,
        "skips": text.skips,
        "tokenizer": config.tokenizer,
        "tokenizer_sha256": tokenizer_sha256,
        "bpe_training_bytes": _size(_bpe_sample(sides["train"])) if config.tokenizer.startswith("bpe:") else 0,
        "vocab_size": tokenizer.vocab_size,
        "separator": tokenizer.separator,
        "dtype": str(np.min_scalar_type(tokenizer.vocab_size - 1)),
        "train_tokens": total("train", "tokens"),
        "val_tokens": total("val", "tokens"),
        "train_bytes": total("train", "text_bytes"),
        "val_bytes": total("val", "text_bytes"),
        "lossless": _lossless(text, sides["val"], tokenizer),
        "shards": shards,
    }


def _lossless(text: Gathered, pieces: list[split.Piece], tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether validation text comes back from its tokens; where it does not, bits/byte flatters the model."""
    chunk = next(_chunks(text, pieces)).decode()
    return tokenizer.decode(tokenizer.encode(chunk)).strip() == chunk.strip()
