"""How a study's runs are chosen: one protocol a file, each a generator of questions (``lab/study/asking.py``)."""

from __future__ import annotations

from steepest.lab.study.protocols import one_at_a_time
from steepest.lab.study.protocols.base import Chosen, Protocol, Runs, Study, demanded, space_sizes

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (one_at_a_time.PROTOCOL,)}
"""Every protocol by the name under which a study asks for it."""

__all__ = ["PROTOCOLS", "Chosen", "Protocol", "Runs", "Study", "demanded", "space_sizes"]
