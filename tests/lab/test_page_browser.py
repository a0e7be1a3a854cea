"""The pages of a race and of a study in a real browser."""

import json
from pathlib import Path

import pytest
from chromium import DESKTOP, PHONE

from steepest.lab.analysis.evidence import evidence
from steepest.lab.analysis.finals import finals_of
from steepest.lab.report import page, summary
from steepest.lab.report.study import export
from steepest.lab.report.study import summary as study_summary
from steepest.lab.report.study.figures import figures

RACE = Path(__file__).with_name("data") / "race.json"


def best_point() -> str:
    """What the page says of the baseline's best learning rate."""
    race = json.loads(RACE.read_text())
    result = race["results"][race["baseline"]]
    loss = next(point["loss"] for point in result["lr"]["points"] if point["lr"] == result["lr"]["best"])
    rate = summary.lr(result["lr"]["best"])
    return f"{result['label']}, lr {rate}\nloss {loss:.3f}\nbest, {summary.bracket(result)}"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    page.write(json.loads(RACE.read_text()), path)
    return path


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Twelve optimizers with long and hostile names."""
    race = json.loads(RACE.read_text())
    for number in range(8):
        name = f"./folder/a_rather_long_file_name_{number}.py:AnOptimizer<script>alert({number})</script>"
        race["optimizers"].append(name)
        copied = json.loads(json.dumps(race["results"]["lion"]))
        copied["final"]["mean"] += 0.01 * number
        race["results"][name] = copied | {"label": name}
        race["untuned"]["per_optimizer"][name] = {"momentum" * 12: "0123456789" * 12}
    path = tmp_path_factory.mktemp("crowded") / "report.html"
    page.write(race, path)
    return path


@pytest.fixture(scope="module")
def runs(made):
    return made.made(tried=8, curves=12)


@pytest.fixture(scope="module")
def studied(runs):
    labels = {"adamw": "AdamW", "nadamw": "NAdamW", "lion": "Lion", "muon": "Muon", "soap": "SOAP", "kron": "Kron"}
    given = {"title": "six", "command": "steepest study run six.toml", "source": "made", "labels": labels}
    return evidence(runs, finals_of(runs), baseline="adamw", **given)


@pytest.fixture(scope="module")
def study(studied, runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    export.publish(studied, runs, folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def crowded_study(made, tmp_path_factory):
    """Six optimizers with long and hostile names, four sizes with names as long."""
    sizes = {f"a-model-of-{count}-weights-and-a-long-name": count for count in (20_000, 50_000, 110_000, 400_000)}
    runs = made.made(sizes=sizes, tried=4, curves=4)
    name = "./folder/a_rather_long_file_name_{}.py:AnOptimizer<script>alert({})</script>"
    labels = {run.optimizer: name.format(run.optimizer, run.optimizer) for run in runs}
    given = {"title": "hostile" * 30, "command": "x" * 300, "source": "made" * 50, "labels": labels}
    folder = tmp_path_factory.mktemp("crowded-study")
    export.publish(evidence(runs, finals_of(runs), baseline="adamw", **given), runs, folder)
    return folder / "report.html"


OVERLAPS = """[...document.querySelectorAll("figure svg")].flatMap(svg => {
    const seen = [...svg.querySelectorAll("text")].filter(text => text.textContent.trim())
        .map(text => [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.width > 0);
    return seen.flatMap(([words, a], at) => seen.slice(at + 1).filter(([, b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
        .map(([other]) => `${svg.closest("figure").id}: ${words} | ${other}`));})"""


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
class TestBothWidths:
    @pytest.mark.parametrize("which", ["report", "study"])
    def test_no_complaint_and_no_request_but_the_file_itself(self, browser, request, size, which):
        path = request.getfixturevalue(which)
        browser.open(path, size)
        assert browser.complaints() == []
        assert browser.requests() == [path.as_uri()]

    def test_every_figure_of_a_study_shows_one_drawing_whose_words_do_not_overlap(
        self, browser, study, studied, size
    ):
        browser.open(study, size)
        drawn = browser.run("""[...document.querySelectorAll("figure")].map(figure => [figure.id,
            [...figure.querySelectorAll("svg")].filter(svg => svg.getBoundingClientRect().width > 0).length])""")
        assert drawn == [[figure.key, 1] for figure in figures(studied)]
        assert browser.run(OVERLAPS) == []

    def test_every_figure_shows_exactly_one_drawing_with_its_marks(self, browser, report, size):
        browser.open(report, size)
        figures = browser.run("""[...document.querySelectorAll("figure")].map(figure => {
            const seen = [...figure.querySelectorAll("svg")].filter(svg => svg.getBoundingClientRect().width > 0);
            const marks = seen.length ? [...seen[0].querySelectorAll(".mark")] : [];
            return {key: figure.id, drawings: seen.length, marks: marks.length,
                    sized: marks.filter(mark => mark.getBoundingClientRect().width > 0.5).length};})""")
        assert [figure["key"] for figure in figures] == [
            "loss-vs-tokens", "speedups", "loss-vs-lr", "training-curves", "tuning-spent", "step-costs",
        ]  # fmt: skip
        for figure in figures:
            assert figure["drawings"] == 1, figure
            assert figure["marks"] >= 4 and figure["sized"] == figure["marks"], figure

    def test_the_verdict_is_on_the_first_screen(self, browser, report, size):
        browser.open(report, size)
        text, bottom = browser.run(
            "(h => [h.innerText, h.getBoundingClientRect().bottom])(document.querySelector('#verdict'))"
        )
        assert "Muon 1.44×" in text and "not told apart" in text
        assert bottom < size[1] / 2

    def test_the_verdict_of_a_study_and_its_first_table_are_on_the_first_screen(
        self, browser, study, studied, size
    ):
        browser.open(study, size)
        text, bottom, table = browser.run("""(h => [h.innerText, h.getBoundingClientRect().bottom,
            document.querySelector("table").getBoundingClientRect().top])(document.querySelector("#verdict"))""")
        assert text == study_summary.headline(studied)
        assert bottom < size[1] / 2 and table < size[1]

    @pytest.mark.parametrize("which", ["report", "crowded", "study", "crowded_study"])
    def test_the_page_never_scrolls_sideways(self, browser, request, size, which):
        browser.open(request.getfixturevalue(which), size)
        browser.run("document.querySelectorAll('details').forEach(details => details.open = true)")
        assert browser.run("document.documentElement.scrollWidth") == size[0]
        wide = browser.run("""[...document.querySelectorAll("main *")].filter(element =>
            !element.closest(".scroll, svg") && element.getBoundingClientRect().right > innerWidth + 1)
            .map(element => element.outerHTML.slice(0, 80))""")
        assert wide == []

    @pytest.mark.parametrize("which", ["report", "study", "crowded_study"])
    def test_no_words_of_a_drawing_are_cut_off_at_its_edges(self, browser, request, size, which):
        browser.open(request.getfixturevalue(which), size)
        cut = browser.run("""[...document.querySelectorAll("figure svg text")].filter(text => {
            const box = text.getBoundingClientRect(), page = document.body.getBoundingClientRect();
            return box.width && (box.left < 0 || box.right > innerWidth);}).map(text => text.textContent)""")
        assert cut == []

    def test_the_pointer_reads_a_value_from_a_mark(self, browser, report, size):
        browser.open(report, size)
        x, y = browser.run("""(() => {
            const marks = [...document.querySelectorAll("#loss-vs-lr .mark")];
            const mark = marks.find(mark => mark.getBoundingClientRect().width && /best/.test(mark.dataset.tip));
            mark.scrollIntoView({block: "center"});
            const box = mark.getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2];})()""")
        browser.run("new Promise(done => setTimeout(done, 60))")  # the scroll event hides what was shown
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert browser.run("document.querySelector('#tip').innerText") == best_point()
        left, right = browser.run(
            "(b => [b.left, b.right])(document.querySelector('#tip').getBoundingClientRect())"
        )
        assert 0 <= left < right <= size[0]


@pytest.mark.parametrize("which", ["crowded", "crowded_study"])
def test_a_hostile_name_runs_nothing(browser, request, which):
    browser.open(request.getfixturevalue(which), DESKTOP)
    assert browser.complaints() == []
    assert not any(event["method"] == "Page.javascriptDialogOpening" for event in browser.events)
    assert browser.run("document.scripts.length") == 1


def test_a_dark_screen_still_prints_dark_on_white(browser, report):
    browser.open(report, DESKTOP, "dark")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", media="print", features=dark)
    try:
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browser.run("getComputedStyle(document.body).getPropertyValue('--k0')").strip() == "#272521"
    finally:
        browser.call("Emulation.setEmulatedMedia", media="", features=[])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_marks_stand_out_from_the_paper_in_either_scheme(browser, report, scheme):
    browser.open(report, DESKTOP, scheme)
    worst = browser.run("""(() => {
        const probe = document.body.appendChild(document.createElement("p"));
        const shine = name => {
            probe.style.color = `var(${name})`;
            const parts = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(part => part / 255);
            const [r, g, b] = parts.map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;};
        const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const names = ["--ink", "--quiet", "--good", "--bad", ...Array.from({length: 12}, (_, n) => `--k${n}`)];
        return Object.fromEntries(names.map(name => [name, contrast(shine(name), shine("--paper"))]));})()""")
    dark = browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 23, 26)"
    assert dark == (scheme == "dark")
    for name, contrast in worst.items():
        # 4.5 for text and 3 for marks: WCAG 2.1, success criteria 1.4.3 and 1.4.11; names are set in their colour.
        assert contrast >= (4.5 if name in ("--ink", "--quiet", "--good", "--bad") else 3.6), (name, contrast)
