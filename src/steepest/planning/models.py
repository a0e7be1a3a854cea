"""Language models as named weights without memory: known sizes, and whatever a Hugging Face config.json describes.

Weights carry the names that transformers gives them, so that roles are read from them as from the real model.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from steepest.core.errors import BadInput, CorruptFile, UnknownName
from steepest.core.layout import Layout

Config = Mapping[str, Any]
Modules = Iterator[tuple[str, nn.Module]]
Weights = nn.Module | Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Model:
    """A module or named weights on the meta device, and the layouts that a rule for matrices must be told of fused
    ones."""

    name: str
    weights: Weights
    layouts: Mapping[str, Layout] = field(default_factory=dict)


def _config(kind: str, width: int, ffn: int, layers: int, heads: int, vocab: int, **more: Any) -> Config:
    """``kv``, ``head``: heads of keys and values, width of a head, where they are not the usual; ``tied``."""
    own = {"kv": "num_key_value_heads", "head": "head_dim", "tied": "tie_word_embeddings"}
    return {
        "model_type": kind, "hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads, "vocab_size": vocab,
        "tie_word_embeddings": False,
    } | {own.get(key, key): value for key, value in more.items()}  # fmt: skip


def _gpt2(width: int, layers: int, heads: int) -> Config:
    sizes = {"n_embd": width, "n_layer": layers, "n_head": heads}
    return {"model_type": "gpt2", **sizes, "vocab_size": 50257, "n_positions": 1024}


KNOWN: dict[str, Config] = {
    # The sizes of GaLore and of the papers that compare themselves with it (configs/ of jiaweizzhao/GaLore).
    "llama-60m": _config("llama", 512, 1376, 8, 8, 32_000),
    "llama-130m": _config("llama", 768, 2048, 12, 12, 32_000),
    "llama-350m": _config("llama", 1024, 2736, 24, 16, 32_000),
    "llama-1b": _config("llama", 2048, 5461, 24, 32, 32_000),
    "llama-7b": _config("llama", 4096, 11008, 32, 32, 32_000),
    "llama-2-7b": _config("llama", 4096, 11008, 32, 32, 32_000),
    "llama-2-13b": _config("llama", 5120, 13824, 40, 40, 32_000),
    "llama-2-70b": _config("llama", 8192, 28672, 80, 64, 32_000, kv=8),
    "llama-3-8b": _config("llama", 4096, 14336, 32, 32, 128_256, kv=8),
    "llama-3-70b": _config("llama", 8192, 28672, 80, 64, 128_256, kv=8),
    "llama-3.2-1b": _config("llama", 2048, 8192, 16, 32, 128_256, kv=8, tied=True),
    "llama-3.2-3b": _config("llama", 3072, 8192, 28, 24, 128_256, kv=8, tied=True),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "pythia-70m": _config("gpt_neox", 512, 2048, 6, 8, 50_304),
    "pythia-160m": _config("gpt_neox", 768, 3072, 12, 12, 50_304),
    "pythia-410m": _config("gpt_neox", 1024, 4096, 24, 16, 50_304),
    "pythia-1b": _config("gpt_neox", 2048, 8192, 16, 8, 50_304),
    "pythia-1.4b": _config("gpt_neox", 2048, 8192, 24, 16, 50_304),
    "pythia-2.8b": _config("gpt_neox", 2560, 10240, 32, 32, 50_304),
    "pythia-6.9b": _config("gpt_neox", 4096, 16384, 32, 32, 50_432),
    "mistral-7b": _config("mistral", 4096, 14336, 32, 32, 32_000, kv=8),
    "qwen2.5-0.5b": _config("qwen2", 896, 4864, 24, 14, 151_936, kv=2, tied=True),
    "qwen2.5-7b": _config("qwen2", 3584, 18944, 28, 28, 152_064, kv=4),
    "qwen3-0.6b": _config("qwen3", 1024, 3072, 28, 16, 151_936, kv=8, head=128, tied=True),
    "qwen3-1.7b": _config("qwen3", 2048, 6144, 28, 16, 151_936, kv=8, head=128, tied=True),
    "qwen3-4b": _config("qwen3", 2560, 9728, 36, 32, 151_936, kv=8, head=128, tied=True),
    "qwen3-8b": _config("qwen3", 4096, 12288, 36, 32, 151_936, kv=8, head=128),
    "gemma-2b": _config("gemma", 2048, 16384, 18, 8, 256_000, kv=1, head=256, tied=True),
    "gemma-7b": _config("gemma", 3072, 24576, 28, 16, 256_000, head=256, tied=True),
}
"""Published sizes by name; each is a config.json's keys."""


