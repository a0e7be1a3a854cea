"""The report without a browser: what it says, what it refuses, what it writes."""

import base64
import builtins
import copy
import csv
import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from drawings import check_sound, marks
from hypothesis import given
from hypothesis import strategies as st

from steepest import cli
from steepest.core.errors import BadInput, CorruptFile, MissingExtra
from steepest.lab.report import export, page, schema, summary, terminal
from steepest.lab.report.figure import slots
from steepest.lab.report.figures import figures
from steepest.lab.report.svg import Scale, color, shortened, spread

RACE = Path(__file__).with_name("data") / "race.json"
HOSTILE = '</script><script>alert("1")</script>&<b>'


@pytest.fixture
def race():
    return json.loads(RACE.read_text(encoding="utf-8"))


def with_verdict(race, name, verdict, value=None, reason=None):
    """Gives one optimizer another verdict, in tokens and in seconds."""
    spread_of_it = {"faster": (1.1, 2.0), "slower": (0.3, 0.9), "not told apart": (0.8, 1.2)}.get(verdict)
    low, high = spread_of_it or (None, None)
    speedup = {"value": value, "low": low, "high": high, "level": 0.9, "flags": [], "reason": reason}
    race["results"][name] |= {"verdict": verdict, "speedup_tokens": speedup, "speedup_seconds": dict(speedup)}


def without_final(race, name):
    race["results"][name]["final"] = None
    with_verdict(race, name, "refused", reason="every run diverged")
    race["curves"] = [curve for curve in race["curves"] if curve["optimizer"] != name]


def alone(race):
    base = race["baseline"]
    race["optimizers"], race["results"] = [base], {base: race["results"][base]}
    race["curves"] = [curve for curve in race["curves"] if curve["optimizer"] == base]
    race["rank_flips"] = []


def without_law(race):
    race["law"], race["law_reason"] = None, "three budgets are too few"
    for name in race["optimizers"][1:]:
        with_verdict(race, name, "refused", reason="no law")


def crowd(race):
    for number in range(8):
        name = f"./a/long/way/to/mine_{number}.py:MyOptimizer{HOSTILE}"
        race["optimizers"].append(name)
        race["results"][name] = copy.deepcopy(race["results"]["lion"]) | {"label": name}


def empty_handed(race):
    """Nothing but what the format demands: no curves, no points, no step times, no routing."""
    race |= {"curves": [], "rank_flips": [], "runs": [], "noise": None, "calibration": None}
    for result in race["results"].values():
        result["lr"] |= {"points": [], "best": None, "bracketed": False, "edge": None}
        result |= {"step": None, "state_bytes_per_weight": None, "routing": []}
    without_law(race)


CASES = {
    "as it is": lambda race: None,
    "one diverged": lambda race: without_final(race, "lion"),
    "all diverged": lambda race: [without_final(race, name) for name in race["optimizers"]],
    "baseline alone": alone,
    "no law": without_law,
    "twelve": crowd,
    "empty-handed": empty_handed,
    "before spikes": lambda race: [result.pop("spikes") for result in race["results"].values()],
    "too short for spikes": lambda race: race["results"]["muon"]["spikes"]["loss"].update(spike_score=None),
    "one budget": lambda race: race["law"].update(points=race["law"]["points"][:1], band=[]),
    "one learning rate": lambda race: race["results"]["muon"]["lr"].update(
        points=race["results"]["muon"]["lr"]["points"][2:3]
    ),
    "no upper end": lambda race: race["results"]["muon"]["speedup_tokens"].update(high=None),
    "an end far off": lambda race: race["results"]["muon"]["speedup_seconds"].update(low=1e-4, high=9e9),
    "no band": lambda race: [point.update(low=None, high=None) for point in race["law"]["band"]],
    "nan": lambda race: race["results"]["muon"]["lr"]["points"][0].update(loss=math.nan),
}


@pytest.mark.parametrize("case", CASES)
def test_page_files_and_terminal_are_written_for(case, race, tmp_path):
    CASES[case](race)
    page.write(race, tmp_path / "report.html")
    files = export.write(race, tmp_path)
    out = io.StringIO()
    terminal.show(race, out)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<figure") == 6
    assert len(files) == 2 + 3 * 6 and all(file.stat().st_size for file in files)
    assert summary.headline(schema.checked(race)) in out.getvalue()
    for name in race["optimizers"]:
        assert race["results"][name]["label"] in out.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_drawings_are_sound_xml_with_finite_numbers_inside_the_frame_for(case, race):
    CASES[case](race)
    for figure in figures(schema.checked(race)):
        check_sound(figure)


