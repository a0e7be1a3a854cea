"""Files of others as rows of flat names: CSV and its kin, JSON, JSON lines, Parquet."""

from __future__ import annotations

import ast
import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steepest.core.errors import BadInput, CorruptFile, MissingExtra

Row = dict[str, Any]
Tell = Callable[[int, str, str], None]
"""Takes a row's number, a column and what is wrong there."""

NESTED = {"hyperparameters": "hp", "config": "config", "summary": "summary", "summary_metrics": "summary"}
"""Columns that may hold a mapping (JSON, or a dict as Python prints it), and the prefix of its entries' names."""

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def rows(path: Path, tell: Tell) -> Iterator[tuple[int, Row]]:
    """Every row with its number, names flat: an entry ``a`` of the column ``config`` is ``config.a``.

    Otherwise as :func:`cells`.
    """
    return _flattened(cells(path, tell), tell)


def cells(path: Path, tell: Tell) -> Iterator[tuple[int, Row]]:
    """Every row with its number, as it stands in the file.

    A row's number is that of its line, as a spreadsheet shows it, the header being row 1; in JSON rows count from
    1. A row that cannot be read goes to ``tell`` and the rest is read. Raises BadInput for a file that is not
    there or of no known kind, CorruptFile for one that holds no table.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInput(f"{path}: a file of records ends in {', '.join(SUFFIXES)}; rename or export it as one")
    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        elif suffix in (".json", ".jsonl"):
            yield from _json(path, tell)
        else:
            with open(path, encoding="utf-8-sig", newline="") as file, _long_fields():
                yield from _delimited(file.readlines(), path, tell)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{path} is not UTF-8 text (byte {error.start}): export it again as UTF-8") from None


def _delimited(lines: list[str], path: Path, tell: Tell) -> Iterator[tuple[int, Row]]:
    head = lines[0] if lines else ""
    if "\0" in head:
        raise CorruptFile(f"{path} is not text: a CSV file begins with the names of its columns")
    names = next(csv.reader([head], delimiter=(mark := max(",;\t", key=head.count))), [])
    if not any(name.strip() for name in names):
        raise CorruptFile(f"{path} is empty: its first line holds the names of the columns")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"{path} has the column {repeated[0]!r} more than once: rename one of them")
    start = 1
    while start < len(lines):
        # A stray quotation mark swallows the lines after it: the row is told, reading goes on at the next line.
        reader = csv.reader((lines[at] for at in range(start, len(lines))), delimiter=mark, strict=True)
        taken = 0
        try:
            for values in reader:
                number, taken = start + taken + 1, reader.line_num
                if values and len(values) != len(names):
                    tell(number, "", f"{len(values)} values for {len(names)} columns: the row is left out")
                elif values:
                    yield number, dict(zip(names, values, strict=True))
            return
        except csv.Error as error:
            tell(start + taken + 1, "", f"{error}: the row is left out")
            start += taken + 1


@contextmanager
def _long_fields() -> Iterator[None]:
    """A recorded curve is longer than the 128 KiB that the csv module allows for a field."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _json(path: Path, tell: Tell) -> Iterator[tuple[int, Row]]:
    """Objects: one in each line, in a list, or as columns (pandas' ``to_json``)."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                tell(number, "", "the line is no JSON object: it is left out")
        return
    try:
        whole = json.loads(text)
    except ValueError as error:
        raise CorruptFile(f"{path} is no JSON ({error}): export it again") from None
    if isinstance(whole, dict) and whole and all(isinstance(column, dict) for column in whole.values()):
        keys = dict.fromkeys(key for column in whole.values() for key in column)
        whole = [{name: column.get(key) for name, column in whole.items()} for key in keys]
    if not isinstance(whole, list):
        raise CorruptFile(f"{path} holds no list of runs: give a list of JSON objects, one per run")
    for number, row in enumerate(whole, 1):
        if isinstance(row, dict):
            yield number, row
        else:
            tell(number, "", "the entry is no JSON object: it is left out")


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtra.of(f"reading {path.name}", "pyarrow") from None
    if not path.is_file():
        raise BadInput(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'there is no such file'}")
    number = 1
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (ArrowException, OSError) as error:
        cause = str(error).splitlines()[0]
        raise CorruptFile(f"{path} is no whole Parquet file ({cause}): export it again") from None


def _flattened(found: Iterator[tuple[int, Row]], tell: Tell) -> Iterator[tuple[int, Row]]:
    for number, row in found:
        flat: Row = {}
        for name, value in row.items():
            prefix = NESTED.get(name)
            if prefix is None:
                flat[name] = value
                continue
            try:
                flat |= _leaves(prefix, mapping(value))
            except ValueError as error:
                tell(number, name, f"{error}: the row is left out")
                break
        else:
            yield number, flat


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping from itself, from JSON, or from a dict as Python prints it; raises ValueError."""
    if value is None or value == "":
        return {}
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except ValueError:
            try:
                found = _printed(ast.parse(value.strip(), mode="eval").body)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                found = None
        if isinstance(found, dict):
            return found
    said = repr(value)
    raise ValueError(f"{said if len(said) < 60 else said[:57] + '...'} is no JSON object")


def _printed(node: ast.expr) -> Any:
    """The value of a literal, where nan and inf stand as Python prints them."""
    if isinstance(node, ast.Dict):
        keys = [key for key in node.keys if key is not None]
        return {str(_printed(key)): _printed(value) for key, value in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_printed(item) for item in node.elts]
    if isinstance(node, ast.Name) and node.id in ("nan", "inf"):
        return math.nan if node.id == "nan" else math.inf
    return ast.literal_eval(node)


def _leaves(prefix: str, entries: Mapping[str, Any]) -> Row:
    """Entries by dotted name; ``{"value": x, "desc": ...}``, W&B's raw form of a setting, is x."""
    flat: Row = {}
    for name, value in entries.items():
        if isinstance(value, Mapping) and "value" in value and set(value) <= {"value", "desc"}:
            value = value["value"]
        if isinstance(value, Mapping):
            flat |= _leaves(f"{prefix}.{name}", value)
        else:
            # Of a setting, null is a value ("off"), unlike a cell without one.
            flat[f"{prefix}.{name}"] = "null" if value is None and prefix == "hp" else value
    return flat