def model_named(source: str | Path) -> Model:
    """A known model by name, a config.json, or a folder that holds one.

    Raises: UnknownName with the nearest name; BadInput, CorruptFile for a file that describes no model.
    """
    path = Path(source)
    if str(source) in KNOWN:
        return described(KNOWN[str(source)], str(source))
    if path.is_dir() or path.suffix == ".json" or "/" in str(source):
        file = path / "config.json" if path.is_dir() else path
        return described(_read(file), str(source), file)
    near = difflib.get_close_matches(str(source).lower(), KNOWN, n=3)
    guess = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(KNOWN)}"
    raise UnknownName(f"unknown model {str(source)!r}: {guess} (or the path of a config.json)")


def described(config: Config, name: str, file: Path | None = None) -> Model:
    """The model that a configuration of transformers describes.

    An architecture that is not written here is built by transformers, where that is installed.
    """
    kind = config.get("model_type")
    if kind in FAMILIES:
        read = Read(config, name)
        with torch.device("meta"):
            tree = Tree(FAMILIES[kind](read))
        tree.config = SimpleNamespace(**config, **({} if config.get("head_dim") else {"head_dim": read.head_dim}))
        if read.tied:
            tree.tie()
        return Model(name, tree, _layouts(kind, read))
    if kind is None:
        raise BadInput(f"{name} names no model_type: give the config.json of a language model")
    if file is None or importlib.util.find_spec("transformers") is None:
        written = ", ".join(FAMILIES)
        raise BadInput(
            f"{name}: model_type {kind!r} is none of {written}: pip install transformers, or pass the module"
        )
    return Model(name, _by_transformers(file, name, kind))


