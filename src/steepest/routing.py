"""Which weight gets which rule, and why: roles inferred from modules and names, correctable, explained."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from steepest.arrangement import is_dtensor, local
from steepest.core.columns import aligned
from steepest.core.errors import RoutingError, UnknownName, UnsupportedTensor
from steepest.core.layout import WHOLE, Layout, declared, equal_parts
from steepest.core.naming import (
    GATES,
    HIDDEN,
    NORM,
    NORM_MODULE,
    NORM_WEIGHT,
    ROLES,
    Family,
    Named,
    Place,
    declaration,
    fused_parts,
    is_embedding,
    named_role,
    place,
    series,
)
from steepest.core.rule import Rule


@dataclass(frozen=True)
class Route:
    """One weight, or one part of a fused one: its role, the rule that moves it, and why."""

    parameter: str
    shape: tuple[int, ...]
    role: str
    rule: str
    why: str

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"shape": list(self.shape)}


class Routing(tuple[Route, ...]):
    """Routes in the order of the parameters; ``print`` shows a table, alike layers in one line."""

    def __str__(self) -> str:
        alike: dict[tuple[str, ...], list[str]] = {}
        moved: dict[str, int] = {}
        for r in self:
            key = (series(r.parameter), "x".join(map(str, r.shape)) or "()", r.role, r.rule, r.why)
            alike.setdefault(key, []).append(r.parameter)
            moved[r.rule] = moved.get(r.rule, 0) + math.prod(r.shape)
        rows: list[tuple[str, ...]] = [("parameter", "count", "shape", "role", "rule", "why")]
        rows += [(key[0] if n[1:] else n[0], str(len(n)), *key[1:]) for key, n in alike.items()]
        lines = aligned(rows)
        total = sum(moved.values())
        return "\n".join(
            lines
            + [f"{rule} moves {n:,} of {total:,} weights ({n / max(1, total):.0%})" for rule, n in moved.items()]
        )


def role_of(named: Named, roles: Mapping[str, str], family: Family) -> tuple[str, str]:
    """The role of a parameter and the reason, a user's ``roles`` (name or pattern to role) first."""
    if found := declaration(named, roles):
        return found[1], f"declared by {found[0]!r}"
    role, why = inferred(named, family)
    return role, why + (f", tied with {', '.join(named.also)}" if named.also else "")


def inferred(named: Named, family: Family) -> tuple[str, str]:
    p, at, module = named.parameter, place(named.name), named.module
    owner = type(module).__name__
    if re.search(r"bias(_[kv]|_[ih]h_\w+)?$", named.name.lower()):
        return "bias", "a bias by name"
    if is_embedding(named):
        return "embed", f"weight of {owner}"
    if NORM_MODULE.search(owner):
        return "norm", f"weight of {owner}"
    if NORM.search(named.name.lower()) if p.ndim <= 1 else NORM_WEIGHT.search(at.last):
        return "norm", "a norm by name"
    if p.ndim <= 1:
        return "vector", f"{p.ndim}-D"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and 1 < module.groups == module.in_channels:
        return "vector", "depthwise filters: one channel each, no matrix"
    if at.last == "gate" and family.has_experts(at.parent):
        return "matrix", "router of an expert layer"
    if fused_parts(at) and type(module) is not nn.RNN:
        return "matrix", "fused by name"
    if role := named_role(at):
        if at.last == "w1" and not family.has(at.parent, "w3"):
            role = "ffn_in"
        return role, f"named {at.last!r}"
    if named.name == family.last and p.shape[0] in {rows for rows, _ in family.embeddings}:
        return "head", f"the last matrix, with as many outputs as an embedding ({p.shape[0]})"
    if named.name == family.last and not (at.parent or family.embeddings) and isinstance(module, nn.Linear):
        return "head", "the last layer"
    if not named.name:
        return "matrix", f"{p.ndim}-D, given without a name"
    return "matrix", f"{p.ndim}-D, name not recognised"


