"""Which weight gets which rule, and why: roles inferred from modules and names, correctable, explained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from steepest.core.errors import RoutingError, UnknownName, UnsupportedTensor
from steepest.core.layout import WHOLE, Layout, declared, equal_parts
from steepest.core.rule import Rule

HIDDEN = ("q", "k", "v", "o", "ffn_in", "ffn_gate", "ffn_out", "matrix")
"""Roles of hidden matrices; "matrix" is one whose function the name does not tell."""
ROLES = ("embed", *HIDDEN, "head", "norm", "bias", "vector")
"""Every role; "vector" is a weight of at most one dimension that is neither norm nor bias."""

# Names that common models give, matched against the last component of the module's path. Attention and
# feed-forward blocks share some ("c_proj", "dense"), so a second column may ask for a word in the path.
NAMES: tuple[tuple[str, str, str], ...] = (
    ("head", r"lm_head|head|unembed|embed_out|output_projection|output", r""),
    ("embed", r"embed|embed_tokens|embed_in|embeddings?|wte|wpe|tok_embeddings|tok_emb|pos_emb(ed)?", r""),
    ("embed", r"(word|token|position)_embeddings?|position_ids|pos_embedding", r""),
    ("q", r"q|q_proj|wq|query|to_q|q_lin", r""),
    ("k", r"k|k_proj|wk|key|to_k|k_lin", r""),
    ("v", r"v|v_proj|wv|value|to_v|v_lin", r""),
    ("o", r"o|o_proj|wo|out_proj|to_out|out_lin", r""),
    ("o", r"c_proj|proj|dense|out", r"attn|attention"),
    ("ffn_gate", r"gate|gate_proj|w1", r"mlp|ffn|feed_forward|feedforward|expert"),
    ("ffn_in", r"in_|up|up_proj|fc1|c_fc|fc_in|w3|wi|lin1|linear1|dense_h_to_4h", r""),
    ("ffn_in", r"dense", r"intermediate"),
    ("ffn_out", r"down|down_proj|fc2|fc_out|w2|lin2|linear2|dense_4h_to_h", r""),
    ("ffn_out", r"out|c_proj|proj|wo|dense", r"mlp|ffn|feed_forward|feedforward|output|expert"),
)
NORM = re.compile(r"norm|(^|[._])ln(_|\d|$)")
# Fused names whose order of rows differs between models (GPT-NeoX interleaves heads, others do not), so that
# a guess would orthogonalise a mixture of queries and keys.
FUSED = re.compile(
    r"(^|[._])(w?qkv(_proj)?|query_key_value|c_attn|in_proj|kv_proj|to_kv|to_qkv|gate_up_proj|w12|w13)$"
)


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
    """Routes in the order of the parameters; ``print`` shows a table."""

    def __str__(self) -> str:
        rows = [("parameter", "shape", "role", "rule", "why")]
        rows += [(r.parameter, "x".join(map(str, r.shape)) or "()", r.role, r.rule, r.why) for r in self]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
            for row in rows
        )


@dataclass(frozen=True)
class Named:
    """A parameter with what is known of it: its name ("" if none), further names if tied, its module, and the
    model's largest number of embeddings."""

    name: str
    parameter: Tensor
    also: tuple[str, ...] = ()
    module: nn.Module | None = None
    vocabulary: int = 0

    @property
    def label(self) -> str:
        return self.name or f"a weight of shape {tuple(self.parameter.shape)}"


