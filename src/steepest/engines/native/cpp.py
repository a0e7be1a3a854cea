"""A program as C++: one function that runs over a table of pointers to the pieces of a whole model."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import torch

from steepest.core.lowbit import ABSMAX
from steepest.core.rule import Rule
from steepest.engines.native.codes import coded, tables
from steepest.engines.native.prelude import ENTRY, HELPERS, RESERVED, VECTOR_MATH
from steepest.engines.native.program import CTYPES, MATHEMATICS, NARROW, Node, Program, identifier, stored

WIDTH = 64
"""Longest expression that is written inside another one."""


def source(rule: Rule, phase: str, program: Program) -> str:
    """The C++ text of a rule's kernel; its entry is ``run``."""
    operands = program.types.operands
    lines, stores = body(program)
    name = identifier(rule.name())
    changed = {*program.stores, *(f"{o}.{ABSMAX}" for o in program.stores)}
    const = {o: "" if o in changed else "const " for o in operands}
    types = program.types
    arguments = ",\n    ".join(
        f"{const[o]}{memory(d)} *__restrict {identifier(o)}_at" for o, d in operands.items()
    )
    random = bool(rule.draws) or "philox(" in "".join(stores)
    counter = ", uint32_t piece, uint32_t seed, uint32_t t" if random else ""
    pointers = ",\n            ".join(
        f"({memory(d)} *)tensors[{k} * pieces + p]" for k, d in enumerate(operands.values())
    )
    loop = "\n".join(f"      {line}" for line in [*lines[1], *stores])
    whole = [o for o, dtype in operands.items() if o in types.seen and o not in dict(types.low)]
    ahead = "\n".join(f"    ahead<{int(o in program.stores)}>({identifier(o)}_at + block);" for o in whole)
    opening, closing = coded(program)
    once = "\n".join(f"  {line}" for line in lines[0])
    told = ", ".join(f"{o} {str(d).removeprefix('torch.')}" for o, d in operands.items())
    entry = ENTRY.replace("KERNEL", name).replace("POINTERS", pointers).replace("BLOCK", str(types.block))
    entry = entry.replace("DRAWS", ", index[p], seed, t" if random else "")
    text = f"""
static __attribute__((noinline)) void {name}(
    {arguments},
    const double *number, int64_t from, int64_t to{counter}) {{
{once}
  for (int64_t block = from; block < to; block += {types.block}) {{
{ahead}
    const int64_t end = block + {types.block} < to ? block + {types.block} : to;
{opening}    for (int64_t i = block; i < end; ++i) {{
{loop}
    }}
{closing}  }}
}}

{entry}"""
    header = f"// {rule.title or rule.name()}{f', phase {phase}' if phase else ''}: {choices(rule)}\n// {told}\n"
    text = "".join(helpers(text)) + tables(types) + text
    return header + "#include <stdint.h>\n" + mathematics(text) + text


def choices(rule: Rule) -> str:
    """The hyperparameters that decided the text."""
    known = {f.name: f.metadata["hyper"] for f in dataclasses.fields(rule) if "hyper" in f.metadata}
    told = [f"{n}={getattr(rule, n)}" for n, h in known.items() if not h.is_number and n != "seed"]
    return " ".join(" ".join(told).split())


def memory(dtype: torch.dtype) -> str:
    """The C type of an element in memory."""
    return NARROW.get(dtype) or CTYPES[dtype]


def body(program: Program) -> tuple[tuple[list[str], list[str]], list[str]]:
    """The lines computed once, the lines computed for each element, and the stores that follow those."""
    uses: Counter[int] = Counter()

    def count(node: Node) -> None:
        uses[id(node)] += 1
        if uses[id(node)] == 1:
            for argument in node.args:
                count(argument)

    for node in roots(program).values():
        count(node)
    lines: tuple[list[str], list[str]] = ([], [])
    written: dict[int, str] = {}
    taken = set(RESERVED)

    def inside(node: Node, text: str, user: Node | None) -> bool:
        """Whether the expression stands where it is used, without a variable of its own."""
        if node.constant and len(text) < WIDTH:
            return True
        leaf = not node.args and node.per_element
        once = uses[id(node)] == 1 and not node.name and user is not None
        return once and not leaf and node.per_element == user.per_element and len(text) < WIDTH  # type: ignore[union-attr]

    def write(node: Node, user: Node | None = None, repeated: bool = False) -> str:
        if id(node) in written:
            return written[id(node)]
        parts = [write(a, node, node.text.count(f"{{{k}}}") > 1) for k, a in enumerate(node.args)]
        text = node.text.format(*parts)
        if not repeated and inside(node, text, user):
            simple = re.fullmatch(r"[\w.]+|\([^()]*\)", text)
            return text if simple else f"({text})"
        name = fresh(node)
        lines[node.per_element].append(f"const {CTYPES[node.dtype]} {name} = {text};")
        written[id(node)] = name
        return name

    def fresh(node: Node) -> str:
        of = node.args[0].name if len(node.args) == 1 and node.args[0].name and not node.per_element else ""
        stem = name = identifier(node.name or (f"{of}_cast" if of else f"x{len(written)}"))
        k = 1
        while name in taken:
            k += 1
            name = f"{stem}_{k}"
        taken.add(name)
        return name

    values = {operand: write(node) for operand, node in roots(program).items()}
    stores = [stored(o, program.types, value) for o, value in values.items()]
    return lines, stores


def roots(program: Program) -> dict[str, Node]:
    """What is stored in each operand, before it is rounded to the type of that memory."""
    return {operand: node.unrounded or node for operand, node in program.stores.items()}


def helpers(text: str) -> list[str]:
    """The functions that a text uses, those that they use before them."""
    found: list[str] = []
    for names, helper in reversed(HELPERS.items()):
        if any(re.search(rf"\b{name}\b", text + "".join(found)) for name in names):
            found.insert(0, helper)
    return found


def mathematics(text: str) -> str:
    """Declarations of the C library's functions that a text uses, with leave to call their forms for vectors."""
    used = sorted(set(re.findall(rf"\b(({'|'.join(MATHEMATICS)})f?)\(", text)))
    if not used:
        return ""
    lines = [VECTOR_MATH]
    for name, plain in used:
        kind = "double" if name == plain else "float"
        arguments = ", ".join([kind] * (2 if plain in ("pow", "atan2", "hypot") else 1))
        lines.append(f'VECTOR extern "C" {kind} {name}({arguments});')
    return "\n".join(lines) + "\n"
