"""Finds and reads what a page is drawn from: the race.json of a race or the study.json of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steepest.core.errors import BadInput, CorruptFile
from steepest.lab.report import schema
from steepest.lab.report.study import schema as study_schema

RACE, STUDY = "race.json", "study.json"
WRITERS = "`steepest race`, `steepest study report` and `steepest replay --json` write one"


def load(path: Path | str) -> dict[str, Any]:
    """Reads and checks a race.json or a study.json, or the one in a folder; a study's ``kind`` is "study".

    CorruptFile tells the damage, BadInput that there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        there = [path / name for name in (RACE, STUDY) if (path / name).exists()]
        if len(there) > 1:
            raise BadInput(f"{path} holds {RACE} and {STUDY}: name the one to report on")
        path = there[0] if there else path / RACE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"no race and no study at {path}: {WRITERS}; give it or its folder") from None
    except (ValueError, OSError) as error:
        raise CorruptFile(f"{path} cannot be read as JSON ({error}): write it anew; {WRITERS}") from None
    if isinstance(document, dict) and document.get("kind") == "study":
        return study_schema.checked(document, str(path))
    return schema.checked(document, str(path))