def _by_transformers(file: Path, name: str, kind: str) -> nn.Module:
    transformers: Any = importlib.import_module("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(str(file))
        with torch.device("meta"):
            module: nn.Module = transformers.AutoModelForCausalLM.from_config(config)
    except Exception as error:  # a model of somebody else's may fail in any way
        first = str(error).strip().partition("\n")[0]
        raise BadInput(
            f"{name}: transformers cannot build model_type {kind!r} ({first}): pass the module itself"
        ) from error
    return module


def _read(file: Path) -> Config:
    if not file.is_file():
        raise BadInput(f"no file {file}: give a model's config.json, or the name of a known model")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{file} is no JSON ({error}): download it again") from error
    if not isinstance(config, dict):
        raise BadInput(f"{file} holds no table of settings: give the config.json of a language model")
    return config


class Read:
    """A configuration with its sizes checked; a missing key is named."""

    def __init__(self, config: Config, source: str) -> None:
        self.config, self.source = config, source
        self.kind: str = config["model_type"]

    def size(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key)
        if value is None:
            value = default
        if value is None:
            raise BadInput(
                f"{self.source} ({self.kind}) has no {key!r}: add it, its model cannot be counted without"
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadInput(f"{self.source}: {key} is {value!r}, and must be a whole number of at least 1")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.config.get(key)
        return default if value is None else bool(value)

    @property
    def width(self) -> int:
        return self.size("n_embd" if self.kind == "gpt2" else "hidden_size")

    @property
    def heads(self) -> int:
        return self.size("n_head" if self.kind == "gpt2" else "num_attention_heads")

    @property
    def head_dim(self) -> int:
        if self.kind in OWN_HEADS or self.config.get("head_dim") is not None:
            return self.size("head_dim")
        if self.width % self.heads:
            raise BadInput(
                f"{self.source}: width {self.width} is not divisible by {self.heads} heads: add 'head_dim'"
            )
        return self.width // self.heads

    @property
    def tied(self) -> bool:
        return self.flag("tie_word_embeddings", self.kind in ("gpt2", "gemma", "gemma2", "gemma3_text"))


OWN_HEADS = ("qwen3", "gemma", "gemma2", "gemma3_text")
"""Where a missing head_dim does not mean width / heads."""


class Tree(nn.Module):
    """Modules under dotted names, without a forward."""

    config: SimpleNamespace

    def __init__(self, modules: Modules) -> None:
        super().__init__()
        for name, module in modules:
            *above, last = name.split(".")
            at: nn.Module = self
            for word in above:
                if word not in at._modules:
                    at.add_module(word, nn.Module())
                at = at.get_submodule(word)
            at.add_module(last, module)

    def tie(self) -> None:
        """The head takes the embedding's weight, as transformers ties them."""
        embedding = next(m for m in self.modules() if isinstance(m, nn.Embedding))
        head = [m for m in self.modules() if isinstance(m, nn.Linear)][-1]
        head.weight = embedding.weight


class Conv1D(nn.Module):
    """A linear map stored (in, out), as GPT-2 stores it; routing knows it by its name and ``nf``."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.empty(nf))


def _llama(c: Read) -> Modules:
    """Llama, and what differs from it in biases and norms: Mistral, Qwen 2 and 3, Gemma 1 to 3."""
    width, ffn, dim, vocab = c.width, c.size("intermediate_size"), c.head_dim, c.size("vocab_size")
    groups = c.size("num_key_value_heads", c.heads if c.kind == "llama" else None)
    takes_bias = c.kind not in ("mistral", "qwen2")
    o_bias = takes_bias and c.flag("attention_bias", False)
    qkv_bias = c.kind == "qwen2" or o_bias
    mlp_bias = c.kind == "llama" and c.flag("mlp_bias", False)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if c.kind in ("gemma2", "gemma3_text"):
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    yield "model.embed_tokens", nn.Embedding(vocab, width)
    for layer in range(c.size("num_hidden_layers")):
        at = f"model.layers.{layer}"
        yield f"{at}.self_attn.q_proj", nn.Linear(width, c.heads * dim, qkv_bias)
        yield f"{at}.self_attn.k_proj", nn.Linear(width, groups * dim, qkv_bias)
        yield f"{at}.self_attn.v_proj", nn.Linear(width, groups * dim, qkv_bias)
        yield f"{at}.self_attn.o_proj", nn.Linear(c.heads * dim, width, o_bias)
        if c.kind in ("qwen3", "gemma3_text"):
            yield f"{at}.self_attn.q_norm", nn.RMSNorm(dim)
            yield f"{at}.self_attn.k_norm", nn.RMSNorm(dim)
        yield f"{at}.mlp.gate_proj", nn.Linear(width, ffn, mlp_bias)
        yield f"{at}.mlp.up_proj", nn.Linear(width, ffn, mlp_bias)
        yield f"{at}.mlp.down_proj", nn.Linear(ffn, width, mlp_bias)
        for norm in norms:
            yield f"{at}.{norm}", nn.RMSNorm(width)
    yield "model.norm", nn.RMSNorm(width)
    yield "lm_head", nn.Linear(width, vocab, bias=False)


def _gpt2_modules(c: Read) -> Modules:
    width, vocab = c.width, c.size("vocab_size")
    ffn = c.size("n_inner", 4 * width)
    yield "transformer.wte", nn.Embedding(vocab, width)
    yield "transformer.wpe", nn.Embedding(c.size("n_positions"), width)
    for layer in range(c.size("n_layer")):
        at = f"transformer.h.{layer}"
        yield f"{at}.ln_1", nn.LayerNorm(width)
        yield f"{at}.attn.c_attn", Conv1D(3 * width, width)
        yield f"{at}.attn.c_proj", Conv1D(width, width)
        yield f"{at}.ln_2", nn.LayerNorm(width)
        yield f"{at}.mlp.c_fc", Conv1D(ffn, width)
        yield f"{at}.mlp.c_proj", Conv1D(width, ffn)
    yield "transformer.ln_f", nn.LayerNorm(width)
    yield "lm_head", nn.Linear(width, vocab, bias=False)


def _neox(c: Read) -> Modules:
    width, ffn, vocab = c.width, c.size("intermediate_size"), c.size("vocab_size")
    bias = c.flag("attention_bias", True)
    yield "gpt_neox.embed_in", nn.Embedding(vocab, width)
    for layer in range(c.size("num_hidden_layers")):
        at = f"gpt_neox.layers.{layer}"
        yield f"{at}.input_layernorm", nn.LayerNorm(width)
        yield f"{at}.post_attention_layernorm", nn.LayerNorm(width)
        yield f"{at}.attention.query_key_value", nn.Linear(width, 3 * width, bias)
        yield f"{at}.attention.dense", nn.Linear(width, width, bias)
        yield f"{at}.mlp.dense_h_to_4h", nn.Linear(width, ffn)
        yield f"{at}.mlp.dense_4h_to_h", nn.Linear(ffn, width)
    yield "gpt_neox.final_layer_norm", nn.LayerNorm(width)
    yield "lm_head", nn.Linear(width, vocab, bias=False)


FAMILIES: dict[str, Callable[[Read], Modules]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _llama),
    "gpt2": _gpt2_modules,
    "gpt_neox": _neox,
}
"""Architectures by transformers' model_type."""


def _layouts(kind: str, c: Read) -> dict[str, Layout]:
    """Each head of GPT-NeoX holds its own q, k and v."""
    if kind != "gpt_neox":
        return {}
    parts = tuple((part, c.head_dim) for part in ("q", "k", "v"))
    return {"*.query_key_value.weight": Layout(groups=c.heads, split=parts)}
