"""The page of a study without a browser: what it says, what it refuses, what it writes."""

import base64
import copy
import csv
import gzip
import io
import json
import re
from urllib.parse import unquote

import pytest
from drawings import check_sound

from steepest import cli
from steepest.core.errors import BadInput, CorruptFile
from steepest.lab.analysis.evidence import evidence
from steepest.lab.analysis.finals import finals_of
from steepest.lab.report import frame
from steepest.lab.report.load import load
from steepest.lab.report.study import export, page, schema, summary, terminal
from steepest.lab.report.study.figures import figures
from steepest.lab.report.study.tables import tables

LABELS = {"adamw": "AdamW", "nadamw": "NAdamW", "lion": "Lion", "muon": "Muon", "soap": "SOAP", "kron": "Kron"}
GIVEN = {
    "baseline": "adamw",
    "title": "six optimizers",
    "command": "steepest study run six.toml",
    "source": "made",
}
HOSTILE = '</script><script>alert("1")</script>&<b>'


@pytest.fixture(scope="module")
def runs(made):
    return made.made(tried=6, curves=6)


@pytest.fixture(scope="module")
def whole(runs):
    return evidence(runs, finals_of(runs), **GIVEN, labels=LABELS, created="2025-11-21T00:00:00+00:00")


@pytest.fixture
def study(whole):
    return copy.deepcopy(whole)


@pytest.fixture(scope="module")
def few_runs(made):
    return made.made(("adamw", "muon", "lion"), {"20k": 20_000, "110k": 110_000}, tried=6, curves=6)


@pytest.fixture(scope="module")
def few(few_runs):
    return evidence(few_runs, finals_of(few_runs), **GIVEN, labels=LABELS, created="2025-11-21T00:00:00+00:00")


@pytest.fixture
def small(few):
    """Three optimizers at two sizes: quick to draw."""
    return copy.deepcopy(few)


def bare(study):
    """Nothing but what the format demands."""
    kept = set(schema.STUDY) | {"format"}
    for key in set(study) - kept:
        del study[key]
    for key in ("curves", "runs"):
        del study[key]


def unmeasured(study):
    """No loss anywhere, as after a night in which everything diverged."""
    for cell in study["cells"]:
        cell |= {"loss": None, "low": None, "high": None, "seeds": 0, "best": None}
    study |= {"speedups": [], "laws": [], "trends": [], "joint": [], "curves": []}


def one_seed(study):
    for entry in [*study["cells"], *study["speedups"]]:
        entry |= {"low": None, "high": None}
    for cell in study["cells"]:
        cell["seeds"] = 1


def crowd(study):
    for number in range(9):
        name = f"./a/long/way/to/mine_{number}.py:MyOptimizer{HOSTILE}"
        study["optimizers"].append(name)
        study["labels"][name] = name
        for section in ("cells", "speedups", "curves"):
            mine = [entry for entry in study[section] if entry["optimizer"] == "lion"]
            study[section] += [copy.deepcopy(entry) | {"optimizer": name} for entry in mine]


def alone(study):
    study |= {"optimizers": ["adamw"], "flips": [], "pareto": []}
    without(study, lambda name: name != "adamw")


def without(study, gone):
    """Takes everything away that is of these optimizers alone."""
    for name, section in study.items():
        if isinstance(section, list):
            kept = [e for e in section if not (isinstance(e, dict) and gone(e.get("optimizer", "adamw")))]
            study[name] = kept


CASES = {
    "as it is": lambda study: None,
    "bare": bare,
    "nothing ended": unmeasured,
    "one seed": one_seed,
    "fifteen": crowd,
    "alone": alone,
    "no upper end": lambda study: [entry.update(high=None) for entry in study["speedups"]],
    "one far off": lambda study: study["cells"][1].update(loss=9.0),
    "variants": lambda study: [cell.update(variant="no_qk_norm") for cell in study["cells"][-3:]],
    "one place": lambda study: study.update(cells=[c for c in study["cells"] if c["tokens"] == 400_000]),
}


