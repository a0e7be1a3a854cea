"""What mkdocs calls: it adds the generated pages, orders them, and fills tables into the written ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from generate import filled, makers
from mkdocs.structure.files import File, Files

from steepest.registry import rules


def on_files(files: Files, config: Any) -> Files:
    """The generated pages beside the written ones, and the order of all."""
    for place, made in makers().items():
        files.append(File.generated(config, place, content=made()))
    config.nav = navigation(sorted(file.src_uri for file in files.documentation_pages()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its tables."""
    return filled(markdown)


def navigation(places: list[str]) -> list[Any]:
    """First how to choose and what there is, then how it is used, then why it is so."""

    def below(folder: str) -> list[str]:
        return [
            place for place in places if place.startswith(f"{folder}/") and place.rpartition("/")[2] not in FRONTS
        ]

    index = (Path(__file__).parent / "recipes" / "index.md").read_text(encoding="utf-8")
    recipes = sorted(below("recipes"), key=lambda place: index.find(f"({place.rpartition('/')[2]})"))
    named = [{rule.__name__: f"optimizers/{name}.md"} for name, rule in rules().items()]
    return [
        {"Home": "index.md"},
        {"How to choose": "how-to-choose.md"},
        {"Optimizers": ["optimizers/index.md", *named]},
        {"Memory": "memory.md"},
        {"Step inside backward": "step-inside-backward.md"},
        {"Robustness": "robustness.md"},
        {"Schedules": "schedules.md"},
        {"Studies": "studies.md"},
        {"Protocols": "protocols.md"},
        {"A published study": "replay.md"},
        {"Records of others": "importing.md"},
        {"Zeroth order": "zeroth-order.md"},
        {"Between workers": "one-bit-adam.md"},
        {"Recipes": ["recipes/index.md", *recipes]},
        {"Reference": [{"Public names": "api.md"}, {"Command line": "cli.md"}]},
        {"Decisions": ["decisions/README.md", *below("decisions")]},
    ]


FRONTS = ("index.md", "README.md")
