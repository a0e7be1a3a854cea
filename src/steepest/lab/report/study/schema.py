"""What a study.json must hold before anything is drawn from it.

A section that a study has no runs for may be missing, and the page says so; one that is there has its shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steepest.lab.report import shape
from steepest.lab.report.shape import NUMBER, Each, Maybe, Since, said

FORMAT = 1
ADVICE = "run the command that wrote it again"

ENDS = {"low": Maybe(NUMBER), "high": Maybe(NUMBER)}
CELL = {
    "optimizer": str,
    "size": str,
    "tokens": NUMBER,
    "ratio": NUMBER,
    "variant": str,
    "loss": Maybe(NUMBER),
    **ENDS,
    "seeds": NUMBER,
    "how": Maybe(str),
    "runs": NUMBER,
    "diverged": NUMBER,
    "spent_tokens": NUMBER,
    "spent_flops": Maybe(NUMBER),
    "spent_seconds": Maybe(NUMBER),
    "best": Maybe(dict),
}

STUDY = {
    "kind": str,
    "title": str,
    "command": str,
    "created": str,
    "source": str,
    "baseline": str,
    "optimizers": Each(str),
    "labels": Each(str, keyed=True),
    "sizes": Each({"size": str, "weights": NUMBER}),
    "cells": Each(CELL),
    "curves": Since(
        Each({"optimizer": str, "size": str, "tokens": NUMBER, "seed": Maybe(NUMBER), "points": Each(list)})
    ),
    "runs": Since(Each({"run": str, "optimizer": str, "size": str, "tokens": NUMBER, "status": str})),
    "runs_count": NUMBER,
    "supported": Since(Each(str)),
    "not_supported": Each(str),
    "warnings": Each(str),
    "provenance": dict,
}


def checked(study: Any, name: str = "study.json") -> dict[str, Any]:
    """A copy, nan and infinities as null, control characters out; CorruptFile names the faulty keys."""
    return shape.checked(study, name, STUDY, _dangling, version=FORMAT, what="a study", advice=ADVICE)


def _dangling(study: dict[str, Any]) -> Iterator[str]:
    """Names that point to nothing."""
    if study["baseline"] not in study["optimizers"]:
        yield f"baseline {said(study['baseline'])} is not among the optimizers"
    for name in study["optimizers"]:
        if name not in study["labels"]:
            yield f"labels.{name} is missing"
    sizes = {entry["size"] for entry in study["sizes"]}
    for index, cell in enumerate(study["cells"]):
        if cell["size"] not in sizes:
            yield f"cells.{index}.size {said(cell['size'])} is not among the sizes"
    for name, section in study.items():
        for index, entry in enumerate(section if isinstance(section, list) else ()):
            whose = entry.get("optimizer") if isinstance(entry, dict) else None
            if whose is not None and whose not in study["optimizers"]:
                yield f"{name}.{index}.optimizer {said(whose)} is not among the optimizers"
