"""The figures of laws and speedups: they show what the section says, and stay away where it says nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from steepest.lab.analysis.interval import Noise
from steepest.lab.analysis.runs import Cell, Final
from steepest.lab.analysis.scaling import laws_section
from steepest.lab.report.figure import Figure
from steepest.lab.report.study import laws, speedups

WEIGHTS = {"20k": 20_000, "50k": 50_000, "110k": 110_000, "300k": 300_000}
SPEEDS = {"muon": lambda weights: 1.4 * (weights / 50_000) ** -0.12, "lion": lambda weights: 0.9}
OF_EACH = ("loss-vs-data", "study-speedups", "speedup-vs-size", "speedup-trends", "joint-law")


def final(optimizer: str, size: str, ratio: float, speed: float) -> Final:
    weights = WEIGHTS[size]
    loss = 1.5 + 8 * weights**-0.2 + 0.4 * (speed * ratio) ** -0.45
    return Final(Cell(optimizer, size, int(20 * weights * ratio)), weights, (loss,), (0,), {}, "one seed")


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    finals = [
        final(name, size, ratio, speed(weights))
        for size, weights in WEIGHTS.items()
        for ratio in (1, 2, 4, 8)
        for name, speed in {"adamw": lambda weights: 1.0, **SPEEDS}.items()
    ]
    finals[-1] = Final(finals[-1].cell, 300_000, (1.6,), (0,), {}, "below the floor")
    section = laws_section(finals, "adamw", noise=Noise.given(0.001, 50), draws=200, predict=[(3e6, 1)])
    for entry in section["speedups"]:
        entry["published"] = 1.37 if entry["optimizer"] == "muon" and entry["size"] == "50k" else None
    names = ["adamw", *SPEEDS]
    return {
        "baseline": "adamw",
        "optimizers": names,
        "labels": {"adamw": "AdamW", "muon": "Muon", "lion": "Lion"},
        "sizes": [{"size": size, "weights": weights} for size, weights in WEIGHTS.items()],
        "cells": [
            {"optimizer": f.cell.optimizer, "size": f.cell.size, "tokens": f.cell.tokens}
            | {"ratio": f.ratio, "variant": "", "loss": f.loss}
            for f in finals
        ],
        **section,
    }


@pytest.fixture(scope="module")
def figures(study: dict[str, Any]) -> dict[str, Figure]:
    return {figure.key: figure for draw in laws.DRAWN if (figure := draw(study)) is not None}


def tips(figure: Figure) -> Iterator[str]:
    for element in figure.wide.root.iter():
        if "data-tip" in element.attrib:
            yield element.attrib["data-tip"]


def test_every_figure_is_drawn_wide_and_narrow_with_the_same_marks(figures: dict[str, Figure]) -> None:
    assert tuple(figures) == OF_EACH
    for figure in figures.values():
        wide, narrow = (sum("data-tip" in e.attrib for e in b.root.iter()) for b in (figure.wide, figure.narrow))
        assert wide == narrow > 0
        assert figure.rows
        assert "nan" not in figure.wide.markup() + figure.narrow.markup()


def test_nothing_falls_off_the_board(figures: dict[str, Figure]) -> None:
    for figure in figures.values():
        for board in (figure.wide, figure.narrow):
            for element in board.root.iter("path"):
                if "transform" in element.attrib:
                    x, y = element.attrib["transform"].split(")")[0].removeprefix("translate(").split()
                    assert 0 <= float(x) <= board.width, figure.key
                    assert 0 <= float(y) <= board.height, figure.key


def test_the_level_line_ends_where_the_law_has_the_loss(study: dict[str, Any], figures: dict[str, Figure]) -> None:
    law = {law["size"]: law for law in study["laws"]}
    ends = [row for row in figures["loss-vs-data"].rows if row["kind"] == "final" and row["equal_loss_ratio"]]
    assert len(ends) == 31
    for row in ends:
        own = law[row["size"]]
        at = own["floor"] + own["alpha"] * row["equal_loss_ratio"] ** -own["exponent"]
        assert at == pytest.approx(row["loss"], abs=1e-6)


def test_published_values_are_ticks_and_the_farthest_is_told(figures: dict[str, Figure]) -> None:
    figure = figures["study-speedups"]
    assert "Ticks are published values" in figure.caption
    assert sum("published: 1.37" in tip for tip in tips(figure)) == 4
    assert {row["published"] for row in figure.rows} == {1.37, None}


def test_what_is_refused_is_named_and_not_drawn(figures: dict[str, Figure]) -> None:
    figure = figures["study-speedups"]
    assert "Lion at 300k 8× (loss 1.6000 is at or below the fitted floor" in figure.caption
    assert len(figure.rows) == 31


def test_a_speedup_outside_the_fitted_range_is_an_open_mark(figures: dict[str, Figure]) -> None:
    marks = [e.attrib for e in figures["study-speedups"].wide.root.iter("path") if "data-tip" in e.attrib]
    outside = [mark for mark in marks if "outside the fitted range" in mark["data-tip"]]
    assert outside
    assert all(("open" in mark["class"]) == (mark in outside) for mark in marks if "Muon" in mark["data-tip"])


def test_the_trend_is_told_as_a_factor_per_tenfold_weights(
    study: dict[str, Any], figures: dict[str, Figure]
) -> None:
    slope = next(t for t in study["trends"] if t["optimizer"] == "muon" and round(t["ratio"]) == 2)
    words = f"Muon 2×: ×{math.exp(slope['per_decade']):.2f}"
    assert math.exp(slope["per_decade"]) == pytest.approx(10**-0.12, abs=0.02)
    assert words in figures["speedup-vs-size"].caption
    assert "are told from none" in figures["speedup-trends"].caption


def test_the_joint_law_tells_its_errors_beside_what_it_predicts(figures: dict[str, Figure]) -> None:
    caption = figures["joint-law"].caption
    assert "At 3M weights and 1×, against AdamW: Muon" in caption


def test_without_a_section_nothing_is_drawn(study: dict[str, Any]) -> None:
    bare = {key: value for key, value in study.items() if key not in ("laws", "joint", "speedups", "trends")}
    assert [draw(bare) for draw in laws.DRAWN] == [None] * len(laws.DRAWN)


def test_without_noise_there_are_no_intervals_and_nothing_breaks(study: dict[str, Any]) -> None:
    bare = dict(study)
    for key in ("speedups", "trends"):
        bare[key] = [entry | {"low": None, "high": None} for entry in study[key]]
    empty = {"low": None, "high": None}
    bare["laws"] = [law | {"band": [point | empty for point in law["band"]]} for law in study["laws"]]
    assert all(draw(bare) is not None for draw in laws.DRAWN)
    assert speedups.told(bare["speedups"][0]).endswith("times")
