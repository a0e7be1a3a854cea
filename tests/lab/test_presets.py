import dataclasses
import itertools

import pytest

from steepest.core.errors import UnknownName
from steepest.lab.architecture import ModelConfig, non_embedding
from steepest.lab.model import Decoder
from steepest.lab.presets import MODELS, described, preset

LADDER = {
    "20k": 20e3, "50k": 50e3, "110k": 110e3, "250k": 250e3, "500k": 500e3,
    "1m": 1e6, "3m": 3e6, "10m": 10e6, "30m": 30e6,
}  # fmt: skip


def total(config):
    return sum(p.numel() for p in Decoder(config, device="meta").parameters())


def test_every_preset_is_of_the_ladder_or_of_a_study():
    assert set(MODELS) == set(LADDER) | {n for n in MODELS if n.startswith(("fantastic-", "deconstructing-"))}


@pytest.mark.parametrize("name", LADDER)
def test_a_ladder_model_holds_what_its_name_says_within_4_percent(name):
    assert non_embedding(MODELS[name]) == pytest.approx(LADDER[name], rel=0.04)


def test_the_ladder_ascends_in_width_depth_and_size():
    steps = [MODELS[name] for name in LADDER]
    for low, high in itertools.pairwise(steps):
        assert low.width <= high.width and low.layers <= high.layers
        assert non_embedding(low) < non_embedding(high)


@pytest.mark.parametrize("name", MODELS)
def test_non_embedding_counts_the_two_dimensional_weights_of_the_blocks(name):
    blocks = Decoder(MODELS[name], device="meta").blocks
    assert non_embedding(MODELS[name]) == sum(p.numel() for p in blocks.parameters() if p.ndim == 2)


@pytest.mark.parametrize(
    ("name", "inner"),
    [("130m", 134_217_728), ("300m", 301_989_888), ("520m", 536_870_912), ("1.2b", 1_207_959_552)],
)
def test_fantastic_sizes_are_the_published_ones(name, inner):
    """arXiv 2509.02046: N = 512 · width², embedding and head 2 · 128,256 · width, 65 norm gains of width."""
    config = MODELS[f"fantastic-{name}"]
    assert (config.layers, config.head_dim, config.vocab) == (32, 64, 128_256)
    assert non_embedding(config) == inner == 512 * config.width**2
    assert total(config) == inner + 2 * 128_256 * config.width + 65 * config.width


@pytest.mark.parametrize(
    ("name", "inner", "all_"), [("150m", 150, 216), ("300m", 301, 368), ("600m", 571, 661), ("1.2b", 1207, 1339)]
)
def test_deconstructing_sizes_are_the_published_ones(name, inner, all_):
    """arXiv 2407.07972's configurations state millions without and with embeddings, some cut, not rounded."""
    config = MODELS[f"deconstructing-{name}"]
    norms = config.layers * 4 * config.width + config.width
    assert config.head_dim == 64 and config.qk_norm and config.z_loss == 1e-4
    assert non_embedding(config) / 1e6 == pytest.approx(inner, abs=1)
    assert (total(config) - norms) / 1e6 == pytest.approx(all_, abs=1)


def test_an_unknown_model_suggests_the_nearest():
    with pytest.raises(UnknownName, match="fantastic-130m"):
        preset("fantastic-130")


FIELDS = dataclasses.asdict(MODELS["50k"])


@pytest.mark.parametrize(
    ("name", "changed", "size", "variant"),
    [
        ("50k", {}, "50k", ""),
        ("50k", {"vocab": 256}, "50k", ""),
        ("50k", {"qk_norm": True, "z_loss": 1e-4}, "50k", "qk-norm z-loss=0.0001"),
        ("50k", dataclasses.asdict(MODELS["110k"]), "110k", ""),
        ("50k", {"layers": 5, "tied": True}, "50k:layers=5", "tied"),
        ("50k", {"mlp": "gelu"}, "50k:mlp=gelu", ""),
        ("unheard-of", {}, "50k", ""),
        ("unheard-of", {"layers": 5}, "unheard-of:layers=5,width=32,heads=2,ffn=128,kv_heads=0,mlp=swiglu", ""),
        ("deconstructing-150m", dataclasses.asdict(MODELS["deconstructing-150m"]), "deconstructing-150m", ""),
        (
            "deconstructing-150m",
            dataclasses.asdict(MODELS["deconstructing-150m"]) | {"qk_norm": False, "z_loss": 0.0},
            "deconstructing-150m",
            "no-qk-norm no-z-loss",
        ),
    ],
)
def test_equal_models_have_equal_words_whatever_they_were_made_from(name, changed, size, variant):
    model = FIELDS | changed
    assert described(model, name) == (size, non_embedding(ModelConfig(**model)), variant)
