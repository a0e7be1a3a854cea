"""The document of the released sweep: the sections of every study, those of this one, and what it all supports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steepest.core.errors import BadInput
from steepest.lab.analysis.evidence import evidence
from steepest.lab.analysis.interval import Noise
from steepest.lab.analysis.noise import Irrelevant, irrelevant
from steepest.lab.analysis.runs import Run
from steepest.lab.analysis.speedup import speedups
from steepest.lab.replay import results, search, sections
from steepest.lab.replay.released import BASELINE, At, Released
from steepest.lab.replay.words import ACCEPTED, Evidence

TITLE = "Fantastic Pretraining Optimizers and Where to Find Them, judged again"
SOURCE = "the released sweep of arXiv 2509.02046 (Wen, Hall, Ma, Liang; branch of 27 August 2025, Apache-2.0)"

LABELS = {
    "adamw": "AdamW", "nadamw": "NAdamW", "lion": "Lion", "mini": "Adam-mini", "cautious": "Cautious",
    "mars": "MARS", "sophia": "Sophia", "muon": "Muon", "scion": "Scion", "kron": "Kron", "soap": "SOAP",
    "shampoo_mudam": "Shampoo",
}  # fmt: skip

NO_MATTER = ("adamw", "nadamw", "mars", "cautious", "mini", "muon")
"""Optimizers whose swept eps (1e-10 and below) lies far under every gradient; not so SOAP's and Sophia's."""

SEVEN = (7e9, 1.0)


def study(released: Released, command: str, created: str | None = None) -> dict[str, Any]:
    """study.json of the release, and beside its usual sections ``sensitive``, ``predictions``,
    ``matrix_beats_scalar``, ``summary_8x`` and ``supported``. ``published`` in a speedup is the vertex of the
    authors' last figure, None where it has none."""
    noise = noise_of(released.runs)
    finals = [cell.final for cell in released.cells]
    document = evidence(
        released.runs,
        finals,
        baseline=BASELINE,
        title=TITLE,
        command=command,
        source=SOURCE,
        labels=LABELS,
        irrelevant=[] if noise is None else [noise],
        predict=[SEVEN],
        warnings=released.warnings,
        created=created,
    )
    for entry in document["speedups"]:
        entry["published"] = released.figures.get(At(entry["optimizer"], entry["size"], round(entry["ratio"], 6)))
    document |= of_this_study(released)
    noisier = speedups(finals, BASELINE, noise=Noise.given(ACCEPTED, 1e6))
    of = Evidence(released, document, noise, noisier, LABELS)
    doubts = [*results.doubted(of), *search.doubted(of)]
    return document | {
        "supported": results.supported(of),
        "not_supported": [*doubts, *document["not_supported"]],
    }


def of_this_study(released: Released) -> dict[str, Any]:
    """The sections that only this study has."""
    sensitive = sections.sensitive(released)
    return {
        "sensitive": sensitive,
        "predictions": sections.predictions(released, sensitive),
        "matrix_beats_scalar": sections.matrix_beats_scalar(released),
        "summary_8x": sections.summary_8x(released),
    }


def noise_of(runs: list[Run]) -> Irrelevant | None:
    """The noise that runs tell which differ in an eps that cannot matter; None where there are none."""
    try:
        return irrelevant(runs, "eps", optimizers=NO_MATTER)
    except BadInput:
        return None


def compared(document: Mapping[str, Any]) -> tuple[int, float]:
    """How many speedups stand beside a published one, and the largest difference."""
    gaps = [
        abs(entry["speedup"] - entry["published"])
        for entry in document["speedups"]
        if entry["published"] is not None and entry["speedup"] is not None
    ]
    return len(gaps), max(gaps, default=0.0)
