"""The site's made pages: one for each rule, whole, from its declarations; and the recipes, which run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import of_run
from generate import PLACES, filled, makers, measured, memory, optimizer, schedules
from generate.text import prose

import steepest
from steepest.cli import VERBS
from steepest.core.rule import Rule, hyperparameters
from steepest.registry import rules
from steepest.schedules import SCHEDULES, known_options

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
pytestmark = pytest.mark.xdist_group("docs")  # one worker, so that the pages are made once
WRITTEN = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return {place: make() for place, make in makers().items()}


@pytest.mark.parametrize("name", rules())
def test_a_rules_page_tells_everything_that_it_declares(name: str, made: dict[str, str]) -> None:
    rule, page = rules()[name], made[f"optimizers/{name}.md"]
    for line in filter(None, map(str.strip, rule.pseudocode.splitlines())):
        assert line in page
    for known, hyper in hyperparameters(rule).items():
        assert f"| `{known}` |" in page and prose(hyper.meaning) in page
    for variant in rule.variants:
        assert f"| `{variant}` |" in page
    for quirk in rule.quirks:
        assert prose(quirk) in page
    assert prose(rule.paper) in page and prose(rule.recipe_source) in page


@pytest.mark.parametrize("name", rules())
def test_a_rule_says_when_to_use_it(name: str) -> None:
    assert len(rules()[name].advice.split()) >= 20, "advice: when to use it and when not, for its page"


@pytest.mark.parametrize("name", rules())
def test_the_state_on_a_rules_page_is_what_a_step_leaves(name: str) -> None:
    """Allocated without memory there, with memory and moved here."""
    for role, weight in (("ffn_in", torch.randn(12, 20)), ("norm", torch.randn(20))):
        told = memory.of_weight(rules()[name], tuple(weight.shape), role)
        assert told is not None
        p = torch.nn.Parameter(weight)
        kind = getattr(steepest, rules()[name].__name__)
        optimizer_ = kind([("weight", p)], roles={"weight": role}, **of_run(rules()[name]))
        p.grad = torch.randn_like(weight)
        steepest.estimates.step(optimizer_, lambda ask, p=p: {p: p.detach()})  # type: ignore[misc]
        kept = {k: (tuple(t.shape), t.dtype) for k, t in optimizer_.state[p].items() if k != "step"}
        assert kept == told.slots


def test_the_formula_of_a_matrix_counts_its_slots() -> None:
    assert memory.formula(rules()["adamw"]) == "8mn"
    assert memory.formula(rules()["soap"]) == "8mn + 8m² + 8n²"
    assert memory.formula(rules()["sgd"]) == "0"
    assert memory.formula(rules()["galore"], "official") == "512m + 1,024n"  # 4 bytes, rank 128: mr + 2nr


def test_every_verb_and_public_name_has_its_place(made: dict[str, str]) -> None:
    assert all(f"\n## {verb}\n" in made["cli.md"] for verb in VERBS)
    plain = [name for name in dir(steepest) if not hasattr(getattr(steepest, name), "rule")]
    assert plain and all(f"\n## steepest.{name}\n" in made["api.md"] for name in plain)


def test_no_made_page_names_a_folder_of_the_machine_that_made_it(made: dict[str, str]) -> None:
    for place, page in made.items():
        assert str(ROOT) not in page and str(Path.home()) + "/" not in page, place


def test_plain_text_stays_as_it_is_written() -> None:
    assert prose("a*b*c <x> m_t | [1]") == r"a\*b\*c &lt;x> m\_t \| \[1\]"
    assert prose("``a[0]`` and :func:`b_c`") == "`a[0]` and `b_c`"


def test_a_rule_of_ones_own_gets_its_page_too() -> None:
    class Bare(Rule):
        """Nothing but a gradient."""

        def slots(self, shape: tuple[int, ...]) -> dict[str, object]:
            return {}

    page = optimizer.page("bare", Bare)
    assert "Nothing but a gradient" in page and "Not measured yet: `steepest bench bare`" in page


@pytest.mark.parametrize("place", WRITTEN)
def test_every_table_that_a_written_page_asks_for_is_made(place: str) -> None:
    text = (DOCS / place).read_text()
    asked = re.findall(r"<!-- table: ([\w-]+) -->", text)
    assert set(asked) <= set(PLACES)
    assert "<!-- table" not in filled(text)


@pytest.mark.parametrize("name", sorted(measured.robustness().get("rules", {})))
def test_the_record_of_robustness_is_of_a_rule_and_has_its_figure(name: str) -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "robustness.json").read_text())["rules"][name]
    assert name in rules() and found["finite"]
    assert "gradient × 100" in (DOCS / "robustness" / f"{name}.svg").read_text()


def test_the_pictures_of_the_schedules_are_those_that_the_schedules_make() -> None:
    made = schedules.files()
    assert {path.name: path.read_text() for path in (DOCS / "schedules").iterdir()} == made, (
        "cd docs && python -m generate"
    )
    page = (DOCS / "schedules.md").read_text()
    assert all(f"(schedules/{name})" in page for name in made)


def test_the_page_of_the_schedules_names_each_with_its_settings() -> None:
    page = filled((DOCS / "schedules.md").read_text())
    for name in SCHEDULES:
        assert f"| `{name}` |" in page
        for option in known_options(name):
            assert f"`{option}" in page


def test_the_example_on_the_page_of_the_schedules_runs() -> None:
    example = re.search(r"```python\n(.*?)```", (DOCS / "schedules.md").read_text(), re.S)
    assert example is not None
    exec(example[1], {})


def test_the_site_builds_with_every_link_leading_somewhere(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("no mkdocs-material: make docs installs it")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(rules())
    loaded = re.compile(r'<(?:script|img|iframe)[^>]* src="https?:|<link[^>]* rel="stylesheet"[^>]* href="https?:')
    assert not [page.name for page in pages if loaded.search(page.read_text())], "nothing is fetched to be read"


@pytest.mark.parametrize("name", rules())
def test_what_a_variant_wants_measured_stands_on_its_page(name: str, made: dict[str, str]) -> None:
    for variant in rules()[name].variants:
        rule = optimizer.instance(rules()[name], variant)
        for ask in (ask for t in range(1, 21) for ask in (*rule.needs(t), *rule.asks(t))):
            assert f"`{ask.kind}`" in made[f"optimizers/{name}.md"]