@pytest.mark.parametrize("case", CASES)
def test_page_files_and_terminal_are_written_for(case, small, tmp_path):
    CASES[case](small)
    page.write(small, tmp_path / "report.html")
    files = export.write(small, tmp_path)
    out = io.StringIO()
    terminal.show(small, out)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    drawn = figures(schema.checked(small))
    assert text.count("<figure") == len(drawn)
    assert len(files) == 1 + 3 * len(drawn) and all(file.stat().st_size for file in files)
    assert summary.headline(schema.checked(small)) in out.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_drawings_are_sound_xml_with_finite_numbers_inside_the_frame_for(case, small):
    CASES[case](small)
    for figure in figures(schema.checked(small)):
        check_sound(figure)


# ---- what it says


def verdicts(study, at, flags=(), **words):
    """Gives the speedups at the largest size's longest schedule these words and values; everyone else is away."""
    for entry in study["speedups"]:
        if (entry["size"], entry["ratio"]) == at and entry["optimizer"] in words:
            word, value = words[entry["optimizer"]]
            low, high = {"no interval": (None, None)}.get(word, (0.9, 2.0))
            entry |= {"word": word, "speedup": value, "low": low, "high": high, "flags": [*flags]}
    gone = set(study["optimizers"]) - set(words) - {"adamw"}
    study["optimizers"] = [name for name in study["optimizers"] if name not in gone]
    study["certificates"] = []
    without(study, gone.__contains__)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"muon": ("faster", 1.31)}, "faster than AdamW: Muon 1.31×."),
        ({"muon": ("slower", 0.5)}, "slower than AdamW: Muon 0.50×."),
        ({"muon": ("not told apart", 1.1)}, "not told apart from AdamW: Muon."),
        ({"muon": ("no interval", 1.1)}, "without interval, against AdamW: Muon 1.10×."),
        ({"muon": ("faster", 1.31), "lion": ("refused", None)},
         "faster than AdamW: Muon 1.31×; no speedup stated: Lion."),
        ({"muon": ("faster", 1.31), "kron": ("not told apart", 1.0), "lion": ("slower", 0.9)},
         "faster than AdamW: Muon 1.31×; slower than it: Lion 0.90×; not told apart from it: Kron."),
    ],
)  # fmt: skip
def test_the_headline_tells_every_verdict_of_the_largest_size_and_longest_schedule(study, words, sentence):
    verdicts(study, ("110k", 8.0), **words)
    assert summary.headline(study) == f"At 110k weights and 8× data, {sentence}"


def test_a_flagged_number_of_the_headline_has_an_asterisk_and_the_asterisk_a_reason(study):
    verdicts(study, ("110k", 8.0), ["outside the fitted range"], muon=("faster", 1.4))
    assert summary.headline(study).endswith("faster than AdamW: Muon 1.40×*.")
    assert "* outside the fitted range." in summary.lead(study)


def test_the_headline_says_tuned_of_a_certified_baseline_alone_and_one_seed_of_one_seed(study):
    place = summary.decisive(study)
    for certified, words in ((True, "than tuned AdamW"), (False, "than AdamW")):
        for entry in study["certificates"]:
            entry["certified"] = certified
        assert words in summary.headline(study)
    for cell in study["cells"]:
        cell["seeds"] = 1 if (cell["size"], cell["tokens"]) == place else 3
    assert summary.headline(study).startswith("With one seed each, at 110k weights and 8× data, ")


def test_many_limits_fold_and_none_is_lost(small):
    small["not_supported"] = [f"Limit {number}." for number in range(30)]
    text = page.html(small)
    assert "And 14 more" in text and all(f"<li>Limit {number}.</li>" in text for number in range(30))


def test_the_clock_and_operations_are_told_where_they_tell_otherwise_than_tokens(study):
    assert not any("clock" in said or "operations" in said for said in summary.lead(study))
    place = summary.decisive(study)
    for entry in study["speedups"]:
        if entry["optimizer"] == "muon" and (entry["size"], entry["tokens"]) == place:
            entry["seconds"] = {"value": 1.2, "low": 1.1, "high": None, "flags": []}
    assert "On the clock, step times included: Muon 1.20× (≥ 1.10)." in summary.lead(study)
    row = next(r for r in summary.rows(study) if r["speedup_seconds"])
    assert (row["optimizer"], row["speedup_seconds_low"]) == ("muon", 1.1)


def test_what_the_evidence_supports_stands_before_what_it_does_not(small):
    assert "What this evidence supports" not in page.html(small)
    small["supported"] = ["Six of six."]
    text = page.html(small)
    assert text.index("<li>Six of six.") < text.index("What this evidence does not support")


