"""Shape and options of a decoder, and its number of weights: what can be said of a model without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from steepest.core.errors import BadInput

Norm = Literal["rms", "layer"]
Mlp = Literal["swiglu", "gelu"]
Init = Literal["fantastic", "mitchell"]


@dataclass(frozen=True)
class ModelConfig:
    """Shape and options of a decoder; every field is a number, a word or a truth value.

    layers, width, heads, ffn (hidden width of the MLP) and vocab are counts. kv_heads: heads of keys and
    values, each shared by heads / kv_heads queries; 0 means as many as heads. z_loss: factor of logsumexp².
    """

    layers: int
    width: int
    heads: int
    ffn: int
    vocab: int = 1024
    kv_heads: int = 0
    norm: Norm = "rms"
    mlp: Mlp = "swiglu"
    qk_norm: bool = False
    z_loss: float = 0.0
    tied: bool = False
    init: Init = "fantastic"
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "ffn", "vocab"):
            if getattr(self, name) < 1:
                raise BadInput(f"model {name}={getattr(self, name)}: it must be at least 1")
        for name, words in (("norm", Norm), ("mlp", Mlp), ("init", Init)):
            if getattr(self, name) not in get_args(words):
                known = ", ".join(get_args(words))
                raise BadInput(f"model {name}={getattr(self, name)!r}: use one of {known}")
        if self.width % self.heads:
            raise BadInput(f"model width={self.width} is not divisible by heads={self.heads}: change one")
        if self.head_dim % 2:
            raise BadInput(
                f"model head width {self.head_dim} (width={self.width} / heads={self.heads}) is odd: "
                "RoPE turns pairs, choose heads so that it is even"
            )
        if self.kv_heads < 0 or self.heads % self.groups:
            raise BadInput(f"model kv_heads={self.kv_heads} does not divide heads={self.heads}: change one")
        if not (math.isfinite(self.z_loss) and self.z_loss >= 0):
            raise BadInput(f"model z_loss={self.z_loss}: it must be finite and at least 0 (1e-4 is usual)")
        for name in ("rope_theta", "norm_eps"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BadInput(f"model {name}={getattr(self, name)}: it must be finite and above 0")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def groups(self) -> int:
        """Key/value heads in use."""
        return self.kv_heads or self.heads


def non_embedding(config: ModelConfig) -> int:
    """Weights of the blocks' matrices, the N of both studies: no embedding, no head, no norm gains."""
    attention = config.width * config.head_dim * 2 * (config.heads + config.groups)
    matrices = 3 if config.mlp == "swiglu" else 2
    return config.layers * (attention + matrices * config.width * config.ffn)
