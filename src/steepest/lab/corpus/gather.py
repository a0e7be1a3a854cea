"""Stage one: read the sources once, into pieces on disk that later stages can address at random.

Sources may be streams that cannot be read twice, and the order of training needs every document's hash
first; so the text is copied, piece by piece, and goes when the shards stand. A killed gather goes on after
its last whole piece.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steepest.core.errors import BadInput
from steepest.lab.corpus import sources
from steepest.lab.corpus.config import CorpusConfig
from steepest.lab.files import replace

PIECE_BYTES = 64 << 20
SKIPS_LISTED = 20

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)`` in bytes of text; total 0 when it is not known."""


@dataclass(frozen=True)
class Gathered:
    """The distinct documents of a corpus in shuffled order: by a hash of seed and content.

    Equal documents have equal hashes, so each is here once, and its place depends neither on file names nor
    on the order in which a folder lists them.
    """

    texts: list[npt.NDArray[np.uint8]]
    index: npt.NDArray[np.uint64]  # [n, 3]: piece, offset, length
    read: int
    duplicates: int
    empty: int
    skipped: int
    skips: list[str]

    @property
    def lengths(self) -> npt.NDArray[np.uint64]:
        """Bytes of every document."""
        return self.index[:, 2]

    def text(self, document: int) -> memoryview:
        """The UTF-8 bytes of a document."""
        piece, offset, length = self.index[document].tolist()
        return memoryview(self.texts[piece])[offset : offset + length]


def gather(config: CorpusConfig, found: list[sources.Source], folder: Path, progress: Progress) -> Gathered:
    """Copy every document of ``found`` into pieces under ``folder``, or go on where a killed run stopped."""
    counts = _finished_pieces(folder)
    consumed = sum(piece["consumed"] for piece in counts)
    done = sum(piece["bytes"] for piece in counts)
    complete = bool(counts) and counts[-1]["complete"]
    stream = sources.documents(found, config.text_field)
    if not complete:
        stream = itertools.islice(stream, consumed, None)
    while not complete:
        room = None if config.max_bytes is None else config.max_bytes - done

        def told(size: int, start: int = done) -> None:
            progress("read", start + size, 0)

        piece = _read_piece(stream, room, str(config.seed), told)
        complete = piece["complete"]
        _write_piece(folder, len(counts), piece)
        counts.append(piece)
        done += piece["bytes"]
    return _load(folder, counts, done, config)


def _read_piece(stream: Any, room: int | None, seed: str, progress: Callable[[int], None]) -> dict[str, Any]:
    texts: list[bytes] = []
    rows: list[tuple[int, int, int, int]] = []
    skips: list[str] = []
    size = consumed = empty = skipped = 0
    complete = False
    key = hashlib.sha256(seed.encode()).digest()
    while size < PIECE_BYTES:
        if room is not None and size >= room:
            complete = True
            break
        document = next(stream, None)
        if document is None:
            complete = True
            break
        consumed += 1
        if isinstance(document, sources.Skipped):
            skipped += 1
            skips = [*skips, document.reason][:SKIPS_LISTED]
        elif not document.strip():
            empty += 1
        else:
            digest = hashlib.blake2b(document, digest_size=16, key=key).digest()
            rows.append((int.from_bytes(digest[:8]), int.from_bytes(digest[8:]), size, len(document)))
            texts.append(document)
            size += len(document)
            progress(size)
    counts = {"bytes": size, "consumed": consumed, "empty": empty, "skipped": skipped, "skips": skips}
    return {**counts, "complete": complete, "texts": texts, "rows": np.array(rows, np.uint64).reshape(-1, 4)}


def _write_piece(folder: Path, number: int, piece: dict[str, Any]) -> None:
    """The counts go last: a piece without them was cut off by a kill and is read again."""
    rows = io.BytesIO()
    np.save(rows, piece.pop("rows"))
    replace(folder / f"text-{number:05}", b"".join(piece.pop("texts")))
    replace(folder / f"text-{number:05}.npy", rows.getvalue())
    replace(folder / f"text-{number:05}.json", json.dumps(piece).encode())


def _finished_pieces(folder: Path) -> list[dict[str, Any]]:
    pieces: list[dict[str, Any]] = []
    while (path := folder / f"text-{len(pieces):05}.json").exists():
        piece = json.loads(path.read_bytes())
        if path.with_suffix("").stat().st_size != piece["bytes"]:
            break
        pieces.append(piece)
    return pieces


def _load(folder: Path, counts: list[dict[str, Any]], total: int, config: CorpusConfig) -> Gathered:
    if total == 0:
        raise BadInput(f"{sources.describe(config)} holds no text: {_why_empty(counts)}")
    texts: list[npt.NDArray[np.uint8]] = []
    indices = []
    for number, piece in enumerate(counts):
        path = folder / f"text-{number:05}"
        texts.append(np.memmap(path, np.uint8, mode="r") if piece["bytes"] else np.zeros(0, np.uint8))
        rows = np.load(path.with_suffix(".npy"))
        indices.append(np.column_stack([rows[:, :2], np.full(len(rows), number, np.uint64), rows[:, 2:]]))
    index = np.concatenate(indices)
    order = np.lexsort((index[:, 1], index[:, 0]))  # stable: of equal documents the first read comes first
    index = index[order]
    repeated = np.zeros(len(index), dtype=bool)
    repeated[1:] = (index[1:, :2] == index[:-1, :2]).all(axis=1)
    return Gathered(
        texts,
        index[~repeated, 2:],
        read=sum(piece["consumed"] for piece in counts),
        duplicates=int(repeated.sum()),
        empty=sum(piece["empty"] for piece in counts),
        skipped=sum(piece["skipped"] for piece in counts),
        skips=[reason for piece in counts for reason in piece["skips"]][:SKIPS_LISTED],
    )


def _why_empty(counts: list[dict[str, Any]]) -> str:
    skips = [reason for piece in counts for reason in piece["skips"]]
    if skips:
        return f"{sum(piece['skipped'] for piece in counts)} skipped ({skips[0]}); give UTF-8 text"
    return "every document is empty; give a source with text"