def test_certified_settings_are_named_under_the_headline_and_signed_in_the_table(study):
    place = summary.decisive(study)
    here = [entry for entry in study["certificates"] if (entry["size"], entry["tokens"]) == place]
    for entry in here:
        entry["certified"] = entry["optimizer"] == "soap"
    assert "Certified there as local optima of their search: SOAP; the others are not." in summary.lead(study)
    rows = {row.optimizer: row.values[-1] for row in tables(study)[-1].rows}
    assert rows["soap"].certified and not rows["muon"].certified
    study.pop("certificates")
    assert any("is not recorded: none of them is certified" in said for said in summary.lead(study))


def test_the_headline_goes_to_the_largest_place_that_has_a_verdict(study):
    study["speedups"] = [entry for entry in study["speedups"] if entry["size"] != "110k"]
    assert summary.headline(study).startswith("At 50k weights and 8× data")
    study["speedups"] = []
    assert summary.headline(study).endswith("No speedup over AdamW is stated: no law was fitted.")
    alone(study)
    assert summary.headline(study) == "AdamW ran alone: this page holds its runs, and no comparison."


def test_the_lead_follows_one_optimizer_over_the_sizes(study):
    verdicts(study, ("20k", 8.0), ["outside the fitted range"], muon=("faster", 1.4))
    said, *_ = summary.lead(study)
    assert said.startswith("Muon at 8×: 1.40×* at 20k (0.90–2.00), ") and " at 110k (" in said


def test_a_table_per_size_has_the_baseline_first_and_then_the_best_by_loss(study):
    found = tables(study)
    assert [table.size for table in found] == ["20k", "50k", "110k"]
    assert found[0].ratios == ("1×", "2×", "4×", "8×")
    rows = {row.optimizer: row.values for row in found[0].rows}
    assert [*rows][:1] == ["adamw"] and [*rows][-1:] == ["lion"]
    loss = next(cell["loss"] for cell in study["cells"])
    assert rows["adamw"][0].value == f"{loss:.3f}" and rows["muon"][0].word == "faster"


def test_a_table_is_ordered_where_most_ended_not_at_the_budget_of_a_few(study):
    longest = max(cell["tokens"] for cell in study["cells"] if cell["size"] == "20k")
    few = [c for c in study["cells"] if c["tokens"] != longest or c["optimizer"] in ("adamw", "lion")]
    study["cells"] = few
    assert [row.optimizer for row in tables(study)[0].rows][-1] == "lion"


def test_without_a_law_the_headline_and_the_table_say_what_the_final_losses_do(study):
    for entry in study["speedups"]:
        entry |= {
            "speedup": None,
            "low": None,
            "high": None,
            "word": "refused",
            "flags": ["a law needs 4 budgets"],
        }
    said = summary.headline(study)
    assert said.startswith("At 110k weights and 8× data, lower final loss than AdamW: ")
    assert "; higher than it: Lion +0." in said
    assert said.endswith("No speedup over AdamW is stated: a law needs 4 budgets.")
    rows = {row.optimizer: row.values[0] for row in tables(study)[0].rows}
    assert rows["muon"].gap and rows["muon"].value.startswith("-0.0") and rows["muon"].small == "lower"
    assert not rows["adamw"].gap
    study["noise"] = None
    assert summary.headline(study).startswith("No speedup over AdamW is stated")
    assert {row.values[0].small for row in tables(study)[0].rows} == {"nats/token", "refused"}


def test_ratios_of_whole_steps_are_named_by_what_was_meant(study):
    for section in ("cells", "speedups"):
        for entry in study[section]:
            entry["ratio"] *= {"20k": 0.9987, "50k": 1.0013}.get(entry["size"], 1)
    assert [table.ratios for table in tables(study)] == [("1×", "2×", "4×", "8×")] * 3
    assert summary.lead(study)[0].count(" at ") == 4


def test_the_page_says_headline_limits_settings_commands_and_runs(study, tmp_path):
    study["warnings"] = ["Two records disagree."]
    page.write(study, tmp_path / "report.html")
    text = re.sub(r"<[^>]*>|data:(?! )[^\"]*", " ", (tmp_path / "report.html").read_text())
    words = " ".join(text.split())
    for said in (
        summary.headline(study), "Two records disagree.", *study["not_supported"], "weight_decay",
        study["command"], f"steepest report {tmp_path / 'study.json'}", "648 runs", "mean of 3 fresh seeds",
    ):  # fmt: skip
        assert " ".join(said.replace("'", "&#39;").split()) in words, said


