"""The page of a race in a real browser."""

import json
from pathlib import Path

import pytest
from chromium import DESKTOP, PHONE

from steepest.lab.report import page, summary

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


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
class TestBothWidths:
    def test_no_complaint_and_no_request_but_the_file_itself(self, browser, report, size):
        browser.open(report, size)
        assert browser.complaints() == []
        assert browser.requests() == [report.as_uri()]

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

    @pytest.mark.parametrize("which", ["report", "crowded"])
    def test_the_page_never_scrolls_sideways(self, browser, request, size, which):
        browser.open(request.getfixturevalue(which), size)
        browser.run("document.querySelectorAll('details').forEach(details => details.open = true)")
        assert browser.run("document.documentElement.scrollWidth") == size[0]
        wide = browser.run("""[...document.querySelectorAll("main *")].filter(element =>
            !element.closest(".scroll, svg") && element.getBoundingClientRect().right > innerWidth + 1)
            .map(element => element.outerHTML.slice(0, 80))""")
        assert wide == []

    def test_no_words_of_a_drawing_are_cut_off_at_its_edges(self, browser, report, size):
        browser.open(report, size)
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


def test_a_hostile_name_runs_nothing(browser, crowded):
    browser.open(crowded, DESKTOP)
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
