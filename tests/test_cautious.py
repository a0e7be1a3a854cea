"""What the mask of Cautious does to any rule, and what it leaves alone."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import give_gradients, untold, walk, weights
from torch import Tensor

import steepest
from steepest.core.errors import BadInput, UnknownName
from steepest.core.rule import Rule, Slot, Step
from steepest.faces import face
from steepest.registry import built_in, resolve, rules, wrappers
from steepest.wrappers.cautious import cautious

MASKS = ("mean-clamp", "numel/(sum+1)", "mean+eps")
PLAIN = [name for name, rule in rules().items() if name not in wrappers() and not rule.sends()]


@pytest.mark.parametrize("name", PLAIN)
def test_over_every_rule_no_weight_goes_up_its_gradient(name: str) -> None:
    rule = built_in(f"cautious-{name}")
    assert rule is not None
    named = weights()
    try:
        optimizer = face(rule)(list(named.items()), weight_decay=0.0, **untold(rule))
    except BadInput as refused:
        assert "writes the weight itself" in str(refused)
        return
    own = {route.parameter for route in optimizer.routing() if route.rule == rule.name()}
    for t in range(4):
        before = {n: p.detach().clone() for n, p in named.items()}
        walk(optimizer, named, 1, start=t)
        for n in own:
            grad = named[n].grad
            assert grad is not None
            assert ((named[n] - before[n]) * grad <= 0).all() and named[n].isfinite().all()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_state_and_decay_are_not_masked(name: str, mask: str) -> None:
    plain, masked = weights(), weights()
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99)}
    if name == "muon":
        del options["betas"]
    a = face(rules()[name])(list(plain.items()), **options)
    b = face(cautious(rules()[name]))(list(masked.items()), mask=mask, **options)
    walk(a, plain, 4)
    walk(b, masked, 4)
    q = "blocks.0.attn.q.weight"
    assert not torch.equal(plain[q], masked[q])
    for slot, value in a.state[plain[q]].items():
        assert torch.equal(b.state[masked[q]][slot], value)
    before = masked[q].detach().clone()
    for p in masked.values():
        p.grad = torch.zeros_like(p)
    b.step()
    assert torch.equal(masked[q], before * (1 - 0.01 * 0.1))


@pytest.mark.parametrize(
    ("mask", "factor"), [("mean-clamp", 1.0), ("mean+eps", 1 / 1.5), ("numel/(sum+1)", 36 / 37)]
)
def test_where_all_signs_agree_it_is_the_rule_itself_times_the_scale_of_a_full_mask(
    mask: str, factor: float
) -> None:
    plain, masked = ({"w": torch.nn.Parameter(torch.zeros(6, 6, dtype=torch.float64))} for _ in range(2))
    a = steepest.Lion(list(plain.items()), lr=0.01, weight_decay=0.0)
    b = steepest.CautiousLion(
        list(masked.items()), lr=0.01, weight_decay=0.0, betas=(0.9, 0.99), mask=mask, mask_eps=0.5
    )
    for _ in range(3):
        for p in (plain["w"], masked["w"]):
            p.grad = torch.linspace(1, 2, 36, dtype=torch.float64).view(6, 6)
        a.step()
        b.step()
    torch.testing.assert_close(masked["w"], factor * plain["w"])


def test_the_share_of_kept_coordinates_is_that_of_one_matrix() -> None:
    """A stack of experts is masked matrix by matrix under a matrix rule, as single ones would be."""
    stack = torch.nn.Parameter(torch.randn(3, 6, 4, dtype=torch.float64))
    single = [torch.nn.Parameter(w.clone()) for w in stack.detach()]
    a = face(cautious(rules()["muon"]))([("w", stack)], layouts={"w": "whole"}, roles={"w": "matrix"})
    b = face(cautious(rules()["muon"]))([(f"h.{i}.q.weight", p) for i, p in enumerate(single)])
    for t in range(3):
        give_gradients({"w": stack}, t)
        assert stack.grad is not None
        for p, grad in zip(single, stack.grad, strict=True):
            p.grad = grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in single]))


@dataclass(frozen=True)
class Writes(Rule):
    """A rule that moves the weight itself."""

    @property
    def writes_weight(self) -> bool:
        return True

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return w - self.lr * g, {}


def test_a_rule_that_writes_the_weight_is_refused_with_the_reason() -> None:
    with pytest.raises(BadInput, match=r"cautious over writes: .*writes the weight itself.* no direction to mask"):
        face(cautious(Writes))([torch.nn.Parameter(torch.ones(2))])


def test_wrapped_rules_have_names_at_any_depth_and_pickle() -> None:
    assert steepest.Cautious is steepest.CautiousAdamW and steepest.Cautious.rule.name() == "cautious"
    assert resolve("cautious-adamw").rule is steepest.Cautious.rule
    deep = steepest.CautiousGaLoreLion
    assert deep.rule.name() == "cautious-galore-lion" and resolve("cautious-galore-lion").rule is deep.rule
    named = {"h.0.q.weight": torch.nn.Parameter(torch.randn(6, 4))}
    optimizer = deep(list(named.items()), lr=0.01, rank=2)
    walk(optimizer, named, 2)
    twin, copies = pickle.loads(pickle.dumps((optimizer, named)))
    walk(twin, copies, 1, start=2)
    walk(optimizer, named, 1, start=2)
    assert torch.equal(named["h.0.q.weight"], copies["h.0.q.weight"])
    with pytest.raises(UnknownName, match="cautious-lion"):
        resolve("cautious-lionn")


def test_a_record_tells_the_text_of_the_wrapper_and_of_the_rule_below() -> None:
    told = resolve("cautious-lion").provenance
    assert "class Cautious(" in told["text"] and "class Lion(" in told["text"]
    assert "2411.16085" in told["paper"] and "2302.06675" in told["paper"]
