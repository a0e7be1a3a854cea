"""What the name and the module of a weight tell: its place in the model, its role, whether it is fused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

HIDDEN = ("q", "k", "v", "o", "ffn_in", "ffn_gate", "ffn_out", "matrix")
"""Roles of hidden matrices; "matrix" is one whose function the name does not tell."""
ROLES = ("embed", *HIDDEN, "head", "norm", "bias", "vector")
"""Every role; "vector" is a weight that acts number by number and is neither norm nor bias."""

# What common models call their weights: role, last word of the name, and where it stands. Where is "attn" or
# "ffn" by the innermost word of the path that tells, or else the word before the last. The first row that
# matches counts.
NAMES: tuple[tuple[str, str, str], ...] = (
    ("head", r"lm_head|head|unembed(ding)?|embed_out|output_projection|to_logits|vocab_projector|proj_out", r""),
    ("head", r"score|classifier|qa_outputs", r""),
    ("head", r"output", r"^(model|decoder|transformer)?$"),
    ("embed", r"(\w+_)?(embed|embeddings?|emb)|embed_(tokens|in|positions?)|wte|wpe|relative_attention_bias", r""),
    ("embed", r"shared", r"^(model|transformer)?$"),
    ("embed", r"proj|projection", r"patch_embed"),
    ("vector", r"a_log|((cls|mask|dist|distillation|class|register)_)+tokens?", r""),
    ("q", r"(to_|self_)?q(uery)?(_[ab])?(_proj|_lin|_attn)?|wq", r""),
    ("k", r"(to_|self_)?k(ey)?(_proj|_lin)?|wk", r""),
    ("v", r"(to_|self_)?v(alue)?(_proj|_lin)?|wv", r""),
    ("matrix", r"kv_[ab]_proj(_with_mqa)?|router|shared_experts?_gate", r""),
    ("ffn_out", r"wo", r"ffn"),
    ("o", r"o|o_proj|wo|out_proj|to_out|out_lin", r""),
    ("o", r"c_proj|proj|dense|out", r"attn"),
    ("ffn_gate", r"gate|gate_proj|w1|wi_0", r"ffn"),
    ("ffn_in", r"in_|up|up_proj|fc1|c_fc|fc_in|w3|wi|wi_1|lin1|linear1|dense_h_to_4h|ffn", r""),
    ("ffn_in", r"dense", r"intermediate"),
    ("ffn_out", r"down|down_proj|fc2|fc_out|w2|lin2|linear2|dense_4h_to_h|ffn_output", r""),
    ("ffn_out", r"out|c_proj|proj|dense", r"ffn|output"),
)
# Names of fused weights and the parts that they hold. The order of their rows differs between models (BLOOM
# goes head by head, gpt-oss alternates), so that a guess would orthogonalise a mixture of them.
FUSED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"w?qkv(_proj)?|to_qkv|query_key_value|c_attn", r"", ("q", "k", "v")),
    (r"in_proj", r"attn", ("q", "k", "v")),
    (r"w?kv(_proj)?|to_kv|key_value", r"", ("k", "v")),
    (r"gate_up(_proj)?|up_gate(_proj)?|w12|w13", r"", ("gate", "up")),
    (r"in_proj|weight_[ih]h_l\d+(_reverse)?", r"", ("part",)),
)
GATES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.LSTM: ("input", "forget", "cell", "output"),
    nn.GRU: ("reset", "update", "new"),
    nn.RNN: (),
}
"""What torch's recurrent layers hold in weight_ih and weight_hh, in order."""
PLACES = (("attn", r"attn|attention"), ("ffn", r"mlp|ffn|feed_?forward|expert|moe|dense[a-z]+dense"))
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
# A 1-D weight is a norm's if its name says so anywhere; a matrix has to be called so itself, or its module.
NORM = re.compile(r"norm|(^|[._])ln(_|\d|$)")
NORM_WEIGHT = re.compile(r"norm\d*$|^ln(_|\d|$)")
NORM_MODULE = re.compile(r"Norm(\d+d)?$")

T = TypeVar("T")


@dataclass(frozen=True)
class Named:
    """A parameter with what is known of it: its name ("" if none), further names if tied, its module, and how
    many of its rows belong to one attention head."""

    name: str
    parameter: Tensor
    also: tuple[str, ...] = ()
    module: nn.Module | None = None
    head_dim: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parameter.shape)

    @property
    def label(self) -> str:
        return self.name or f"a weight of shape {self.shape}"


