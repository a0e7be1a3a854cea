"""Settings as files and flags have them: nested tables, one over another, and made into dataclasses."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from steepest.core.errors import BadInput, UnknownName

T = TypeVar("T")

SHORT = {"optimizer": "spec", "model": "preset", "schedule": "name"}
"""Tables that a text stands for: their main key."""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; one-line errors for a missing or malformed one."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = "check the path, or name an optimizer with --optimizer"
        raise BadInput(f"configuration {path} does not exist: {hint}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"configuration {path} cannot be read: {error}") from error


def merged(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """``values`` with settings such as ``schedule.name=wsd`` or ``batch=32`` put over them."""
    result = _copied(values)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not (equals and path.strip()):
            raise BadInput(f"setting {setting!r}: write key=value, such as schedule.name=wsd")
        put(result, path.strip(), literal(text))
    return result


def put(values: dict[str, Any], path: str, value: Any) -> None:
    """Sets ``values`` at a dotted path such as ``optimizer.lr``; of tokens and ratio the later one counts."""
    table = values
    *outer, name = path.split(".")
    for key in outer:
        inner = table.setdefault(key, {})
        if isinstance(inner, str) and key in SHORT and table is values:
            inner = table[key] = {SHORT[key]: inner}
        if not isinstance(inner, dict):
            raise BadInput(f"setting {path}: {key} is {inner!r}, not a table")
        table = inner
    table[name] = value
    if path in ("tokens", "ratio"):
        values.pop("ratio" if path == "tokens" else "tokens", None)


def literal(text: str) -> Any:
    """A flag's text as TOML reads it (numbers, true, lists); what is no TOML is a number or a plain text."""
    with suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(f"value = {text}")["value"]
    with suppress(ValueError):
        return float(text)  # .02, which TOML wants as 0.02
    return text


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(item) if isinstance(item, Mapping) else item for key, item in values.items()}


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A configuration dataclass from a table; an unknown key is answered with the nearest one."""
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UnknownName.among("setting", where + key, [where + name for name in known])
    return cls(**{key: fit(value, hints[key], where + key) for key, value in values.items()})


def fit(value: Any, kind: Any, name: str) -> Any:
    """``value`` as the annotation ``kind`` wants it: 1 for 1.0, 1e6 for 1000000, a table for a dataclass."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        for option in typing.get_args(kind):
            with suppress(BadInput):
                return fit(value, option, name)
        kind = typing.get_args(kind)[0]  # the error speaks of the first
    if typing.get_origin(kind) is Literal:
        if value in typing.get_args(kind):
            return value
        raise UnknownName.among(name, str(value), map(str, typing.get_args(kind)))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, Mapping):
            return build(kind, value, f"{name}.")
    elif kind in (int, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and (kind is float or value % 1 == 0):
            return kind(value)
    elif typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(value)
    elif isinstance(value, typing.get_origin(kind) or kind):
        return value
    raise BadInput(f"{name}={value!r}: it must be {_words(kind)}")


def _words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return words.get(kind, "a table" if dataclasses.is_dataclass(kind) else f"a {getattr(kind, '__name__', kind)}")
