"""Named models: the two studies' published sizes and a ladder of small ones."""

from __future__ import annotations

from steepest.core.errors import UnknownName
from steepest.lab.model import ModelConfig


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
