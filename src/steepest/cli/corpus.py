"""Build or inspect token shards from text."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput

if TYPE_CHECKING:
    from steepest.lab.corpus import Corpus

SUMMARY = "build or inspect token shards from text"

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source",
        nargs="*",
        default=["stdlib"],
        help="text files, folders, globs, JSONL, Parquet, Arrow, hf:NAME[@REVISION][:SUBSET[:SPLIT]], "
        "stdlib (the default: source text of the standard library), or a folder made by this verb",
    )
    parser.add_argument(
        "--tokenizer",
        default="bpe:1024",
        help="bpe:SIZE (trained on the training text), bytes, a tokenizer.json, hf:NAME (default: bpe:1024)",
    )
    parser.add_argument(
        "--out", default=None, metavar="DIR", help="where corpora are kept (default: runs/corpora)"
    )
    parser.add_argument(
        "--validation", type=float, default=0.05, metavar="SHARE", help="share of the text held out (0.05)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle and the split (0)")
    parser.add_argument("--text-field", default="text", metavar="NAME", help="the column of rows that holds text")
    parser.add_argument("--pattern", default="**/*", help="which files of a folder are read (default: all)")
    parser.add_argument(
        "--max-bytes", default=None, metavar="SIZE", help="stop reading after this much, e.g. 500MB"
    )
    parser.add_argument("--verify", action="store_true", help="hash every shard and compare with the manifest")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus (or open it where it stands), check it if asked, and print its manifest in short."""
    from steepest.lab import corpus as corpora

    config = corpora.CorpusConfig(
        source=tuple(args.source),
        tokenizer=args.tokenizer,
        validation=args.validation,
        seed=args.seed,
        text_field=args.text_field,
        pattern=args.pattern,
        max_bytes=None if args.max_bytes is None else _size(args.max_bytes),
    )
    with progress() as told:
        corpus = corpora.prepare(config, Path(args.out or corpora.DEFAULT_ROOT), told)
        if args.verify:
            corpora.verify(corpus, told)
    if args.json:
        print(json.dumps({"path": str(corpus.path), **_rates(corpus), **corpus.manifest}, indent=1))
    else:
        print("\n".join(f"{name:<11} {value}" for name, value in _summary(corpus, args.verify)))
    return 0


def _rates(corpus: Corpus) -> dict[str, float]:
    return {
        "bytes_per_token": corpus.bytes_per_token("val"),
        "passes_per_million_tokens": 1e6 / len(corpus.train),
    }


def _summary(corpus: Corpus, verified: bool) -> Iterator[tuple[str, str]]:
    manifest = corpus.manifest
    left_out = [f"{manifest[k]:,} {word}" for k, word in _LEFT_OUT.items() if manifest[k]]
    sides = f"{manifest['train_documents']:,} train, {manifest['val_documents']:,} validation"
    yield "corpus", str(corpus.path)
    yield "source", manifest["source"]
    yield "documents", f"{manifest['documents']:,} ({sides})" + "".join(f"; {words}" for words in left_out)
    for reason in manifest["skips"]:
        yield "  skipped", reason
    yield "split", manifest["split"]
    yield "tokenizer", f"{manifest['tokenizer']}, vocabulary {manifest['vocab_size']:,}" + _trained_on(manifest)
    if not manifest["lossless"]:
        yield "", "warning: text does not come back from its tokens, so bits/byte is only a lower bound"
    for side, word in (("train", "train"), ("val", "validation")):
        tokens, size = manifest[f"{side}_tokens"], manifest[f"{side}_bytes"]
        yield word, f"{tokens:,} tokens, {size:,} bytes, {size / tokens:.3f} bytes/token"
    rates = _rates(corpus)
    yield "passes", f"{rates['passes_per_million_tokens']:.3g} per million training tokens"
    shards = len(manifest["shards"])
    yield "shards", f"{shards:,}" + (", each hashed: as the manifest says" if verified else "")
    yield "identity", corpus.identity


def _trained_on(manifest: dict[str, Any]) -> str:
    size = manifest["bpe_training_bytes"]
    return f", trained on {size:,} bytes of the training text" if size else ""


_LEFT_OUT = {"duplicates": "duplicates left out", "empty": "empty left out", "skipped": "skipped, not text"}


def _size(text: str) -> int:
    """``"500MB"`` to bytes."""
    number = text.rstrip("bBkKmMgGtT")
    try:
        return int(float(number) * _UNITS[text[len(number) :].lower()])
    except (ValueError, KeyError, OverflowError):
        raise BadInput(f"--max-bytes {text!r} is not a size: give a number with KB, MB, GB or TB") from None


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on stderr where somebody watches it; none where the stream is a file or `rich` is missing."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
    except ImportError:
        yield _plain()
        return
    columns = (TextColumn("{task.description:>10}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield show


def _plain() -> Callable[[str, int, int], None]:
    stages: set[str] = set()

    def show(stage: str, done: int, total: int) -> None:
        if stage not in stages:
            stages.add(stage)
            print(f"steepest: {stage} ...", file=sys.stderr, flush=True)

    return show
