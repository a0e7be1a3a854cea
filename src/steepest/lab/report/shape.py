"""What a document must hold before anything is drawn from it: shapes, and the check against them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from steepest.core.errors import CorruptFile


class Maybe:
    """The value may be null; otherwise it looks like ``shape``."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


class Each:
    """A list, or with ``keyed`` a mapping, whose every value looks like ``shape``."""

    def __init__(self, shape: Any, keyed: bool = False) -> None:
        self.shape, self.keyed = shape, keyed


class Since:
    """The key may be missing, as in documents from before it was written; else its value looks like ``shape``."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


NUMBER = (int, float)
UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def checked(
    document: Any,
    name: str,
    shape: dict[str, Any],
    dangling: Callable[[dict[str, Any]], Iterator[str]],
    *,
    version: int,
    what: str,
    advice: str,
) -> dict[str, Any]:
    """A copy of ``document``, nan and infinities as null, control characters out; CorruptFile names its faults.

    name: the file, what: "a race", advice: how to get a sound one, all for the message. ``dangling`` tells, of a
    document that has its shape, which of its names point to nothing.
    """
    if not isinstance(document, dict):
        raise CorruptFile(f"{name} holds a {type(document).__name__} where {what} is wanted: {advice}")
    if document.get("format") != version:
        raise CorruptFile(
            f"{name} has format {document.get('format')!r}, this version reads format {version}: {advice}"
        )
    document = _clean(document)
    faults = list(_faults(document, shape, "")) or list(dangling(document))
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CorruptFile(f"{name}: {', '.join(faults[:5])}{more}: {advice}")
    return document


def _faults(value: Any, shape: Any, where: str) -> Iterator[str]:
    if isinstance(shape, Since):
        yield from _faults(value, shape.shape, where)
    elif isinstance(shape, Maybe):
        if value is not None:
            yield from _faults(value, shape.shape, where)
    elif isinstance(shape, Each):
        if shape.keyed and isinstance(value, dict):
            items = list(value.items())
        elif not shape.keyed and isinstance(value, list):
            items = list(enumerate(value))
        else:
            yield f"{where} is {said(value)}, not a {'dict' if shape.keyed else 'list'}"
            return
        for key, item in items:
            yield from _faults(item, shape.shape, f"{where}.{key}")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where} is {said(value)}, not a dict"
            return
        for key, item in shape.items():
            inner = f"{where}.{key}".lstrip(".")
            if key in value:
                yield from _faults(value[key], item, inner)
            elif not isinstance(item, Since):
                yield f"{inner} is missing"
    elif not isinstance(value, shape) or (shape is NUMBER and isinstance(value, bool)):
        kinds = " or ".join(kind.__name__ for kind in shape) if isinstance(shape, tuple) else shape.__name__
        yield f"{where} is {said(value)}, not a {kinds}"


def said(value: Any) -> str:
    """A value in a message, cut short."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        # Neither XML nor UTF-8 can carry some characters, whatever an optimizer is named.
        return value if value.isprintable() else UNFIT.sub("�", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_clean(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