def layout_of(
    named: Named,
    role: str,
    rule: type[Rule],
    layouts: Mapping[str, Layout | str | Mapping[str, int]],
    family: Family,
) -> tuple[Layout, str]:
    """How the parameter holds its matrices and, if that is not as one, the reason.

    Raises: RoutingError for a layout that must be declared first.
    """
    shape, at, module = named.shape, place(named.name), named.module
    if rule.scope != "matrix" or len(shape) < 2:
        return WHOLE, ""
    if found := declaration(named, layouts):
        return declared(found[1], named.label, shape), "layout declared"
    parts = fused_parts(at)
    if named.name.endswith("in_proj_weight") and shape[0] == 3 * shape[1]:
        return equal_parts(shape[0], "q", "k", "v"), "equal q, k, v of MultiheadAttention"
    if parts and module is not None and type(module) in GATES:
        gates = GATES[type(module)]
        return (equal_parts(shape[0], *gates), f"equal {', '.join(gates)}") if gates else (WHOLE, "")
    if is_conv1d(named, at, family):
        fused = {(3, 0): ("q", "k", "v"), (2, 0): ("k", "v")}.get(divmod(shape[1], shape[0])) if parts else None
        if fused:
            told = f"equal {', '.join(fused)}, stored transposed (Conv1D)"
            return equal_parts(shape[1], *fused, transposed=True), told
        if not parts:
            return Layout(transposed=True), "stored transposed (Conv1D)"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return filters(named, module)
    if len(shape) == 3 and "expert" in named.name.lower() and (layout := experts(named, role, parts, family)):
        return layout, f"{shape[0]} matrices, one an expert" + (", stored transposed" if layout.transposed else "")
    if len(shape) > 2 and not named.name:
        raise RoutingError(
            f"{named.label} has {len(shape)} dimensions, and {rule.name()} must see matrices: pass it as "
            "(name, tensor) and declare its layout"
        )
    if parts or halves(role, at, shape, family):
        raise refusal(named, rule, parts or ("gate", "up"), family)
    if len(shape) > 2:
        leave = f', or roles={{"{series(named.name)}": "vector"}} if it holds none' if rule.companion else ""
        raise RoutingError(
            f"{named.label} {shape} has {len(shape)} dimensions, and {rule.name()} must see matrices: declare "
            f'layouts={{"{series(named.name)}": "whole"}} (a stack of them), "transposed" (of (in, out) ones) or '
            f'"flatten" (filters){leave}'
        )
    return WHOLE, ""


def routes_of(named: Named, role: str, rule: type[Rule], why: str, layout: Layout) -> list[Route]:
    """A weight's routes: one, or one for each part that its layout splits it into."""
    parts = layout.parts(local(named.parameter.detach())) if layout.split else {"": named.parameter}
    fused = {"gate": "ffn_gate", "up": "ffn_in"}
    return [
        Route(
            f"{named.name}[{part}]" if part else named.label,
            tuple(view.shape),
            fused.get(part, part if part in HIDDEN else role),
            rule.name(),
            why,
        )
        for part, view in parts.items()
    ]


def is_conv1d(named: Named, at: Place, family: Family) -> bool:
    """Whether the weight is stored (in, out) by ``Conv1D`` of transformers, or by its names in GPT-2's shapes."""
    if named.module is None:
        return family.conv1d and at.last in ("c_attn", "q_attn", "c_fc", "c_proj") and len(named.shape) == 2
    return type(named.module).__name__ == "Conv1D" and hasattr(named.module, "nf")


