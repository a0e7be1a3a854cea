"""The page of the studies: its table of protocols."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from generate.text import code, prose, table, value
from steepest.lab.study.protocols import PROTOCOLS


def protocols_table(_: Any) -> list[str]:
    """What each does, and its options as their dataclass tells them."""
    rows = []
    for name, protocol in PROTOCOLS.items():
        options = ", ".join(code(f"{f.name}={value(f.default)}") for f in dataclasses.fields(protocol.options))
        meaning = " ".join((protocol.options.__doc__ or "").split())
        rows.append((code(name), prose(protocol.summary), f"{options}. {prose(meaning)}"))
    return table(("protocol", "what it does", "options"), rows)


MAKERS: dict[str, Callable[[Any], list[str]]] = {"protocols": protocols_table}