class Outline(HTMLParser):
    """Tags and addresses of a page, as a browser's parser sees them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.words.append(data)


def test_page_needs_no_network(race):
    outline = Outline(page.html(race))
    assert outline.addresses and all(address.startswith(("#", "data:")) for address in outline.addresses)
    assert not re.search(r"url\(|@import|https?://", "".join(outline.words))


def test_names_cannot_become_markup(race):
    crowd(race)
    race["rank_flips"][0]["text"] = race["warnings"] = HOSTILE
    race["warnings"] = [HOSTILE]
    race["versions"][HOSTILE] = race["hardware"]["cpu"] = race["command"] = HOSTILE
    race["results"]["muon"]["routing"][0]["why"] = HOSTILE
    outline = Outline(page.html(race))
    assert outline.tags.count("script") == 1
    assert "b" in outline.tags and 'alert("1")' in "".join(outline.words)
    assert outline.tags.count("b") == 2 * len(race["optimizers"])  # the table's verdicts, the routing's names


def test_the_page_tells_spikes_in_a_table_or_why_there_are_none(race, tmp_path):
    outline = Outline(page.html(race))
    words = " ".join("".join(outline.words).split())
    assert "Lion 0.13 % 26 104 2.2 % 391 " in words
    export.write(race, tmp_path)
    lion = next(row for row in table_of(tmp_path / "table.csv") if row["optimizer"] == "lion")
    assert (lion["loss_spike_score"], lion["gradient_norm_z_spikes"]) == ("0.13", "390.6")
    for result in race["results"].values():
        del result["spikes"]
    words = " ".join("".join(Outline(page.html(race)).words).split())
    assert "written before spikes were scored" in words and "leaps of 7 σ" not in words
    race["results"]["muon"]["spikes"] = {"runs": 3}
    with pytest.raises(CorruptFile, match=r"results\.muon\.spikes\.loss is missing"):
        page.html(race)


def test_content_policy_allows_just_the_page_s_own_script_and_style(race):
    text = page.html(race)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1).replace("&#43;", "+")
    script = re.search(r"<script>(.*)</script>", text, re.S).group(1)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy.replace("&#39;", "'")


def test_page_says_verdicts_limits_commands_routing_and_versions(race):
    words = " ".join("".join(Outline(page.html(race, "race/race.json")).words).split())
    for said in (
        summary.headline(race), "slower in seconds", "at the high edge", "Tuning was not equal", race["command"],
        "steepest report race/race.json", "companion", "blocks.N.attn.q.weight", race["versions"]["torch"],
        race["hardware"]["cpu"], race["rank_flips"][0]["text"].rstrip("."), "43 finished, 3 diverged",
    ):  # fmt: skip
        assert said in words, said


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        ({"muon": ("faster", 1.4)}, "Faster than tuned AdamW, token for token: Muon 1.40×."),
        ({"muon": ("slower", 0.5)}, "Slower than tuned AdamW: Muon 0.50×."),
        ({"muon": ("not told apart", 1.0)}, "Not told apart from tuned AdamW: Muon."),
        ({"muon": ("refused", None)}, "No verdict: Muon."),
        (
            {"muon": ("faster", 1.4), "soap": ("slower", 0.5), "lion": ("not told apart", 1.0)},
            "Faster than tuned AdamW, token for token: Muon 1.40×; slower: SOAP 0.50×; "
            "not told apart from it: Lion.",
        ),
        ({}, "AdamW ran alone: this page holds its tuning and its losses, and no comparison."),
    ],
)
def test_headline_tells_every_verdict_negative_ones_included(race, verdicts, sentence):
    race["optimizers"] = ["adamw", *verdicts]
    for name, (verdict, value) in verdicts.items():
        with_verdict(race, name, verdict, value)
    assert summary.headline(race) == sentence


def test_limits_tell_what_went_wrong(race):
    without_final(race, "lion")
    with_verdict(race, "soap", "refused", reason="its loss lies below the law's floor")
    race["results"]["muon"]["speedup_tokens"]["flags"] = ["outside the fitted range"]
    race["setup"]["passes"], race["setup"]["seeds"] = 2.5, [1]
    race["warnings"] = ["the disk was slow"]
    said = "\n".join(summary.limits(race))
    for part in (
        "The disk was slow.", "Lion has no final loss", "SOAP's speedup is refused: its loss lies below",
        "Muon's speedup: outside the fitted range.", "2.5 times", "1 seed per optimizer", "One model size",
    ):  # fmt: skip
        assert part in said, part


def test_the_best_learning_rates_carry_their_certificates_or_are_called_uncertified(race):
    assert summary.certificates(race) == [
        f"{summary.listed([summary.label(race, n) for n in summary.ranking(race)], 12)}: uncertified"
    ]
    base, *others = summary.ranking(race)
    race["results"][base]["certificate"] = {"text": "certified: locally optimal, bracketed in its one coordinate"}
    for name in others:
        race["results"][name]["certificate"] = {"text": "not certified: lr at the low edge"}
    race["power"] = {"text": ["3 seeds tell two optimizers apart that differ by 0.01 nats/token"]}
    first, second = summary.certificates(race)
    assert first == f"{summary.label(race, base)}: certified: locally optimal, bracketed in its one coordinate"
    assert second.endswith(": not certified: lr at the low edge")
    shown = io.StringIO()
    terminal.show(race, shown)
    assert f"best lr: {first}; {second}" in shown.getvalue()
    assert "- 3 seeds tell two optimizers apart" in shown.getvalue()
    assert "lr at the low edge" in page.html(race)


def test_a_tie_by_seed_noise_is_explained_where_the_speedup_s_interval_leaves_1_out(race):
    race["results"]["muon"]["verdict"] = "not told apart"
    row = next(row for row in summary.cells(race) if row["optimizer"] == "muon")
    assert row["note"] == "within seed noise"
    assert (
        "Muon's speedup interval leaves 1 out, but its final loss lies within seed noise of AdamW's"
        in "\n".join(summary.limits(race))
    )


def test_seconds_refused_alone_are_told_with_their_reason(race):
    race["results"]["muon"]["speedup_seconds"] = {
        "value": None,
        "low": None,
        "high": None,
        "reason": "no step times",
    }
    assert "Muon's speedup in seconds is refused: no step times." in summary.limits(race)


def test_each_optimizer_has_one_colour_and_shape_in_every_figure(race):
    for figure in figures(race):
        for mark in marks(figure.wide.root):
            css = mark.get("class").split()
            if "badge" in css:
                continue
            name = next(
                n for n in race["optimizers"] if mark.get("data-tip").startswith(race["results"][n]["label"])
            )
            assert f"c{color(slots(race)[name])}" in css, (figure.key, mark.attrib)


def test_level_line_ends_where_the_baseline_needs_the_tokens_of_the_stated_speedup(race):
    figure = next(figure for figure in figures(race) if figure.key == "loss-vs-tokens")
    for board in (figure.wide, figure.narrow):
        # Two baseline points give the logarithmic axis in pixels; the level line must obey it.
        place = {}
        for mark in marks(board.root):
            if mark.get("data-tip").startswith("AdamW,"):
                tokens = mark.get("data-tip").split()[1]
                place[tokens] = float(re.match(r"translate\((\S+)", mark.get("transform")).group(1))
        points = {summary.tokens(p["tokens"]): p["tokens"] for p in race["law"]["points"]}
        low, high = min(points, key=points.get), max(points, key=points.get)
        per_log = (place[high] - place[low]) / math.log(points[high] / points[low])
        for name in ("lion", "muon", "soap"):
            css = f"level c{slots(race)[name]}"
            line = next(e for e in board.root.iter("line") if e.get("class") == css)
            drawn = (float(line.get("x2")) - float(line.get("x1"))) / per_log
            assert math.exp(drawn) == pytest.approx(race["results"][name]["speedup_tokens"]["value"], rel=2e-3)
            assert line.get("y1") == line.get("y2")


def test_what_the_law_cost_beside_the_tuning_is_said(race):
    race["law"] |= {"runs": {"runs": 12, "tokens": 15e6}, "tuning": {"runs": 6, "tokens": 6e6}}
    caption = next(figure.caption for figure in figures(race) if figure.key == "tuning-spent")
    assert "12 runs more (15M tokens), and 6 (6M tokens) to tune it again" in caption


def test_learning_rate_panels_show_what_diverged_and_ring_the_best(race):
    figure = next(figure for figure in figures(race) if figure.key == "loss-vs-lr")
    points = [point for result in race["results"].values() for point in result["lr"]["points"]]
    drawn = marks(figure.wide.root)
    assert len(drawn) == len(points)
    lost = [mark for mark in drawn if "lost" in mark.get("class").split()]
    assert len(lost) == sum(point["loss"] is None for point in points) > 0
    assert all("diverged" in mark.get("data-tip") for mark in lost)
    assert sum(e.get("class", "").startswith("ring") for e in figure.wide.root.iter()) == len(race["optimizers"])
    assert "Not bracketed: SOAP (at the high edge)." in figure.caption


def table_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_hold_the_race_s_own_numbers_and_both_commands(race, tmp_path):
    export.write(race, tmp_path / "out")
    rows = table_of(tmp_path / "out/table.csv")
    assert [row["optimizer"] for row in rows] == ["adamw", "muon", "soap", "lion"]
    for row in rows:
        result = race["results"][row["optimizer"]]
        assert float(row["final_loss"]) == result["final"]["mean"]
        assert row["speedup_tokens"] == str(result["speedup_tokens"]["value"] or "")
    curves = table_of(tmp_path / "out/figures/training-curves.csv")
    assert [float(row["loss"]) for row in curves] == [v for curve in race["curves"] for v in curve["loss"]]
    figure = json.loads((tmp_path / "out/figures/loss-vs-tokens.json").read_text())
    assert figure["rerun"] == race["command"]
    assert figure["redraw"] == f"steepest report {tmp_path / 'out' / 'race.json'}"
    final = {row["optimizer"]: row for row in figure["rows"] if row["kind"] == "final"}
    speedup = race["results"]["muon"]["speedup_tokens"]["value"]
    assert final["muon"]["equal_loss_tokens"] == pytest.approx(race["setup"]["tokens"] * speedup)


def test_links_of_the_page_hold_the_same_data_as_the_files(race, tmp_path):
    export.write(race, tmp_path)
    links = {}
    for name, address in re.findall(
        r'href="(data:[^"]*)" download="([^"]*)"', page.html(race, tmp_path / "race.json")
    ):
        links[address] = unquote(name.split(",", 1)[1])
    assert links["table.csv"] == (tmp_path / "table.csv").read_bytes().decode()
    assert links["speedups.csv"] == (tmp_path / "figures/speedups.csv").read_bytes().decode()
    assert json.loads(links["speedups.json"]) == json.loads((tmp_path / "figures/speedups.json").read_text())
    assert json.loads(links["race.json"]) == race


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("setup.tokens", "setup.tokens is missing"),
        ("results.muon", "results.muon is missing"),
        ("results.muon.final.mean", "results.muon.final.mean is missing"),
        ("setup.corpus.source", "setup.corpus.source is missing"),
        ("law", "law is missing"),
        ("versions", "versions is missing"),
    ],
)
def test_a_missing_key_is_named(race, path, named):
    *parents, last = path.split(".")
    inner = race
    for key in parents:
        inner = inner[key]
    del inner[last]
    with pytest.raises(CorruptFile, match=re.escape(named)) as caught:
        page.html(race)
    assert "steepest race" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda race: race["setup"].update(tokens="many"), "setup.tokens is 'many', not a int or float"),
        (lambda race: race["setup"].update(tokens=0), "setup.tokens is 0, not positive"),
        (lambda race: race.update(optimizers="adamw"), "optimizers is 'adamw', not a list"),
        (lambda race: race.update(baseline="sgd"), "baseline 'sgd' is not among the optimizers"),
        (lambda race: race["curves"][0]["loss"].pop(), "curves.0 has 32 tokens and 31 losses"),
        (lambda race: race.update(format=2), "format 2, this version reads format 1"),
        (lambda race: race.update(results=[]), "results is [], not a dict"),
    ],
)
def test_a_wrong_value_is_named(race, change, named):
    change(race)
    with pytest.raises(CorruptFile, match=re.escape(named)):
        page.html(race)


def test_damaged_truncated_and_absent_race_files_are_told_in_one_line(tmp_path, capsys):
    (tmp_path / "race.json").write_text(RACE.read_text()[:1000])
    assert cli.main(["report", str(tmp_path)]) == 2
    (tmp_path / "race.json").write_bytes(b"\xff\xfe\x00binary")
    assert cli.main(["report", str(tmp_path / "race.json")]) == 2
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("steepest: ") and "`steepest race`" in line for line in lines)
    with pytest.raises(CorruptFile, match="holds a list"):
        schema.checked([])


def test_report_verb_redraws_page_and_files_beside_the_race(tmp_path, capsys):
    (tmp_path / "race.json").write_bytes(RACE.read_bytes())
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "Muon" in capsys.readouterr().out
    first = (tmp_path / "report.html").read_bytes()
    assert cli.main(["report", str(tmp_path / "race.json"), "--json"]) == 0
    assert [row["optimizer"] for row in json.loads(capsys.readouterr().out)] == ["adamw", "muon", "soap", "lion"]
    assert (tmp_path / "report.html").read_bytes() == first  # the same race, the same bytes
    assert (tmp_path / "figures" / "speedups.csv").exists()


def test_a_full_disk_keeps_the_old_page_and_leaves_no_half_file(race, tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    page.write(race, target)
    before = target.read_bytes()

    class Full(io.TextIOWrapper):
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdopen", lambda handle, *_, **__: Full(io.FileIO(handle, "w")))
    with pytest.raises(BadInput, match=r"cannot write .*report\.html \(No space left on device\)"):
        page.write(race, target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_report_imports_no_torch():
    script = (
        "import sys; import steepest.cli.report; from steepest.lab.report import export, page, schema, terminal; "
        "assert not {'torch', 'jinja2', 'rich'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_page_without_jinja2_asks_for_the_extra(race, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **named):
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtra, match=r"pip install 'steepest\[lab\]'"):
        page.html(race)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("rich", [True, False])
def test_terminal_table_has_every_optimizer_with_and_without_rich(race, rich, monkeypatch):
    race["results"]["lion"]["label"] = "[red]lion[/red]"
    monkeypatch.setenv("COLUMNS", "200")
    if not rich:
        monkeypatch.setitem(sys.modules, "rich", None)
    out = Terminal()
    terminal.show(race, out)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    for words in ("AdamW", "[red]lion[/red]", "1.44×", "1.34 to 1.55", "not told apart", "slower in seconds"):
        assert words in text


@given(st.floats(1e-9, 1e9), st.floats(1.0001, 1e6), st.booleans(), st.integers(1, 8))
def test_ticks_lie_on_the_scale_in_order_and_are_few(low, factor, log, about):
    scale = Scale(low, low * factor, 0, 100, log)
    ticks = scale.ticks(about)
    assert ticks == sorted(set(ticks)) and len(ticks) <= 2 * about + 2
    assert all(-0.01 <= scale(tick) <= 100.01 for tick in ticks)


@given(st.lists(st.floats(-50, 150), max_size=12), st.floats(1, 40))
def test_spread_keeps_order_room_and_bounds(wanted, gap):
    placed = spread(wanted, gap, 0, 100)
    room = min(gap, 100 / max(1, len(wanted) - 1))
    pairs = sorted(zip(wanted, placed, strict=True), key=lambda pair: (pair[0], pair[1]))
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in placed)
    assert all(b[1] - a[1] >= room - 1e-6 for a, b in itertools.pairwise(pairs))


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999"), (2_097_152, "2.1M"), (999_999, "1M"), (150_000, "150k"), (3.2e9, "3.2B")]
)
def test_counts_of_tokens_are_short(value, text):
    assert summary.tokens(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.02, "0.02"), (0.001, "0.001"), (6e-4, "6e-4"), (1.5e-4, "1.5e-4"), (None, "–")]
)
def test_learning_rates_are_written_as_people_write_them(value, text):
    assert summary.lr(value) == text


@pytest.mark.parametrize(
    ("low", "high", "words", "verdict"),
    [
        (1.2, 1.5, "1.20 to 1.50", "faster"),
        (1.2, None, "1.20 or more", "faster"),
        (0.9, None, "0.90 or more", "not told apart"),
        (None, 0.9, "up to 0.90", "slower"),
        (None, None, "", "not told apart"),
    ],
)
def test_open_ended_intervals_are_told_as_open(low, high, words, verdict):
    assert summary.interval(low, high, 2) == words
    assert summary.told({"value": 1.3, "low": low, "high": high}) == verdict


def test_a_refusal_is_explained_by_its_flags_where_it_has_no_reason():
    assert summary.reason({"value": None, "flags": ["below the fitted floor"]}) == "below the fitted floor"


def test_long_names_keep_both_ends():
    assert shortened("./a/long/way/to/mine.py:MyOptimizer", 20) == "./a/lo…y:MyOptimizer"
    assert shortened("Muon", 20) == "Muon"


# Machado, Oliveira and Fernandes 2009, table 1, severity 1: linear sRGB as seen without one kind of cone.
SEEN = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


@pytest.mark.parametrize("eye", SEEN)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stay_apart_for_every_kind_of_eye(scheme, eye):
    style = (Path(page.__file__).with_name("figures.css")).read_text().split("@media")[scheme == "dark"]
    palette = {int(slot): code for slot, code in re.findall(r"--k(\d+): #(\w{6})", style)}
    assert sorted(palette) == list(range(12))
    rgb = np.array([[int(palette[slot][at : at + 2], 16) / 255 for at in (0, 2, 4)] for slot in range(12)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(SEEN[eye]).T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = seen @ to_xyz.T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    apart = np.linalg.norm(lab[:, None] - lab, axis=2) + 1000 * np.eye(12)
    # CIE 1976 difference; 2.3 is just noticeable. Shapes and names stand beside every colour.
    assert apart[:8, :8].min() > 15 and apart.min() > 9
