"""The pages of the public names and of the command line, from signatures, docstrings and option parsers."""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import re
from typing import Any

import steepest
from generate.text import block, code, prose
from steepest.cli import VERBS
from steepest.core.rule import Rule
from steepest.optimizer import Optimizer

WIDTH = 78


def names_page() -> str:
    """Every public name that is no optimizer's class, which has a page of its own."""
    lines = [
        "# Public names",
        "",
        "Each optimizer is a class by its rule's name, `steepest.AdamW`, `steepest.Muon` and so on "
        "([all of them](optimizers/index.md)), built as `Optimizer` tells below.",
        "",
    ]
    for name in dir(steepest):
        if not _is_optimizer(getattr(steepest, name)):
            lines += _told(f"steepest.{name}", getattr(steepest, name), "##")
    return "\n".join(lines)


def _is_optimizer(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Optimizer) and thing is not Optimizer


def _told(name: str, thing: Any, level: str) -> list[str]:
    """Heading, signature, docstring; of a class also its own methods."""
    lines = [f"{level} {name}", ""]
    if callable(thing) and not _is_plain_base(thing):
        lines += block(f"{name.rpartition('.')[2]}{_signature(thing)}", "python")
    lines += described(inspect.getdoc(thing) or "")
    if inspect.isclass(thing):
        for method, function in vars(thing).items():
            if not method.startswith("_") and (
                inspect.isfunction(function) or isinstance(function, classmethod | property)
            ):
                shown = function.fget if isinstance(function, property) else getattr(thing, method)
                if shown.__doc__:
                    lines += _told(f"{name.rpartition('.')[2]}.{method}", shown, level + "#")
    return lines


def _is_plain_base(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Rule)


def _signature(thing: Any) -> str:
    """One parameter a line where the signature is long."""
    signature = inspect.signature(thing)
    whole = _unquoted(signature)
    if len(whole) <= WIDTH - 12:
        return whole
    parameters, starred = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parameters.append("*")
            starred = True
        parameters.append(_unquoted(parameter))
    returned = whole.rpartition(") -> ")[2] if ") -> " in whole else ""
    return (
        "(\n"
        + "".join(f"    {parameter},\n" for parameter in parameters)
        + ")"
        + (f" -> {returned}" if returned else "")
    )


def _unquoted(signature: Any) -> str:
    """Annotations stand as text in a module that postpones them; a reader wants none of their quotes."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(signature))


def described(doc: str) -> list[str]:
    """A docstring as Markdown: paragraphs, ``code``, a list for each block of ``Args:``."""
    lines: list[str] = []
    for paragraph in inspect.cleandoc(doc).split("\n\n"):
        head, _, body = paragraph.partition("\n")
        if head.strip() in ("Args:", "Attributes:"):
            items = re.split(r"\n(?= {4}\S)", "\n" + body)[1:]
            lines += [f"- {_item(' '.join(item.split()))}" for item in items]
        elif paragraph.lstrip().startswith(">>>"):
            lines += block(inspect.cleandoc(paragraph), "python")
            continue
        else:
            lines.append(prose(" ".join(paragraph.split())))
        lines.append("")
    return lines


def _item(text: str) -> str:
    name, colon, meaning = text.partition(":")
    return f"{code(name)}:{prose(meaning)}" if colon else prose(text)


def verbs_page() -> str:
    """Every verb with its options, as ``--help`` prints them."""
    lines = [
        "# Command line",
        "",
        *block("steepest VERB [options]"),
        'Exit status: 0 done, 1 the verb\'s own "no" (a trajectory that fails), 2 bad input, 130 interrupted.',
        "",
    ]
    for verb, summary in VERBS.items():
        module = importlib.import_module(f"steepest.cli.{verb}")
        formatter = functools.partial(argparse.HelpFormatter, width=WIDTH)
        parser = argparse.ArgumentParser(
            prog=f"steepest {verb}", description=module.__doc__, formatter_class=formatter
        )
        module.configure(parser)
        lines += [
            f"## {verb}",
            "",
            prose(summary[0].upper() + summary[1:]) + ".",
            "",
            *block(parser.format_help()),
        ]
    return "\n".join(lines)
