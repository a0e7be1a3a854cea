"""Named models: the two studies' published sizes and a ladder of small ones. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from steepest.core.errors import UnknownName
from steepest.lab.architecture import ModelConfig, non_embedding

SHAPE = ("layers", "width", "heads", "ffn", "kv_heads", "mlp")
"""The fields that the number of non-embedding weights depends on; vocab is the corpus's, the rest are variants."""


def _small(layers: int, width: int, heads: int, ffn: int = 0) -> ModelConfig:
    return ModelConfig(layers, width, heads, ffn or 4 * width)


def _fantastic(width: int, heads: int) -> ModelConfig:
    """Section 3 of arXiv 2509.02046: Llama-2, always 32 layers, ffn = 4 · width, Llama-3.1's vocabulary."""
    return ModelConfig(32, width, heads, 4 * width, vocab=128_256)


def _deconstructing(layers: int, width: int, heads: int) -> ModelConfig:
    """arXiv 2407.07972: OLMo with QK-norm and z-loss, T5's vocabulary padded to 32,128 rows."""
    return ModelConfig(
        layers, width, heads, 4 * width, vocab=32_128,
        norm="layer", mlp="gelu", qk_norm=True, z_loss=1e-4, init="mitchell",
    )  # fmt: skip


# The ladder is named by its non-embedding weights (the blocks' matrices) and has the Llama-2 architecture;
# the vocabulary is the default's until a run puts in its corpus's own.
MODELS: dict[str, ModelConfig] = {
    "20k": _small(2, 32, 2, ffn=64),
    "50k": _small(3, 32, 2),
    "110k": _small(3, 48, 3),
    "250k": _small(4, 64, 4, ffn=240),
    "500k": _small(5, 80, 5),
    "1m": _small(5, 112, 7),
    "3m": _small(5, 192, 6),
    "10m": _small(6, 320, 5),
    "30m": _small(7, 512, 8),
    "fantastic-130m": _fantastic(512, 8),
    "fantastic-300m": _fantastic(768, 12),
    "fantastic-520m": _fantastic(1024, 16),
    "fantastic-1.2b": _fantastic(1536, 24),
    "deconstructing-150m": _deconstructing(12, 1024, 16),
    "deconstructing-300m": _deconstructing(24, 1024, 16),
    "deconstructing-600m": _deconstructing(24, 1408, 22),
    "deconstructing-1.2b": _deconstructing(24, 2048, 32),
}


def preset(name: str) -> ModelConfig:
    """The model of that name; UnknownName with the nearest one otherwise."""
    if name not in MODELS:
        raise UnknownName.among("model", name, MODELS)
    return MODELS[name]


class Described(NamedTuple):
    """A model in words. size: the preset of its shape, or ``50k:layers=4``; weights: non-embedding; variant: what
    else differs from that preset (``no-qk-norm``, ``z-loss=0.0001 tied``), "" for nothing."""

    size: str
    weights: int
    variant: str


def described(model: Mapping[str, Any], name: str) -> Described:
    """The model of these fields, made from the preset ``name``; equal models get equal words.

    Fields and presets that this version does not know go into the words as they stand.
    """
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    config = ModelConfig(**{key: value for key, value in model.items() if key in known})
    made = MODELS.get(name)
    same = [key for key in (name, *MODELS) if key in MODELS and _shape(MODELS[key]) == _shape(config)]
    size, base = (same[0], MODELS[same[0]]) if same else (name, made or config)
    if not same:
        changed = [key for key in SHAPE if made is None or getattr(config, key) != getattr(made, key)]
        size = f"{name}:" + ",".join(f"{key}={getattr(config, key)}" for key in changed)
    rest = [key for key in model if key not in (*SHAPE, "vocab")]
    words = [_word(key, model[key]) for key in rest if key not in known or model[key] != getattr(base, key)]
    return Described(size, non_embedding(config), " ".join(words))


def _shape(config: ModelConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, key) for key in SHAPE)


def _word(key: str, value: Any) -> str:
    key = key.replace("_", "-")
    if value is True:
        return key
    return f"no-{key}" if value is False or value == 0 else f"{key}={value}"
