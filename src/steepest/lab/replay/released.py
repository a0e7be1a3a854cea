"""The released sweep of "Fantastic Pretraining Optimizers and Where to Find Them" (arXiv 2509.02046), read.

A folder with the four tables of that release, tidied: ``runs.csv`` (every logged run), ``best.csv`` (the lowest
loss of every cell, as the authors collected it), and, where they are there, ``near_best.csv`` (their near-best
settings) and ``speedup.csv`` (their figures' vertices). docs/replay.md lists the columns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from steepest.core.errors import BadInput, CorruptFile
from steepest.lab.analysis.runs import Cell, Final, Run, Scalar
from steepest.lab.foreign import read
from steepest.lab.foreign.columns import RENAMED
from steepest.lab.foreign.files import cells as cells_of
from steepest.lab.foreign.files import mapping

BASELINE = "adamw"
FIGURES, SUMMARY = "figs_final_aug2025", "figs_PhaseIII_1B/speedup_vs_model_size"
"""Of speedup.csv, the set that is compared with, and the summary figure of 7 August 2025."""


BAD = 0.02
"""Share of damaged rows in runs.csv above which the whole file is taken for damaged."""


class At(NamedTuple):
    """Optimizer, size and data-to-model ratio."""

    optimizer: str
    size: str
    ratio: float


@dataclass(frozen=True)
class Optimized:
    """A row of best.csv.

    loss: the lowest that the authors report (``published_min_loss``); loss_aug07: as it stood when the summary
    figure was made, None for optimizers that came later. center: the run that their ablations surround; lowest:
    the lowest logged run. phase: I, II or III; runs: how many are logged.
    """

    at: At
    weights: int
    tokens: int
    phase: str
    loss: float
    loss_aug07: float | None
    center: Mapping[str, Scalar]
    center_loss: float | None
    lowest: Mapping[str, Scalar]
    lowest_loss: float | None
    runs: int

    @property
    def final(self) -> Final:
        """The published minimum as evidence."""
        how = f"minimum of {self.runs} logged run{'s' * (self.runs > 1)} of one seed"
        if self.lowest_loss is not None and self.loss < self.lowest_loss:
            how += f"; the authors report a lower one than is logged ({self.lowest_loss:.4f})"
        cell = Cell(self.at.optimizer, self.at.size, self.tokens)
        return Final(cell, self.weights, (self.loss,), (None,), self.lowest, how)


@dataclass(frozen=True)
class Released:
    """All of a folder. near: the authors' near-best settings by cell; figures, summary: published speedups by
    place, the latter at ratio 8; warnings: what is missing or odd, in sentences."""

    folder: Path
    runs: list[Run]
    cells: list[Optimized]
    near: dict[At, list[Mapping[str, Scalar]]]
    figures: dict[At, float]
    summary: dict[At, float]
    warnings: list[str]


def load(folder: Path | str) -> Released:
    """Reads ``folder``. BadInput for one without best.csv and runs.csv; CorruptFile names file, row and column."""
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder: give the one that holds best.csv and runs.csv")
    for name in ("best.csv", "runs.csv"):
        if not (folder / name).is_file():
            raise BadInput(
                f"{folder} has no {name}: give the folder of the released tables, best.csv and runs.csv"
            )
    cells = [_cell(row) for row in _table(folder / "best.csv")]
    places = Counter(cell.at for cell in cells)
    if twice := next((at for at, count in places.items() if count > 1), None):
        raise CorruptFile(f"best.csv has {_said(twice)} more than once: copy the file again")
    if BASELINE not in {cell.at.optimizer for cell in cells}:
        raise CorruptFile(
            f"best.csv has no cell of {BASELINE}, against which all others are measured: copy it again"
        )
    warnings: list[str] = []
    runs = _runs(folder / "runs.csv", cells, warnings)
    figures: dict[At, float] = {}
    summary: dict[At, float] = {}
    if (folder / "speedup.csv").is_file():
        for row in _table(folder / "speedup.csv"):
            known = {FIGURES: figures, SUMMARY: summary}.get(row.text("figure_set"))
            if known is not None:
                known[row.at()] = row.number("speedup")
    else:
        warnings.append("There is no speedup.csv: no published speedup stands beside those computed here.")
    near: dict[At, list[Mapping[str, Scalar]]] = {}
    if (folder / "near_best.csv").is_file():
        for row in _table(folder / "near_best.csv"):
            near.setdefault(row.at(), []).append(row.settings("config") or {})
    else:
        warnings.append("There is no near_best.csv: sensitivity is judged from the logged runs alone.")
    return Released(folder, runs, cells, near, figures, summary, warnings)


def _runs(path: Path, cells: list[Optimized], warnings: list[str]) -> list[Run]:
    found = read(path)
    short = sum(cell.runs for cell in cells) - found.rows
    if len(found.complaints) > BAD * found.rows or (found.left_out and short > 0):
        more = f" (and {len(found.complaints) - 1:,} more)" if len(found.complaints) > 1 else ""
        raise CorruptFile(f"{found.complaints[0]}{more}: the file is cut off or damaged, copy it again")
    warnings += [f"{complaint}." for complaint in found.complaints]
    if found.repeated:
        warnings.append(f"{found.repeated} of {found.rows:,} logged rows tell a run again: each counts once.")
    counts = Counter(At(run.optimizer, run.size, round(run.ratio, 6)) for run in found.runs)
    if short > 0:
        warnings.append(f"runs.csv lacks {short:,} of the runs that best.csv counts: is it whole?")
    bare = [cell.at for cell in cells if not counts[cell.at]]
    if bare:
        warnings.append(f"runs.csv has no run of {len(bare)} cells of best.csv, {_said(bare[0])} the first.")
    return [replace(run, hyperparameters=renamed(run.hyperparameters)) for run in found.runs]


def _cell(row: _Row) -> Optimized:
    lowest = row.settings("best_logged_hyperparameters") or {}
    return Optimized(
        at=row.at(),
        weights=int(row.number("n_params_nonembed")),
        tokens=int(row.number("tokens")),
        phase=row.text("phase"),
        loss=row.number("published_min_loss"),
        loss_aug07=row.maybe("min_loss_aug07"),
        center=row.settings("center_hyperparameters") or lowest,
        center_loss=row.maybe("center_loss"),
        lowest=lowest,
        lowest_loss=row.maybe("best_logged_loss"),
        runs=int(row.maybe("n_runs_logged") or 0),
    )


class _Row:
    """A row whose every fault is a CorruptFile that names file, row and column."""

    def __init__(self, file: str, number: int, values: Mapping[str, Any]) -> None:
        self.file, self.row, self.values = file, number, values

    def fault(self, column: str, text: str) -> CorruptFile:
        return CorruptFile(f"{self.file} row {self.row}, column {column}: {text}: copy the file again")

    def text(self, column: str) -> str:
        if column not in self.values:
            raise CorruptFile(f"{self.file} has no column {column!r}: copy the file again")
        return str(self.values[column]).strip()

    def maybe(self, column: str) -> float | None:
        text = self.text(column)
        return self.number(column) if text else None

    def number(self, column: str) -> float:
        text = self.text(column)
        try:
            number = float(text)
        except ValueError:
            raise self.fault(column, f"{text!r} is no number") from None
        if not (math.isfinite(number) and number >= 0):
            raise self.fault(column, f"{text!r} is no finite number from 0 on")
        return number

    def at(self) -> At:
        ratio = self.number("chinchilla_ratio")
        return At(self.text("optimizer"), self.text("model_size"), ratio)

    def settings(self, column: str) -> dict[str, Scalar] | None:
        text = self.text(column)
        if not text:
            return None
        try:
            return renamed(mapping(text))
        except ValueError as error:
            raise self.fault(column, str(error)) from None


def renamed(settings: Mapping[str, Any]) -> dict[str, Scalar]:
    """Published hyperparameters under own names; ``decay`` is the share of the steps in which the rate falls."""
    own = RENAMED | {"decay": "cooldown"}
    return {own.get(name, name): value for name, value in settings.items()}


def _table(path: Path) -> Iterator[_Row]:
    def broken(row: int, column: str, text: str) -> None:
        raise CorruptFile(
            f"{path.name} row {row}: {text.removesuffix(': the row is left out')}: copy the file again"
        )

    empty = True
    for number, values in cells_of(path, broken):
        empty = False
        yield _Row(path.name, number, values)
    if empty:
        raise CorruptFile(f"{path} holds no rows: copy the file again")


def _said(at: At) -> str:
    return f"{at.optimizer} at {at.size}, {at.ratio:g}x"
