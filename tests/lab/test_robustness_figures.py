"""The figures of robustness, tuning and scale: drawn for every state that a study can be in."""

from __future__ import annotations

import copy
import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from drawings import check_sound

from steepest.lab.analysis.finals import finals_of
from steepest.lab.analysis.interval import Noise
from steepest.lab.analysis.robustness_section import robustness_section
from steepest.lab.report.study import optima, robustness, tuning

DRAWN = (*robustness.DRAWN, *tuning.DRAWN, *optima.DRAWN)
HOSTILE = '</script><script>alert("1")</script>&<b>'
SECTIONS = ("robustness", "sweeps", "tuning_cost", "flips", "drift", "pareto")


def document(runs) -> dict:
    names = list(dict.fromkeys(run.optimizer for run in runs))
    sizes = sorted({run.size: run.weights for run in runs}.items(), key=lambda item: item[1])
    return {
        "optimizers": names,
        "baseline": names[0],
        "labels": {name: name for name in names},
        "sizes": [{"size": size, "weights": weights} for size, weights in sizes],
        **robustness_section(runs, finals_of(runs), Noise(2e-3, 50, 2e-3, 50, (6, 3))),
    }


@pytest.fixture(scope="module")
def whole(made):
    runs = made.made(optimizers=("adamw", "lion", "muon", "soap"), ratios=(1, 8), tried=14, curves=8)
    return document([replace(run, state_bytes=4.0 * len(run.optimizer)) for run in runs])


@pytest.fixture
def study(whole):
    return copy.deepcopy(whole)


def each(study, section, **values):
    for entry in study[section]:
        entry |= values


def crowd(study):
    for number in range(9):
        name = f"./a/long/way/to/mine_{number}.py:MyOptimizer{HOSTILE}"
        study["optimizers"].append(name)
        study["labels"][name] = name
        for section in ("robustness", "sweeps", "tuning_cost", "drift"):
            study[section] += [
                copy.deepcopy(entry) | {"optimizer": name}
                for entry in study[section]
                if entry["optimizer"] == "lion"
            ]


def diverged(study):
    """Every value but the best."""
    for entry in study["sweeps"]:
        for point in entry["points"]:
            if point["value"] != entry["best"]:
                point |= {"loss": None, "cost": None}


def variants(study):
    for section in SECTIONS:
        each(study, section, variant="no_qk_norm")


def timeless(study):
    for front in study["pareto"]:
        each(front, "optimizers", seconds=None)


CASES = {
    "as it is": lambda study: None,
    "thirteen": crowd,
    "all but the best diverged": diverged,
    "variants alone": variants,
    "no times": timeless,
    "no noise": lambda study: [w.update(low=None, high=None) for e in study["robustness"] for w in e["widths"]],
    "no regret": lambda study: [r.update(value=None) for e in study["robustness"] for r in e["regrets"]],
    "unknown start": lambda study: [
        c["points"][0].update(loss=None, low=None, high=None) for c in study["tuning_cost"]
    ],
    "in order": lambda study: each(study, "tuning_cost", ordered=True),
    "one place": lambda study: study.update(
        {key: [e for e in study[key] if e["size"] == "20k"] for key in SECTIONS if key != "drift"}
    ),
    "one far off": lambda study: study["sweeps"][0]["points"][0].update(loss=9.0, cost=6.5),
}


@pytest.mark.parametrize("case", CASES)
def test_drawings_are_sound_xml_with_finite_numbers_inside_the_frame_for(case, study) -> None:
    CASES[case](study)
    for draw in DRAWN:
        figure = draw(study)
        if figure is not None:
            check_sound(figure)


def test_every_figure_is_drawn_with_its_rows(study) -> None:
    figures = [draw(study) for draw in DRAWN]
    assert [figure.key for figure in figures] == [
        "sweeps",
        "sweeps-aligned",
        "learning-rates",
        "widths",
        "regrets",
        "tuning-cost",
        "rank-flips",
        "optima-size",
        "optima-ratio",
        "front",
    ]
    for figure in figures:
        flat = (value for row in figure.rows for value in row.values())
        assert not any(isinstance(value, dict | list) for value in flat), figure.key
    assert all(figure.rows for figure in figures)


@pytest.mark.parametrize("section", [*SECTIONS, None])
def test_a_missing_section_draws_nothing_of_its_own_and_harms_no_other(section, study) -> None:
    for key in SECTIONS if section is None else (section,):
        del study[key]
    drawn = [figure.key for draw in DRAWN if (figure := draw(study))]
    assert bool(drawn) is (section is not None)


def test_a_mark_stands_where_its_loss_is(study) -> None:
    """The best value of every sweep lies lowest of its curve: larger y."""
    figure = robustness.sweeps(study)
    marks = [
        m for m in ET.fromstring(figure.wide.standalone("")).iter() if "its best" in (m.get("data-tip") or "")
    ]
    assert marks and len(marks) >= 4 * 3


def test_the_caption_says_what_the_order_half_way_was_worth(study) -> None:
    assert "At half the tokens the order is the reverse of the end’s in" in tuning.flips(study).caption
    assert all(math.isfinite(entry["threshold"]) for entry in study["flips"])


def test_a_region_that_was_not_bounded_gets_an_arrow(study) -> None:
    for entry in study["robustness"]:
        for width in entry["widths"]:
            width |= {"low_end": "edge"}
    assert "arrow" in robustness.widths(study).wide.markup()
    for entry in study["robustness"]:
        for width in entry["widths"]:
            width |= {"low_end": "crossed", "high_end": "crossed"}
    assert "arrow" not in robustness.widths(study).wide.markup()
