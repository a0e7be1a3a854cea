"""Every recipe of the documentation runs as it stands; what it claims, it asserts."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parents[1] / "docs" / "recipes"
PAGES = sorted(path.stem for path in RECIPES.glob("*.md") if path.stem != "index")


def blocks(page: str) -> list[str]:
    """The Python of a page, each block at the line where it stands, so that a traceback names the page's lines."""
    text = (RECIPES / f"{page}.md").read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.S | re.M)
    return ["\n" * text[: match.start(1)].count("\n") + match[1] for match in found]


@pytest.mark.parametrize("page", PAGES)
def test_a_recipe_runs_as_it_stands(page: str, tmp_path: Path) -> None:
    needs = re.findall(r"<!-- needs: (.+?) -->", (RECIPES / f"{page}.md").read_text())
    missing = [name for line in needs for name in line.split() if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: pip install '.[recipes]'")
    assert blocks(page)
    code = "space = {}\n" + "".join(
        f"exec(compile({block!r}, {f'{page}.md'!r}, 'exec'), space)\n" for block in blocks(page)
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_every_recipe_stands_in_the_index() -> None:
    index = (RECIPES / "index.md").read_text()
    assert all(f"]({page}.md)" in index for page in PAGES)
