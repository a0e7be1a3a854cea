"""Adam-mini's blocks by role, and what it becomes where a block is one element."""

from __future__ import annotations

import pytest
import torch
from cases import build, give_gradients, walk, weights
from torch import nn

import steepest
from steepest.core.naming import ROLES
from steepest.lab.model import Decoder, ModelConfig

ELEMENTS = {"by_role": {role: {"blocks": "element", "weight_decay": 0.1} for role in ROLES}}


def test_with_blocks_of_one_element_it_is_adamw() -> None:
    mini, adam = weights(), weights()
    walk(build(("adam_mini", ELEMENTS), mini), mini, 5)
    walk(build(("adamw", {}), adam), adam, 5)
    for name, w in adam.items():
        torch.testing.assert_close(mini[name], w, rtol=1e-12, atol=1e-14)


def test_rows_of_one_element_are_adamw_too() -> None:
    columns = [{"embed.weight": nn.Parameter(torch.linspace(-1, 1, 9).double().view(9, 1))} for _ in range(2)]
    for rule, named in zip(("adam_mini", "adamw"), columns, strict=True):
        walk(build((rule, {}), named), named, 5)
    torch.testing.assert_close(*(named["embed.weight"] for named in columns), rtol=1e-12, atol=1e-14)


def test_heads_are_moved_as_tensors_of_their_own() -> None:
    whole = {"attn.q.weight": nn.Parameter(torch.randn(6, 4, dtype=torch.float64))}
    heads = {f"{i}": nn.Parameter(h.clone()) for i, h in enumerate(whole["attn.q.weight"].detach().split(2))}
    one = build(("adam_mini", {"head_dim": 2}), whole)
    each = build(("adam_mini", {"by_role": {"matrix": {"blocks": "tensor"}}}), heads)
    for t in range(4):
        give_gradients(whole, t)
        grad = whole["attn.q.weight"].grad
        assert grad is not None
        for h, g in zip(heads.values(), grad.split(2), strict=True):
            h.grad = g.clone()
        one.step()
        each.step()
    joined = torch.cat([h.detach() for h in heads.values()])
    torch.testing.assert_close(whole["attn.q.weight"].detach(), joined, rtol=1e-12, atol=1e-14)


def blocks_of(model: nn.Module, **options: object) -> dict[str, tuple[int, float]]:
    """Second moments and decay of each weight by the end of its name."""
    optimizer = steepest.AdamMini(model, weight_decay=0.1, **options)  # type: ignore[arg-type]
    decays = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    return {
        name.removesuffix(".weight").split(".")[-1]: (optimizer.state[p]["exp_avg_sq"].numel(), decays[p])
        for name, p in model.named_parameters()
    }


@pytest.fixture
def model() -> Decoder:
    """Width 16 in 4 heads, of keys and values 2; 24 hidden units, 20 tokens."""
    return Decoder(ModelConfig(layers=1, width=16, heads=4, ffn=24, vocab=20, kv_heads=2))


def test_blocks_are_those_of_the_paper_for_each_role(model: Decoder) -> None:
    matrices = {"embed": 20, "q": 4, "k": 2, "v": 8, "o": 16, "gate": 24, "in_": 24, "out": 16, "head": 20}
    found = blocks_of(model)
    assert found == {name: (n, 0.1) for name, n in matrices.items()} | dict.fromkeys(NORMS, (1, 0.0))


NORMS = ("attn_norm", "mlp_norm", "norm")


@pytest.mark.parametrize(
    ("variant", "changed"),
    [
        ("short-run", {"v": (1, 0.1)}),
        (
            "pytorch-partition",
            dict.fromkeys(("embed", "q", "k", "v", "o", "gate", "in_", "out", "head"), (1, 0.1)),
        ),
        (
            "v1.0",
            dict.fromkeys(("v", "o", "gate", "in_", "out"), (1, 0.1))
            | dict.fromkeys(("embed", "head"), (320, 0.1)),
        ),
        ("levanter", dict.fromkeys(NORMS, (16, 0.0)) | {"embed": (20, 0.0)}),
    ],
)
def test_variants_differ_in_the_blocks_that_they_name_and_in_no_other(
    variant: str, changed: object, model: Decoder
) -> None:
    plain, other = blocks_of(model), blocks_of(model, variant=variant)
    assert {name: found for name, found in other.items() if found != plain[name]} == changed


def test_its_second_moments_are_a_thousandth_of_adams_for_a_wide_layer() -> None:
    layer = nn.Sequential()
    layer.add_module("fc1", nn.Linear(1024, 1024, bias=False))
    optimizer = steepest.AdamMini(layer)
    assert optimizer.state[layer.fc1.weight]["exp_avg_sq"].numel() == 1024


def test_levanter_clips_the_gradients_of_norms_and_biases_together_and_no_other() -> None:
    clipped, by_hand = weights(), weights()
    small = [name for name in clipped if name.endswith("bias") or name in ("norm.weight", "scale")]
    ours = build(("adam_mini", {"variant": "levanter"}), clipped)
    free = {"by_role": {role: {"clip": 0.0} for role in ("norm", "bias", "vector")}}
    theirs = build(("adam_mini", {"variant": "levanter", **free}), by_hand)
    for t in range(3):
        give_gradients(clipped, t)
        give_gradients(by_hand, t)
        torch.nn.utils.clip_grad_norm_([by_hand[name] for name in small], 1.0)
        ours.step()
        theirs.step()
    for name, w in by_hand.items():
        torch.testing.assert_close(clipped[name], w, rtol=1e-5, atol=1e-6)
