"""A run in a few bytes a step: what each step measured. Its directions come from the seed."""

from __future__ import annotations

import json
import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steepest.core.errors import BadInput, CorruptFile


class Log:
    """Projected gradients of all steps, one row of numbers a step.

    Give it to an optimizer (``log=Log()``) and later to another's ``replay``, which walks the same way from the
    same first weights without data or a forward pass: 4 bytes a step for float32 weights, 80 kB for 20,000 steps.
    (With several queries or blocks a number for each.)
    """

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.values = array("d")

    def begin(self, told: Mapping[str, Any]) -> None:
        """What the numbers mean. Raises: BadInput if it already holds another optimizer's."""
        if self.told and self.told != told:
            differs = next(key for key in told if told[key] != self.told.get(key))
            raise BadInput(
                f"the log is of {differs}={self.told.get(differs)!r}, this optimizer of {told[differs]!r}"
            )
        if not self.told:
            self.told = dict(told)
            self.values = array(told["type"], self.values)

    def append(self, row: Sequence[float]) -> None:
        self.values.extend(row)

    @property
    def rows(self) -> list[tuple[float, ...]]:
        width = self.told.get("width", 1)
        return [tuple(self.values[i : i + width]) for i in range(0, len(self.values), width)]

    def __len__(self) -> int:
        return len(self.values) // int(self.told.get("width", 1))

    def save(self, path: str | Path) -> None:
        """A line of JSON, then the numbers, the lowest byte first."""
        values = self.values[:]
        if sys.byteorder == "big":
            values.byteswap()
        Path(path).write_bytes(json.dumps(self.told).encode() + b"\n" + values.tobytes())

    @classmethod
    def load(cls, path: str | Path) -> Log:
        """Raises: CorruptFile."""
        head, _, body = Path(path).read_bytes().partition(b"\n")
        log = cls()
        try:
            log.told = json.loads(head)
            log.values = array(log.told["type"])
            log.values.frombytes(body)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFile(f"{path} is no log of zeroth-order steps ({error}): save it again") from error
        if sys.byteorder == "big":
            log.values.byteswap()
        return log


def rounded(value: float, kind: str) -> float:
    """The value as a log of this type holds it, so that a replay reads what the step used."""
    if kind == "d" or not math.isfinite(value):
        return value
    try:
        return float(array("f", [value])[0])
    except OverflowError:
        return math.copysign(math.inf, value)