def test_names_cannot_become_markup(small):
    crowd(small)
    small["warnings"] = small["not_supported"] = [HOSTILE]
    small["provenance"] = {HOSTILE: HOSTILE}
    small["command"] = small["title"] = small["source"] = HOSTILE
    text = page.html(small)
    assert text.count("<script") == 1 and "alert(" in text


def test_the_page_needs_no_network_and_no_file_but_a_table_of_runs_that_lies_beside_it(small, few_runs, tmp_path):
    assert set(re.findall(r'href="(?!data:|#)([^"]*)"', page.html(small))) == set()
    export.publish(small, few_runs, tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert set(re.findall(r'href="(?!data:|#)([^"]*)"', text)) == {"runs.csv"}
    with (tmp_path / "runs.csv").open(newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == [run.run for run in few_runs]


def attached(text):
    """The files inside a page, by name; packed ones opened."""
    found = {}
    for address, name in re.findall(r'href="(data:[^"]*)" download="([^"]*)"', text):
        kind, body = address.split(",", 1)
        packed = kind.endswith(";base64")
        data = gzip.decompress(base64.b64decode(body)) if packed else unquote(body).encode()
        assert packed == name.endswith(".gz")
        found[name.removesuffix(".gz")] = data.decode()
    return found


@pytest.mark.parametrize("plain", [0, 10**9], ids=["packed", "plain"])
def test_links_of_the_page_hold_the_same_data_as_the_files(small, tmp_path, plain, monkeypatch):
    monkeypatch.setattr(frame, "PLAIN", plain)
    export.write(small, tmp_path)
    links = attached(page.html(small, tmp_path / "study.json"))
    assert links["table.csv"] == (tmp_path / "table.csv").read_bytes().decode()
    for figure in figures(small):
        for kind in ("csv", "json"):
            assert (
                links[f"{figure.key}.{kind}"] == (tmp_path / f"figures/{figure.key}.{kind}").read_bytes().decode()
            )
    assert json.loads(links["study.json"]) == json.loads(json.dumps(small))


def test_long_data_stay_in_the_files_beside_the_page(small, monkeypatch):
    monkeypatch.setattr(frame, "HELD_ROWS", 10)
    text = page.html(small)
    assert 'href="figures/final-losses.csv"' in text and "all are in the files beside this page" in text


# ---- reading it


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda study: study.pop("cells"), "cells is missing"),
        (lambda study: study.update(baseline="sgd"), "baseline 'sgd' is not among the optimizers"),
        (lambda study: study["labels"].pop("muon"), "labels.muon is missing"),
        (lambda study: study["cells"][3].update(loss="low"), "cells.3.loss is 'low', not a int or float"),
        (lambda study: study["cells"][3].update(size="9k"), "cells.3.size '9k' is not among the sizes"),
        (lambda study: study["cells"][3].update(optimizer="x"), "cells.3.optimizer 'x' is not among"),
        (lambda study: study.update(runs=3), "runs is 3, not a list"),
        (lambda study: study.update(format=2), "format 2, this version reads format 1"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named(small, change, named):
    change(small)
    with pytest.raises(CorruptFile, match=re.escape(named)) as caught:
        page.html(small)
    assert "\n" not in str(caught.value)


def test_report_verb_draws_a_study_from_its_folder_and_from_its_file(small, few_runs, tmp_path, capsys):
    export.publish(small, few_runs, tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "Muon" in capsys.readouterr().out
    assert (tmp_path / "report.html").read_bytes() == first
    assert cli.main(["report", str(tmp_path / "study.json"), "--json", "--out", str(tmp_path / "out")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 24 and {row["verdict"] for row in rows} >= {"baseline", "faster", "slower"}
    assert (tmp_path / "out" / "figures" / "final-losses.csv").exists()


def test_a_folder_with_a_race_and_a_study_asks_which(small, tmp_path, capsys):
    for name in ("race.json", "study.json"):
        (tmp_path / name).write_text(json.dumps(small))
    with pytest.raises(BadInput, match="name the one"):
        load(tmp_path)
    assert load(tmp_path / "study.json")["kind"] == "study"
    (tmp_path / "study.json").write_text("{")
    assert cli.main(["report", str(tmp_path / "study.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
