"""How a study's runs are chosen: one protocol a file, each a generator of questions (``lab/study/asking.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steepest.core.errors import UnknownName
from steepest.lab.settings import build
from steepest.lab.study.protocols import budgeted, joint, one_at_a_time, three_phases, tuned
from steepest.lab.study.protocols.base import Chosen, Protocol, Runs, Study, demanded, space_sizes

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (tuned.PROTOCOL, one_at_a_time.PROTOCOL, three_phases.PROTOCOL, joint.PROTOCOL, budgeted.PROTOCOL)
}
"""Every protocol by the name under which a study asks for it; the first is that of a study that names none."""

__all__ = ["PROTOCOLS", "Chosen", "Protocol", "Runs", "Study", "chosen", "demanded", "space_sizes"]


def chosen(name: str, options: Mapping[str, Any]) -> tuple[Protocol, Any]:
    """The protocol of that name, dashes or underscores, and its options from a table.

    Raises: UnknownName with the nearest protocol or option, BadInput for a value that an option cannot take.
    """
    if (known := name.replace("-", "_")) not in PROTOCOLS:
        raise UnknownName.among("protocol", name, PROTOCOLS)
    return PROTOCOLS[known], build(PROTOCOLS[known].options, options, "protocol.")