def filters(named: Named, module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[Layout, str]:
    if not named.parameter.is_contiguous():
        raise RoutingError(
            f"{named.label} {named.shape} is stored channels_last, where no view is the matrix (out, rest): call "
            "model.to(memory_format=torch.contiguous_format) first"
        )
    grouped = f", in {module.groups} groups" if module.groups > 1 else ""
    return Layout(flatten=True, groups=module.groups), "filters flattened to (out, rest)" + grouped


def experts(named: Named, role: str, parts: tuple[str, ...], family: Family) -> Layout | None:
    """The layout of a stack of expert matrices, as the module says (transformers) or the model's width tells;
    None if neither does."""
    shape = named.shape
    transposed = getattr(named.module, "is_transposed", None)
    if parts:
        concatenated = getattr(named.module, "is_concatenated", None)
        if transposed is None or concatenated is None:
            return None
        rows = shape[-1] if transposed else shape[-2]
        return equal_parts(rows, *parts, transposed=transposed, alternating=not concatenated)
    if transposed is None:
        outputs, inputs = (shape[-1], shape[-2]) if role == "ffn_out" else shape[-2:]
        if not (family.width_is(inputs) or family.width_is(outputs)):
            return None
        transposed = not family.width_is(inputs)
    return Layout(transposed=transposed)


def halves(role: str, at: Place, shape: tuple[int, ...], family: Family) -> bool:
    """Whether a matrix into the feed-forward layer has twice the rows that the matrix out of it reads: it then
    holds gate and input in one, whatever its name."""
    if role != "ffn_in" or len(shape) != 2:
        return False
    return any(shape[0] == 2 * inputs for _, inputs in family.sizes(at, "ffn_out"))


def refusal(named: Named, rule: type[Rule], parts: tuple[str, ...], family: Family) -> RoutingError:
    """The error for a fused weight, with the declaration to make."""
    name, rows = series(named.name), named.shape[-2]
    start = f"{named.label} {named.shape} looks fused, and {rule.name()} must see each matrix by itself: declare "
    if is_conv1d(named, place(named.name), family) or (
        len(named.shape) == 3 and family.width_is(rows) and not family.width_is(named.shape[-1])
    ):
        split = ", ".join(f'("{part}", rows)' for part in parts)
        return RoutingError(f'{start}layouts={{"{name}": Layout(transposed=True, split=({split},))}} or "whole"')
    if parts == ("gate", "up"):
        return RoutingError(
            f'{start}layouts={{"{name}": "gate_up"}} (two halves), Layout(split=(("gate", {rows // 2}), '
            f'("up", {rows // 2})), alternating=True) (row by row) or "whole"'
        )
    sizes = guessed(named, parts, family)
    told = ", ".join(f'"{part}": {size}' for part, size in sizes.items())
    if parts != ("q", "k", "v"):
        return RoutingError(
            f'{start}layouts={{"{name}": {{{told}}}}} (what its module cuts out of its {rows} rows) or "whole"'
        )
    told = '"qkv"' if len(set(sizes.values())) == 1 and sizes["q"] != "rows" else f"{{{told}}}"
    return RoutingError(
        f'{start}layouts={{"{name}": {told}}} if q, k, v follow each other, Layout(groups=heads, split=(("q", '
        'rows), ("k", rows), ("v", rows))) if each head holds its own (GPT-NeoX, BLOOM; then a head is a matrix), '
        'or "whole"'
    )


def guessed(named: Named, parts: tuple[str, ...], family: Family) -> dict[str, Any]:
    """The rows of fused q, k and v as far as the matrix out of the attention tells, else a word to replace."""
    rows, outs = named.shape[-2], family.sizes(place(named.name), "o")
    if parts == ("q", "k", "v") and len(outs) == 1 and rows > outs[0][1] and (rows - outs[0][1]) % 2 == 0:
        q = outs[0][1]
        return {"q": q, "k": (rows - q) // 2, "v": (rows - q) // 2}
    return dict.fromkeys(parts, "rows")


def check(named: Named, rule: type[Rule], world: int = 1) -> None:
    """Refuse what the rule cannot see: complex weights, a shard where it must see the whole or workers send it."""
    p = named.parameter
    if p.is_complex():
        raise UnsupportedTensor(f"{named.label} is complex: split it into real and imaginary weights")
    if rule.scope != "element" and is_sharded(p):
        raise UnsupportedTensor(
            f"{named.label} is sharded (DTensor), and {rule.name()} must see it whole: use an element-wise rule "
            "such as AdamW, or replicate this weight"
        )
    if world > 1 and is_dtensor(p):
        raise UnsupportedTensor(
            f"{named.label} is a DTensor, whose gradients are averaged already: leave out group=, or give plain "
            "weights"
        )


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor with any placement but replication."""
    return any(not placement.is_replicate() for placement in getattr(tensor, "placements", ()))


def check_patterns(kind: str, patterns: Iterable[str], names: list[str]) -> None:
    """A declaration that matches no parameter is a typing error, and would otherwise do nothing unseen."""
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        if not names:
            raise UnknownName(f"{kind} name {pattern!r}, but the parameters have no names: pass the model")
        # A pattern is near to a name if it is near to the name's end.
        ends = (
            {"*." + ".".join(name.split(".")[-n:]) for name in names for n in (1, 2)} if "*" in pattern else set()
        )
        known = [*dict.fromkeys(map(series, names)), *names, *sorted(ends)]
        near = difflib.get_close_matches(pattern, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"names are as {names[0]!r}"
        raise UnknownName(f"{kind} name {pattern!r}, which no parameter matches: {hint}")


def check_roles(roles: Iterable[str]) -> None:
    for role in roles:
        if role not in ROLES:
            raise UnknownName.among("role", role, ROLES)