class Place(NamedTuple):
    """A name taken apart: "h.0.attn.c_attn.weight" is ("h.0.attn", "c_attn", "attn")."""

    parent: str
    last: str
    where: str


def place(name: str) -> Place:
    path = name.lower().split(".")
    if len(path) > 1 and path[-1] == "weight":
        path.pop()
    *above, last = path
    told = (word for part in reversed(above) for word, pattern in PLACES if re.search(pattern, part))
    return Place(".".join(above), last.removesuffix("_weight"), next(told, above[-1] if above else ""))


class Family:
    """What the weights given together tell about each other.

    Attributes: ``modules``, shapes by path and last word of the name; ``embeddings``, shapes of the embeddings;
    ``last``, the name of the last matrix if it is not the only one; ``conv1d``, whether GPT-2's names hold
    transposed weights.
    """

    def __init__(self, members: Iterable[Named]) -> None:
        members = list(members)
        self.modules: dict[str, dict[str, tuple[int, ...]]] = {}
        for n in members:
            at = place(n.name)
            self.modules.setdefault(at.parent, {})[at.last] = n.shape
        self.embeddings = {
            n.shape
            for n in members
            if len(n.shape) == 2 and (is_embedding(n) or named_role(place(n.name)) == "embed")
        }
        matrices = [n.name for n in members if len(n.shape) == 2 and n.name]
        self.last = matrices[-1] if len(matrices) > 1 else ""
        attentions = [n.shape for n in members if place(n.name).last == "c_attn" and len(n.shape) == 2]
        self.conv1d = any(shape[1] == 3 * shape[0] for shape in attentions)

    def sizes(self, at: Place, role: str) -> list[tuple[int, ...]]:
        """Shapes of the matrices that have this role by name beside the weight at this place."""
        beside = self.modules.get(at.parent, {})
        return [s for last, s in beside.items() if len(s) == 2 and named_role(at._replace(last=last)) == role]

    def has(self, parent: str, last: str) -> bool:
        return last in self.modules.get(parent, {})

    def has_experts(self, parent: str) -> bool:
        """Whether the module holds a list or a stack of experts."""
        return any(path.startswith(f"{parent}.experts") for path in self.modules)

    def width_is(self, size: int) -> bool:
        """Whether the model's hidden width is this, as far as embeddings tell."""
        return any(size == columns for _, columns in self.embeddings)


def named_of(model: nn.Module) -> list[Named]:
    """The parameters of a model, each once, with every name it has."""
    names: dict[Tensor, list[str]] = {}
    owners: dict[Tensor, list[nn.Module]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            names.setdefault(parameter, []).append(f"{path}.{name}" if path else name)
            owners.setdefault(parameter, []).append(module)
    return [
        Named(name, p, tuple(n for n in names[p] if n != name), embedding_first(owners[p]))
        for name, p in model.named_parameters()
    ]


def embedding_first(owners: list[nn.Module]) -> nn.Module:
    """Of the modules that share a weight the embedding, so that a tied head is one with it in any order."""
    return next((m for m in owners if isinstance(m, EMBEDDINGS)), owners[0])


def is_embedding(named: Named) -> bool:
    return isinstance(named.module, EMBEDDINGS)


def named_role(at: Place) -> str | None:
    """The role that a weight at this place has by :data:`NAMES`, if they know it."""
    for role, names, where in NAMES:
        if re.fullmatch(names, at.last) and re.search(where, at.where):
            return role
    return None


def fused_parts(at: Place) -> tuple[str, ...]:
    """Names of the parts of a weight that is fused by its name; none if it is not."""
    for names, where, parts in FUSED:
        if re.fullmatch(names, at.last) and re.search(where, at.where):
            return parts
    return ()


def declaration(named: Named, declarations: Mapping[str, T]) -> tuple[str, T] | None:
    """What a user declared for a weight: its exact name before patterns, and these in their order."""
    for name in (named.name, *named.also):
        if name in declarations:
            return name, declarations[name]
    for pattern, value in declarations.items():
        if any(fnmatchcase(name, pattern) for name in (named.name, *named.also)):
            return pattern, value
    return None


def series(name: str) -> str:
    """The pattern of a name and its likes in other layers: "h.0.attn.q.weight" gives "h.*.attn.q.weight".

    A number right before the last word stays: the members of a Sequential are not alike.
    """
    return re.sub(r"(?<![^.])\d+(?=\.[^.]+\.)", "*", name)
