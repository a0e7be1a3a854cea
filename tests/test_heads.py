"""The width of an attention head, read from models, and what is said where nothing tells it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import steepest
from steepest.core.errors import RoutingError
from steepest.core.naming import named_of
from steepest.heads import with_head_dims
from steepest.lab.model import Decoder, ModelConfig


class Attention(nn.Module):
    """Queries of 12 rows and keys of 6; what it tells of its heads is given."""

    def __init__(self, **told: Any) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(8, 12, bias=False), nn.Linear(8, 6, bias=False)
        for name, value in told.items():
            setattr(self, name, value)


class Model(nn.Module):
    def __init__(self, *attentions: nn.Module, **told: Any) -> None:
        super().__init__()
        self.attn = nn.ModuleList(attentions)
        self.head = nn.Linear(8, 20, bias=False)
        for name, value in told.items():
            setattr(self, name, value)


def widths(model: nn.Module) -> dict[str, int | None]:
    return {n.name: n.head_dim for n in with_head_dims(named_of(model), model)}


@pytest.mark.parametrize(
    "told",
    [
        {"head_dim": 3},
        {"n_head": 4},
        {"num_heads": 4},
        {"n_heads": 4, "head_dim": None},
        {"config": SimpleNamespace(num_attention_heads=4, num_key_value_heads=2)},
        {"config": SimpleNamespace(head_dim=3, n_heads=5)},
        {"num_heads": True, "config": SimpleNamespace(n_head=4)},
    ],
    ids=str,
)
def test_an_attention_tells_the_width_of_its_heads_and_keys_with_fewer_heads_have_the_same(told: Any) -> None:
    assert widths(Model(Attention(**told))) == {"attn.0.q.weight": 3, "attn.0.k.weight": 3, "head.weight": None}


def test_what_the_model_tells_holds_below_it_and_the_innermost_module_that_tells_counts() -> None:
    model = Model(Attention(), Attention(n_heads=2), config=SimpleNamespace(n_head=4))
    assert [widths(model)[f"attn.{i}.{x}.weight"] for i in (0, 1) for x in "qk"] == [3, 3, 6, 6]
    optimizer = steepest.AdamMini(model)
    assert {g["head_dim"]: len(g["params"]) for g in optimizer.param_groups if g["blocks"] == "head"} == {
        3: 2,
        6: 2,
    }


@pytest.mark.parametrize("kv_heads", [0, 2, 1])
def test_the_labs_model_tells_it_for_as_many_or_fewer_heads_of_keys(kv_heads: int) -> None:
    model = Decoder(ModelConfig(layers=1, width=16, heads=4, ffn=24, vocab=20, kv_heads=kv_heads))
    optimizer = steepest.AdamMini(model)
    attention = model.blocks[0].attn
    assert optimizer.state[attention.q.weight]["exp_avg_sq"].shape == (4, 1)
    assert optimizer.state[attention.k.weight]["exp_avg_sq"].shape == (kv_heads or 4, 1)
    assert optimizer.state[attention.v.weight]["exp_avg_sq"].shape == (4 * (kv_heads or 4), 1)


@pytest.mark.parametrize(
    ("name", "hyper", "ends"),
    [
        ("Llama", {"num_attention_heads": 4, "num_key_value_heads": 2}, {"q_proj": 4, "k_proj": 2, "v_proj": 16}),
        (
            "Qwen3",
            {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
            {"q_proj": 4, "k_proj": 2},
        ),
        ("GPT2", {"n_head": 4, "n_embd": 32}, {"c_fc": 128, "attn.c_proj": 32}),
    ],
)
def test_models_of_transformers_tell_it(name: str, hyper: dict[str, int], ends: dict[str, int]) -> None:
    transformers = pytest.importorskip("transformers", reason="no transformers: pip install 'steepest[dev]'")
    sizes = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0}
    if name != "GPT2":
        sizes |= {"hidden_size": 32, "intermediate_size": 48}
    config = getattr(transformers, f"{name}Config")(num_hidden_layers=1, **sizes, **hyper)
    model = getattr(transformers, f"{name}Model")(config)
    optimizer = steepest.AdamMini(model)
    for n, p in model.named_parameters():
        for end, blocks in ends.items():
            if n.endswith(f"{end}.weight"):
                assert optimizer.state[p]["exp_avg_sq"].numel() == blocks


def test_a_head_dim_of_the_users_counts_before_the_models() -> None:
    model = Model(Attention(n_heads=4))
    groups = steepest.AdamMini(model, head_dim=6).param_groups
    assert [g["head_dim"] for g in groups if g["blocks"] == "head"] == [6]


@pytest.mark.parametrize("params", ["names alone", "a silent model"])
def test_where_nothing_tells_it_the_weight_and_the_next_step_are_named(params: str) -> None:
    model = Model(Attention())
    with pytest.raises(RoutingError, match=r"attn.0.q.weight \(12, 8\) .* adam_mini .* head_dim=64") as caught:
        steepest.AdamMini(model if params == "a silent model" else model.named_parameters())
    assert "\n" not in str(caught.value)
    steepest.AdamMini(model.named_parameters(), head_dim=3)


def test_a_head_dim_that_does_not_divide_the_rows_is_refused_with_both() -> None:
    with pytest.raises(RoutingError, match=r"\(12, 8\) .* head_dim=5"):
        steepest.AdamMini(Model(Attention()), head_dim=5)


def test_rules_without_heads_part_nothing() -> None:
    assert len(steepest.AdamW(Model(Attention(n_heads=4), Attention(n_heads=2))).param_groups) == 1


def test_a_group_added_later_is_cut_by_the_models_heads() -> None:
    model = Model(Attention(n_heads=4), Attention(n_heads=4))
    first, second = model.attn
    optimizer = steepest.AdamMini(model.attn[:1], head_dim=3)
    optimizer.add_param_group({"params": [("attn.1.q.weight", second.q.weight)]})
    assert optimizer.state[first.q.weight]["exp_avg_sq"].shape == (4, 1)
    assert optimizer.state[second.q.weight]["exp_avg_sq"].shape == (4, 1)
    assert isinstance(optimizer.state[second.q.weight]["exp_avg"], torch.Tensor)