def named_of(model: nn.Module) -> list[Named]:
    """The parameters of a model, each once, with every name it has."""
    owners = {
        f"{path}.{name}" if path else name: module
        for path, module in model.named_modules(remove_duplicate=False)
        for name, _ in module.named_parameters(recurse=False)
    }
    names: dict[Tensor, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    vocabulary = max((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=0)
    return [Named(n[0], p, tuple(n[1:]), owners.get(n[0]), vocabulary) for p, n in names.items()]


def role_of(named: Named, roles: Mapping[str, str], siblings: Iterable[str] = ()) -> tuple[str, str]:
    """The role of a parameter and the reason, a user's ``roles`` (name or pattern to role) first."""
    for pattern, role in roles.items():
        if any(name == pattern or fnmatchcase(name, pattern) for name in (named.name, *named.also)):
            return role, f"declared by {pattern!r}"
    p, path = named.parameter, named.name.lower()
    owner = type(named.module).__name__
    module, _, leaf = path.rpartition(".")
    if p.ndim <= 1:
        if leaf.endswith("bias"):
            return "bias", "a bias by name"
        if NORM.search(owner.lower()) or NORM.search(path):
            return "norm", f"weight of {owner}" if named.module is not None else "a norm by name"
        return "vector", f"{p.ndim}-D"
    if isinstance(named.module, nn.Embedding):
        return "embed", f"weight of {owner}" + (f", tied with {', '.join(named.also)}" if named.also else "")
    last = (module if leaf in ("weight", "bias") else path).rpartition(".")[2]
    if last == "gate" and any(s.lower().startswith(f"{module.rpartition('.')[0]}.experts") for s in siblings):
        return "matrix", "router of an expert layer"
    for role, names, within in NAMES:
        if re.fullmatch(names, last) and re.search(within, path):
            return role, f"named {last!r}" + (f", tied with {', '.join(named.also)}" if named.also else "")
    if isinstance(named.module, nn.Linear) and named.vocabulary == p.shape[0]:
        return "head", f"{p.shape[0]} outputs, as many as the embedding has rows"
    if not named.name:
        return "matrix", f"{p.ndim}-D, given without a name"
    return "matrix", f"{p.ndim}-D, name not recognised"


def layout_of(
    named: Named, rule: type[Rule], layouts: Mapping[str, Layout | str | Mapping[str, int]]
) -> tuple[Layout, str]:
    """How the parameter holds its matrices and, if that is not as one, the reason.

    Raises: RoutingError for a layout that must be declared first.
    """
    p, shape = named.parameter, tuple(named.parameter.shape)
    if rule.scope != "matrix" or p.ndim < 2:
        return WHOLE, ""
    for pattern, value in layouts.items():
        if fnmatchcase(named.name, pattern):
            return declared(value, named.name, shape), "layout declared"
    path, owner = named.name.lower(), type(named.module).__name__
    last = path.removesuffix(".weight")
    if isinstance(named.module, nn.MultiheadAttention) and path.endswith("in_proj_weight"):
        return equal_parts(shape[0], "q", "k", "v"), "fused q, k, v of MultiheadAttention"
    if owner == "Conv1D" and hasattr(named.module, "nf"):
        if last.endswith("c_attn"):
            return equal_parts(shape[1], "q", "k", "v", transposed=True), "fused q, k, v of Conv1D, transposed"
        return Layout(transposed=True), "stored transposed by Conv1D"
    if isinstance(named.module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return Layout(flatten=True), "filters flattened to (out, rest)"
    if FUSED.search(last):
        raise RoutingError(
            f"{named.label} {shape} looks fused, and {rule.name()} must see each matrix by itself: declare "
            f'layouts={{"{named.name}": "qkv"}} (equal thirds), {{"q": rows, "k": rows, "v": rows}} or "whole"'
        )
    if p.ndim == 3 and "expert" in path:
        return WHOLE, f"{shape[0]} expert matrices, each by itself"
    if p.ndim > 2:
        raise RoutingError(
            f"{named.label} {shape} has {p.ndim} dimensions, and {rule.name()} must see matrices: declare "
            f'layouts={{"{named.name}": "whole"}} (a stack of them) or "flatten" (filters)'
        )
    return WHOLE, ""


def check(named: Named, rule: type[Rule]) -> None:
    """Refuse what the rule cannot see: complex weights, and a shard where it must see the whole."""
    p = named.parameter
    if p.is_complex():
        raise UnsupportedTensor(f"{named.label} is complex: split it into real and imaginary weights")
    if rule.scope != "element" and is_sharded(p):
        raise UnsupportedTensor(
            f"{named.label} is sharded (DTensor), and {rule.name()} must see it whole: use an element-wise rule "
            "such as AdamW, or replicate this weight"
        )


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor with any placement but replication."""
    if not torch.distributed.is_available() or type(tensor) is Tensor or type(tensor) is nn.Parameter:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor) and any(not p.is_replicate() for p in tensor.placements)


def check_patterns(kind: str, patterns: Iterable[str], names: list[str]) -> None:
    """A declaration that matches no parameter is a typing error, and would otherwise do nothing unseen."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownName.among(f"parameter in {kind}", pattern, names[:50])


def check_roles(roles: Iterable[str]) -> None:
    for role in roles:
        if role not in ROLES:
            raise UnknownName.among("role", role, ROLES)
