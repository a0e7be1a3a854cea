"""GaLore, APOLLO and Fira: their subspaces, what lives in them, and the limiter."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import same, walk, weights

import steepest
from steepest.core.errors import BadInput
from steepest.faces import face
from steepest.linalg.low_rank import into, out_of, sides, singular_subspace
from steepest.optimizer import Optimizer
from steepest.registry import built_in, rule_named, rules

ORACLES = Path(__file__).parent / "oracles"
Q = "blocks.0.attn.q.weight"
ELEMENT = [name for name, rule in rules().items() if rule.scope == "element"]
OTHERS = [name for name in rules() if name not in ELEMENT]


def hidden(*shapes: tuple[int, int]) -> dict[str, torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return {
        f"h.{i}.q.weight": torch.nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64))
        for i, shape in enumerate(shapes)
    }


def projector(optimizer: Optimizer, p: torch.Tensor) -> torch.Tensor:
    (name,) = (slot for slot in optimizer.state[p] if slot.startswith("projector_"))
    return optimizer.state[p][name]


# -- subspaces -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "dtype"), [("default-f64", torch.float64), ("default-f32", torch.float32)])
@pytest.mark.parametrize("signs", ["largest", "lapack"])
def test_the_own_subspace_is_the_recorded_one_up_to_sign(variant: str, dtype: torch.dtype, signs: str) -> None:
    with np.load(ORACLES / "inputs.npz") as inputs, np.load(ORACLES / "galore" / f"{variant}.npz") as arrays:
        keys = [key for key in arrays.files if key.startswith("extra/proj/")]
        assert len(keys) == 9
        for key in keys:
            *_, t, name = key.split("/")
            grad = torch.tensor(inputs[f"grad/{t}/{name}"]).to(dtype)
            (side,) = sides("std", *grad.shape)
            found = singular_subspace(grad, (side,), 4, signs)[side].double().numpy()
            recorded = arrays[key].astype(np.float64)
            axis = 0 if side == "left" else 1
            turned = found * np.sign((found * recorded).sum(axis=axis, keepdims=True))
            # Libraries and processors differ in float32: by 2e-5 between two of them.
            np.testing.assert_allclose(turned, recorded, atol=1e-12 if dtype == torch.float64 else 1e-4)
            if signs == "largest":
                largest = np.take_along_axis(found, abs(found).argmax(axis=axis, keepdims=True), axis)
                assert (largest > 0).all()


@pytest.mark.parametrize("kind", ["std", "reverse_std", "left", "right", "full"])
@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6), (1, 4), (4, 1)], ids=str)
def test_the_projection_is_orthogonal(kind: str, shape: tuple[int, int]) -> None:
    """It loses nothing that lies in the subspace, and of the gradient what the further singular values tell."""
    g = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rank = min(2, *shape)
    subspace = singular_subspace(g, sides(kind, *shape), rank, "largest")
    back = out_of(into(g, subspace), subspace)
    torch.testing.assert_close(out_of(into(back, subspace), subspace), back)
    lost = torch.linalg.svdvals(g)[:, rank:].square().sum(dim=-1)
    torch.testing.assert_close((g - back).square().sum(dim=(-2, -1)), lost)


@pytest.mark.parametrize("name", ["galore", "apollo", "fira"])
def test_a_subspace_is_new_every_so_many_steps_and_after_a_gradient_of_zeros_the_old_one(name: str) -> None:
    named = hidden((7, 4))
    (p,) = named.values()
    optimizer = face(rules()[name])(list(named.items()), rank=2, update_proj_gap=3, proj="svd")
    seen = []
    for t in range(8):
        if t == 6:
            p.grad = torch.zeros_like(p)
            optimizer.step()
        else:
            walk(optimizer, named, 1, start=t)
        seen.append(projector(optimizer, p).clone())
    changes = [t for t in range(1, 8) if not torch.equal(seen[t], seen[t - 1])]
    assert changes == [3]


def test_spread_refreshes_fall_on_different_steps_and_the_first_on_the_first() -> None:
    rule = rules()["galore"](update_proj_gap=4, spread=True)
    assert rule.turns == 4 and rules()["galore"](update_proj_gap=0, spread=True).turns == 1
    told = [[rule.phase(t, turn).split()[0] for t in range(1, 9)] for turn in range(4)]
    assert all(one[0] == "refresh" for one in told)
    assert [[t for t in range(2, 9) if one[t - 1] == "refresh"] for one in told] == [[5], [4, 8], [3, 7], [2, 6]]


@pytest.mark.parametrize("name", ["galore", "apollo", "fira"])
def test_a_subspace_can_be_given_by_hand_and_one_that_is_not_shows_at_once(name: str) -> None:
    own, given, without = hidden((7, 4)), hidden((7, 4)), hidden((7, 4))
    a = face(rules()[name])(list(own.items()), rank=2, lr=0.1)
    walk(a, own, 3)
    b = face(rules()[name])(list(given.items()), rank=2, lr=0.1, update_proj_gap=0)
    b.state[given["h.0.q.weight"]]["projector_right"].copy_(projector(a, own["h.0.q.weight"]))
    walk(b, given, 3)
    assert same(own, given)
    walk(face(rules()[name])(list(without.items()), rank=2, update_proj_gap=0), without, 1)
    assert without["h.0.q.weight"].isnan().all()


def test_random_subspaces_keep_lengths_on_average_and_change_with_seed_and_refresh() -> None:
    found = []
    for seed in range(200):
        named = hidden((6, 5))
        (p,) = named.values()
        optimizer = steepest.APOLLO(list(named.items()), rank=3, seed=seed, update_proj_gap=1)
        walk(optimizer, named, 2)
        found.append(projector(optimizer, p))
    grams = torch.stack([p.mT @ p for p in found])
    torch.testing.assert_close(grams.mean(dim=0), torch.eye(5, dtype=torch.float64), atol=0.2, rtol=0)
    assert len({float(p[0, 0]) for p in found}) == 200


@pytest.mark.parametrize("name", ["galore", "apollo", "fira"])
def test_there_are_as_many_singular_vectors_as_the_shorter_side_has_and_random_ones_as_asked_for(
    name: str,
) -> None:
    rule = rules()[name]
    for shape in [(24, 8), (8, 24), (8, 8), (3, 24, 8)]:
        assert rule(rank=100, proj="svd").slots(shape) == rule(rank=8, proj="svd").slots(shape)
    assert rule(rank=100, proj="random").slots((24, 8))["projector_right"].shape == (100, 8)
    assert rule(rank=0.25).slots((24, 8)) == rule(rank=2).slots((24, 8))
    assert rule(rank=0.01).slots((24, 8)) == rule(rank=1).slots((24, 8))
    for wrong in (0, 2.5):
        with pytest.raises(BadInput, match=rf"{name}: rank={wrong} must be a whole number, or a share"):
            rule(rank=wrong)


@pytest.mark.parametrize("name", ["galore", "apollo", "fira"])
@pytest.mark.parametrize("proj", ["svd", "random"])
def test_spread_refreshes_are_the_same_under_every_engine(name: str, proj: str) -> None:
    shapes = [(7, 4)] * 5 + [(4, 7)]
    loop, batched = hidden(*shapes), hidden(*shapes)
    for engine, named in (("loop", loop), ("batched", batched)):
        options: dict[str, Any] = {"rank": 2, "update_proj_gap": 3, "proj": proj, "spread": True, "engine": engine}
        walk(face(rules()[name])(list(named.items()), **options), named, 8)
    for key, w in loop.items():
        torch.testing.assert_close(batched[key], w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["galore", "apollo", "fira"])
def test_experts_in_a_stack_have_subspaces_of_their_own(name: str) -> None:
    stack = torch.nn.Parameter(torch.randn(3, 7, 4, dtype=torch.float64))
    single = {f"h.{i}.q.weight": torch.nn.Parameter(w.clone()) for i, w in enumerate(stack.detach())}
    options: dict[str, Any] = {"rank": 2, "update_proj_gap": 2, "proj": "svd"}
    a = face(rules()[name])([("w", stack)], layouts={"w": "whole"}, roles={"w": "matrix"}, **options)
    b = face(rules()[name])(list(single.items()), **options)
    for t in range(5):
        walk(a, {"w": stack}, 1, start=t)
        assert stack.grad is not None
        for p, grad in zip(single.values(), stack.grad, strict=True):
            p.grad = grad.clone()
        b.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in single.values()]))


# -- what lives in a subspace ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "cols", "rank"), [(1024, 1024, 256), (1024, 256, 64), (256, 1024, 32)])
def test_the_state_is_what_the_papers_say(rows: int, cols: int, rank: int) -> None:
    """GaLore: two moments of the long side and a projector of the short one; APOLLO, Fira: and one norm."""
    long, short = max(rows, cols), min(rows, cols)
    floats = 2 * long * rank + short * rank
    assert rules()["galore"](rank=rank).state_bytes((rows, cols)) == 4 + 4 * floats
    for name in ("apollo", "fira"):
        assert rules()[name](rank=rank).state_bytes((rows, cols)) == 4 + 4 * (floats + 1)
    assert rules()["apollo"](rank=1).state_bytes((rows, cols)) < 0.15 * rows * cols


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)], ids=str)
@pytest.mark.parametrize("kind", ["std", "full"])
def test_at_full_rank_a_linear_rule_is_itself(shape: tuple[int, int], kind: str) -> None:
    """The projection is then a rotation, and SGD with momentum does not notice one."""
    if kind == "full" and shape[0] != shape[1]:
        shape = (5, 5)
    plain, low = hidden(shape), hidden(shape)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    walk(steepest.SGD(list(plain.items()), **options), plain, 5)
    rotated = steepest.GaLoreSGD(list(low.items()), rank=100, scale=1.0, proj_type=kind, **options)
    walk(rotated, low, 5)
    torch.testing.assert_close(low["h.0.q.weight"], plain["h.0.q.weight"])


@pytest.mark.parametrize("outer", ["galore", "apollo", "fira"])
@pytest.mark.parametrize("name", ELEMENT)
def test_every_element_rule_runs_in_a_subspace(outer: str, name: str) -> None:
    """Finite: none of them reads the weight, which has no form there."""
    try:
        rule = built_in(f"{outer}-{name}")
    except BadInput as refused:
        assert f"{outer} over {name}" in str(refused)
        return
    assert rule is not None
    momentum = {"momentum": 0.9} if "momentum" in rule.__dataclass_fields__ else {}
    named, before = weights(), weights()
    optimizer = face(rule)(list(named.items()), rank=2, update_proj_gap=2, **momentum)
    walk(optimizer, named, 5)
    assert all(p.isfinite().all() for p in named.values())
    assert not torch.equal(named[Q], before[Q])
    assert all(t.shape in ((), (1, 1), (2, 6), (6, 2)) for t in optimizer.state[named[Q]].values())


@pytest.mark.parametrize("outer", ["galore", "apollo", "fira"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_rule_that_must_see_the_whole_is_refused_with_the_reason(outer: str, name: str) -> None:
    with pytest.raises(BadInput, match=f"{outer} over {name}: this rule must see a whole (tensor|matrix|model)"):
        built_in(f"{outer}-{name}")


def test_companions_rates_stand_to_the_rules_as_the_defaults_do() -> None:
    found = [rule_named(name).companion for name in ("galore", "galore-lion", "apollo")]
    assert [companion["lr_ratio"] for companion in found if companion] == [1.0, pytest.approx(10.0), 1.0]


# -- the limiter -----------------------------------------------------------------------------------------------


def moves(steps: int, *, zero_at: int = -1, **options: Any) -> list[float]:
    """The length of each step of APOLLO on one matrix, corrections of Adam taken out."""
    named = hidden((8, 6))
    (p,) = named.values()
    optimizer = steepest.APOLLO(list(named.items()), rank=2, lr=1.0, correct_bias=False, **options)
    found = []
    for t in range(steps):
        before = p.detach().clone()
        if t == zero_at:
            p.grad = torch.zeros_like(p)
            optimizer.step()
        else:
            walk(optimizer, named, 1, start=t)
        found.append(float((p.detach() - before).norm()))
    return found


@pytest.mark.parametrize("limiter", ["mended", "official"])
def test_steps_grow_by_one_percent_at_most(limiter: str) -> None:
    found = moves(12, limiter=limiter)
    assert all(b <= 1.01 * (a + 2e-8) for a, b in itertools.pairwise(found))
    free = moves(12, limiter="off")
    assert any(b > 1.02 * a for a, b in itertools.pairwise(free))


@pytest.mark.parametrize("zero_at", [0, 3])
def test_one_gradient_of_zeros_freezes_the_official_limiter_and_not_the_mended_one(zero_at: int) -> None:
    frozen = moves(zero_at + 40, zero_at=zero_at, limiter="official")
    assert max(frozen[zero_at + 1 :]) < 1e-6
    mended = moves(zero_at + 3, zero_at=zero_at, limiter="mended")
    assert mended[zero_at] == 0.0 and mended[zero_at + 1] > 0.1 * mended[zero_at - 1]
    norm, steps = 0.0, 0
    while norm < 1:
        norm, steps = 1.01 * (norm + 1e-8), steps + 1
    assert steps == 1388  # until an update of norm 1 passes the official limiter again


def test_where_no_gradient_vanishes_the_mended_limiter_is_the_official_one() -> None:
    assert moves(12, limiter="mended") == pytest.approx(moves(12, limiter="official"), rel=1e-12)


def test_the_scale_enters_by_its_square_root() -> None:
    plain, mini = moves(4, limiter="off"), moves(4, limiter="off", scale=128.0)
    assert mini == pytest.approx([128**0.5 * step for step in plain])
    front = moves(4, limiter="mended", scale=128.0, scale_front=True)
    assert front == pytest.approx(moves(4, limiter="mended", scale=128.0), rel=1e-6)
