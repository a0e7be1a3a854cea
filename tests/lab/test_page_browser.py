"""The page in a real browser: headless Chromium, driven over its DevTools pipe with the standard library alone."""

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from steepest.lab.report import page, summary

RACE = Path(__file__).with_name("data") / "race.json"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = "no Chromium: apt-get install -y chromium, or STEEPEST_CHROMIUM=/path/to/chromium"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
)
DESKTOP, PHONE = (1280, 900), (390, 844)


class Browser:
    """One headless browser with one tab; every event that the page causes is kept in ``events``."""

    def __init__(self, program: str) -> None:
        self.profile = tempfile.TemporaryDirectory(prefix="steepest-chromium-", ignore_cleanup_errors=True)
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # Chromium reads commands on descriptor 3 and answers on 4: the shell moves the pipes there, from above 10
        # so that neither lands on the other.
        high = [fcntl.fcntl(pipe, fcntl.F_DUPFD, 10) for pipe in (theirs_in, theirs_out)]
        command = [program, *FLAGS.split(), f"--user-data-dir={self.profile.name}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", *command],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for pipe in (theirs_in, theirs_out, *high):
            os.close(pipe)
        self.output, self.input = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb", buffering=0)
        self.events: list[dict] = []
        self.pending, self.count, self.session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.input.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict:
        while b"\0" not in self.pending:
            piece = self.output.read1(1 << 16)
            assert piece, f"the browser ended with status {self.process.wait()}"
            self.pending += piece
        message, self.pending = self.pending.split(b"\0", 1)
        return json.loads(message)

    def open(self, path: Path, size: tuple[int, int], scheme: str = "light") -> None:
        """Loads a file at a window size and colour scheme, and waits until it has settled."""
        self.events.clear()
        width, height = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 500)  # fmt: skip
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")

    def run(self, script: str):
        """The value of a JavaScript expression on the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def complaints(self) -> list[str]:
        """Console errors and warnings, exceptions, and refusals by the page's content policy."""
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"]))
            if event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning"):
                found.append(json.dumps(event["params"]["args"]))
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"):
                found.append(event["params"]["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        sent = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def close(self) -> None:
        try:
            self.session = None
            self.input.write(json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.input.close()
        self.output.close()
        self.profile.cleanup()


def best_point() -> str:
    """What the page says of the baseline's best learning rate."""
    race = json.loads(RACE.read_text())
    result = race["results"][race["baseline"]]
    loss = next(point["loss"] for point in result["lr"]["points"] if point["lr"] == result["lr"]["best"])
    rate = summary.lr(result["lr"]["best"])
    return f"{result['label']}, lr {rate}\nloss {loss:.3f}\nbest, {summary.bracket(result)}"


@pytest.fixture(scope="module")
def browser():
    given = os.environ.get("STEEPEST_CHROMIUM")
    program = given or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None or shutil.which("bash") is None:
        pytest.skip(INSTALL)
    if shutil.which(program) is None:
        pytest.fail(f"STEEPEST_CHROMIUM={given} is no program")
    driven = Browser(program)
    yield driven
    driven.close()


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
