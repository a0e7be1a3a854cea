"""The options that `train` and `race` share: short names of settings of a run."""

from __future__ import annotations

import argparse
from typing import Any

FLAGS = {
    "optimizer": "optimizer",
    "lr": "optimizer.lr",
    "model": "model",
    "corpus": "corpus.source",
    "tokenizer": "corpus.tokenizer",
    "tokens": "tokens",
    "ratio": "ratio",
    "batch": "batch",
    "seq": "seq",
    "schedule": "schedule.name",
    "device": "device",
    "seed": "seed",
}
"""A flag and the setting that it is short for."""

WORDS = ("optimizer", "model", "corpus", "tokenizer", "schedule", "device")
"""Flags whose text is taken as it is; the others are read as numbers."""


def configure(parser: argparse.ArgumentParser, *, seed: str, sets: str) -> None:
    """The shared options; ``seed`` and ``sets`` say what --seed and --set mean to the verb."""
    add = parser.add_argument
    add("--corpus", metavar="SOURCE", nargs="+", help="stdlib, text files, folders, globs, hf:NAME (stdlib)")
    add("--tokenizer", help="bpe:SIZE, bytes, a tokenizer.json, hf:NAME (bpe:1024)")
    add("--batch", help="sequences per step (16)")
    add("--seq", help="predictions per sequence (128)")
    add("--schedule", metavar="NAME", help="cosine, linear, rex, step, one-cycle, wsd-sqrt, ... (cosine)")
    add("--device", help="cpu, cuda, ... (cpu)")
    add("--seed", help=seed)
    add("--set", metavar="KEY=VALUE", action="append", default=[], help=sets)


def put_flags(values: dict[str, Any], args: argparse.Namespace) -> None:
    """Puts the flags that the verb has and that were given over ``values``."""
    from steepest.lab.settings import literal, put

    for flag in FLAGS:
        given = getattr(args, flag, None)
        if given is not None:
            put(values, FLAGS[flag], given if flag in WORDS else literal(given))
