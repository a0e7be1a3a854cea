"""SCALE by role, and the state that the stateless rules keep on the models of their papers."""

from __future__ import annotations

import pytest
import torch
from cases import build, give_gradients, walk, weights
from torch import Tensor, nn

import steepest
from steepest.core.rule import Step
from steepest.faces import face
from steepest.registry import rules
from steepest.rules.scale import SCALE

LLAMA = {"60M": (512, 1376, 8), "130M": (768, 2048, 12), "350M": (1024, 2736, 24), "1B": (2048, 5461, 24)}
LLAMA |= {"7B": (4096, 11008, 32)}


def llama(width: int, ffn: int, layers: int, vocab: int = 32000) -> dict[str, nn.Parameter]:
    """The weights of a LLaMA by name, without memory."""
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (vocab, width)}
    for i in range(layers):
        shapes |= {f"layers.{i}.self_attn.{n}_proj.weight": (width, width) for n in "qkvo"}
        shapes |= {f"layers.{i}.mlp.{n}_proj.weight": (ffn, width) for n in ("gate", "up")}
        shapes[f"layers.{i}.mlp.down_proj.weight"] = (width, ffn)
        shapes |= {f"layers.{i}.{n}_layernorm.weight": (width,) for n in ("input", "post_attention")}
    shapes |= {"norm.weight": (width,), "lm_head.weight": (vocab, width)}
    return {name: nn.Parameter(torch.empty(shape, device="meta")) for name, shape in shapes.items()}


def elements_of_state(rule: str, named: dict[str, nn.Parameter]) -> int:
    optimizer = face(rules()[rule])(list(named.items()))
    return sum(t.numel() for s in optimizer.state.values() for key, t in s.items() if key != "step")


@pytest.mark.parametrize(
    ("rule", "elements"), [("scale", 17_024), ("sgd_sai", 133_461), ("swan", 66_176), ("sinkgd", 66_176)]
)
def test_the_state_of_a_tiny_llama_has_as_many_numbers_as_the_official_codes(rule: str, elements: int) -> None:
    """Counted in the official optimizers' state; SWAN and SinkGD, which have none, keep AdamW's elsewhere."""
    assert elements_of_state(rule, llama(64, 176, 2, vocab=256)) == elements


@pytest.mark.parametrize(
    ("rule", "printed"),
    [
        ("scale", {"60M": 0.15, "130M": 0.32, "350M": 0.80, "1B": 2.81, "7B": 13.74}),
        ("swan", {"60M": 0.25, "130M": 0.46, "350M": 1.00, "1B": 3.20}),
    ],
)
def test_weights_and_state_of_llamas_are_the_gigabytes_that_scales_readme_prints(
    rule: str, printed: dict[str, float]
) -> None:
    for size, expected in printed.items():
        named = llama(*LLAMA[size])
        numbers = sum(p.numel() for p in named.values()) + elements_of_state(rule, named)
        assert 2 * numbers / 1e9 == pytest.approx(expected, abs=0.01)


def moved(options: dict[str, object], **more: object) -> dict[str, Tensor]:
    named, before = weights(), weights()
    walk(build(("scale", {"weight_decay": 0.0, **options}), named, **more), named, 1)
    return {name: (before[name] - p).detach() / 0.01 for name, p in named.items()}


def test_each_output_moves_by_rms_1_and_each_dimension_of_the_embedding_does() -> None:
    for name, u in moved({}).items():
        if u.ndim == 2:
            size = u.square().mean(dim=0 if name.startswith("embed") else 1).sqrt()
            torch.testing.assert_close(size, torch.ones_like(size))


def test_the_papers_columns_have_length_1() -> None:
    for name, u in moved({"variant": "paper"}).items():
        if u.ndim == 2:
            size = u.norm(dim=0 if name.startswith("embed") else 1)
            torch.testing.assert_close(size, torch.ones_like(size))


def test_momentum_is_the_heads_alone() -> None:
    walked = []
    for momentum in (0.5, 0.9):
        named = weights()
        optimizer = build(("scale", {"momentum": momentum}), named)
        assert {n for n, p in named.items() if "momentum_buffer" in optimizer.state[p]} == {"head.weight"}
        walk(optimizer, named, 3)
        walked.append(named)
    assert {n for n in walked[0] if not torch.equal(walked[0][n], walked[1][n])} == {"head.weight"}


def test_a_batch_without_gradient_leaves_the_heads_direction_at_full_size() -> None:
    state = {"momentum_buffer": torch.zeros(3, 4)}
    rule, g = SCALE(averaged=True), torch.randn(3, 4)
    u, state = rule.update(g, g, Step("", {}), state)
    again, _ = rule.update(torch.zeros(3, 4), g, Step("", {}), state)
    torch.testing.assert_close(again, u)


def test_rows_that_no_gradient_reached_stay() -> None:
    named, before = weights(torch.float32), weights(torch.float32)
    optimizer = build(("scale", {"weight_decay": 0.0}), named)
    give_gradients(named, 0)
    for name in ("head.weight", "blocks.0.mlp.in_.weight"):
        grad = named[name].grad
        assert grad is not None
        grad[1] = 0.0
    optimizer.step()
    for name in ("head.weight", "blocks.0.mlp.in_.weight"):
        still = (named[name] == before[name]).all(dim=1)
        assert still[1] and not still[0]


def test_norms_and_biases_follow_the_one_learning_rate_in_the_ratio_told() -> None:
    named = list(weights().items())
    assert {g["rule"]: g["lr"] for g in steepest.SCALE(named, lr=3e-3).param_groups} == {
        "scale": 3e-3,
        "adamw": 3e-3,
    }
    large = steepest.SCALE(named, variant="official-1b")
    assert {g["rule"]: g["lr"] for g in large.param_groups} == {"scale": 2e-4, "adamw": 1e-3}


def test_a_tied_head_has_the_embeddings_role_and_variant_tied_treats_it_as_the_head() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(12, 4), "q": nn.Linear(4, 4), "lm_head": nn.Linear(4, 12)})
    model["lm_head"].weight = model["embed"].weight
    weight = model["embed"].weight
    for variant, kept, along in (("official", set(), "column"), ("tied", {"momentum_buffer"}, "row")):
        optimizer = steepest.SCALE(model, variant=variant)
        assert [g["along"] for g in optimizer.param_groups if any(weight is p for p in g["params"])] == [along]
        assert {route.role for route in optimizer.routes_of(weight)} == {"embed"}
        assert set(optimizer.state[weight]) - {"step"} == kept
