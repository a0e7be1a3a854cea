"""What the repository says of itself: its floors, its imports, its texts."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from generate import makers

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "steepest").rglob("*.py"))
RULES = sorted((ROOT / "src" / "steepest" / "rules").glob("[!_]*.py"))
README = (ROOT / "README.md").read_text()


def texts() -> Iterator[Path]:
    """Every text file that belongs to the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout: the repository's own files cannot be told from others")
    for name in sorted(set(listing.stdout.decode().split("\0")) - {""}):
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes()[:8192]:
            yield path


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python text in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


# ---- imports


@pytest.mark.parametrize(
    "module",
    ["steepest", "steepest.cli", "steepest.core.errors", "steepest.lab.analysis", "steepest.lab.report"],
)
def test_importing_it_loads_no_torch(module: str) -> None:
    result = run(f"import sys, {module}; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr


def test_every_verb_configures_its_options_without_torch() -> None:
    code = (
        "import sys, argparse, importlib\n"
        "from steepest.cli import VERBS\n"
        "for verb in VERBS:\n"
        "    module = importlib.import_module(f'steepest.cli.{verb}')\n"
        "    module.configure(argparse.ArgumentParser())\n"
        "    assert 'torch' not in sys.modules, verb\n"
        "    assert module.SUMMARY == VERBS[verb], verb\n"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_analysis_and_report_work_where_torch_cannot_be_imported() -> None:
    code = (
        "import sys, pkgutil, importlib\n"
        "sys.modules['torch'] = None\n"
        "for room in ('steepest.lab.analysis', 'steepest.lab.report'):\n"
        "    for module in pkgutil.walk_packages(importlib.import_module(room).__path__, room + '.'):\n"
        "        importlib.import_module(module.name)\n"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_every_public_name_resolves() -> None:
    import steepest

    names = dir(steepest)
    assert {"AdamW", "Lion", "Muon", "SGD", "SOAP", "Signum", "explain_routing"} <= set(names)
    for name in names:
        assert getattr(steepest, name) is not None, name


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("rule", RULES, ids=lambda path: path.stem)
def test_a_rule_imports_core_and_linalg_only(rule: Path) -> None:
    ours = {name for name in imported_modules(rule) if name.split(".")[0] == "steepest"}
    assert all(name.split(".")[1] in ("core", "linalg") for name in ours), ours


@pytest.mark.parametrize(
    "engine", sorted((ROOT / "src/steepest/engines").glob("*.py")), ids=lambda path: path.stem
)
def test_no_engine_knows_an_optimizer_by_name(engine: Path) -> None:
    """In the code, that is: comments and docstrings may give an optimizer as an example."""
    names = {rule.stem for rule in RULES}
    tree = ast.parse(engine.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    prose = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)}
    for node in ast.walk(tree):
        word = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "value", None)
        if isinstance(word, str) and id(node) not in prose:
            assert word.lower() not in names, f"{engine.name}:{node.lineno} names {word!r}"


# ---- texts


def test_no_text_names_a_path_of_somebodys_machine() -> None:
    places = "|".join(("work", "root", "tmp", "opt", r"home/\w+", r"Users/\w+"))
    path = re.compile(rf"(?<![\w.~$}}*/-])/(?:{places})/\w|file:/" + "//")
    found = [
        f"{text.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for text in texts()
        for number, line in enumerate(text.read_text(errors="replace").splitlines(), 1)
        if path.search(line)
    ]
    assert not found, "\n".join(found)


def test_every_source_file_is_under_450_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) >= 450}
    assert not long


def test_the_versions_of_package_changelog_and_citation_agree() -> None:
    from steepest import __version__ as version

    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M).group(1) == version


def test_the_constraints_pin_every_dependency_and_torch_first() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        re.match(r"[\w-]+", requirement).group().lower()
        for requirement in sum((extras[name] for name in extras if name != "mirrors"), project["dependencies"])
    } - {"steepest"}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0].startswith("torch==")
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines), "exact versions, no paths"
    assert wanted <= {line.split("==")[0] for line in lines}


@pytest.mark.parametrize(
    "text", sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
)
def test_links_inside_the_repository_lead_somewhere(text: str) -> None:
    page = ROOT / text
    made = {ROOT / "docs" / place for place in makers()}
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        found = (page.parent / target).resolve()
        assert found.exists() or found in made, target


def test_the_tree_in_the_readme_names_every_room_and_no_other() -> None:
    tree = next(block for block in re.findall(r"```\w*\n(.*?)```", README, re.S) if "src/steepest/" in block)
    named = {path.rstrip("/") for path in re.findall(r"^ *([\w./]+)", tree, re.M)}
    package = ROOT / "src" / "steepest"
    rooms = {p.stem if p.is_dir() else p.name for p in package.iterdir() if p.name[0] not in "_."}
    rooms |= {p.name for p in (package / "lab").iterdir() if p.is_dir() and p.name[0] != "_"}
    assert rooms - {"py.typed"} <= named
    places = [ROOT, ROOT / "src", package, package / "lab"]
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


def test_the_library_use_in_the_readme_runs(tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip(), "it shows what it did"


def test_the_rule_in_contributing_trains_a_model(tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S).group(1)
    (tmp_path / "heavy.py").write_text(block)
    code = (
        "import torch\n"
        "from steepest.registry import resolve\n"
        f"contender = resolve({str(tmp_path / 'heavy.py') + ':Heavy'!r})\n"
        "model = torch.nn.Linear(4, 4)\n"
        "optimizer = contender.build(model, lr=0.1)\n"
        "before = model.weight.clone()\n"
        "model(torch.ones(2, 4)).square().sum().backward()\n"
        "optimizer.step()\n"
        "assert not torch.equal(before, model.weight)\n"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_every_verb_in_the_readme_exists() -> None:
    from steepest.cli import VERBS

    used = set(re.findall(r"^steepest (\w+)", README, re.M)) | set(re.findall(r"`steepest (\w+)", README))
    assert used and used <= set(VERBS)


# ---- set-up


make = pytest.mark.skipif(shutil.which("make") is None, reason="no make here (Debian: apt-get install make)")


@make
def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M).group(1).split())
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert targets == set(re.findall(r"^  make (\S+)", shown, re.M))


@make
def test_an_old_python_is_answered_in_one_line(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")  # what the version check of an older interpreter ends with
    old.chmod(0o755)
    # without what an outer make hands down, this one is on its own
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "race", f"PYTHON={old}"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode != 0 and not (tmp_path / ".venv").exists()
    ours = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert len(ours) == 1 and "needs Python 3.11 or newer" in ours[0]
