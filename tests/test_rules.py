"""What every rule promises, proved for every rule, option and engine."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from typing import Any

import pytest
import torch
from cases import Case, build, cases, give_gradients, options, same, step, untold, variants, walk, weights

from steepest import estimates
from steepest.core.errors import SteepestError
from steepest.core.rule import Ask, Rule, Step, defaults, hyperparameters, variant_of
from steepest.engines.draws import drawn
from steepest.registry import rule_named, rules
from steepest.settings import roles_merged

ALL = cases(variants, options)


@pytest.mark.parametrize("case", ALL)
def test_batched_walks_as_the_loop_does_to_rounding(case: Case) -> None:
    loop, batched = weights(), weights()
    walk(build(case, loop, engine="loop"), loop, 4)
    walk(build(case, batched, engine="batched"), batched, 4)
    for name, w in loop.items():  # a tape rounds some sums once, a batched product otherwise than a single one
        torch.testing.assert_close(batched[name], w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", cases(variants, scope="element"))
def test_blocks_and_buckets_of_large_weights_give_the_loops_result(case: Case) -> None:
    """Beyond a block's size weights are cut and small ones packed; a strided one is left whole."""

    def made() -> dict[str, torch.nn.Parameter]:
        draw = torch.Generator().manual_seed(0)
        shapes = {"large": (300, 500), "strided": (400, 300), "a": (200, 200), "b": (210, 200), "c": (7,)}
        found = {n: torch.nn.Parameter(torch.randn(s, generator=draw)) for n, s in shapes.items()}
        found["strided"] = torch.nn.Parameter(found["strided"].detach().t())
        return found

    loop, batched = made(), made()
    walk(build(case, loop, engine="loop"), loop, 3)
    walk(build(case, batched, engine="batched"), batched, 3)
    for name, w in loop.items():  # EXAdam compares m^2 with 1e-8: where m is near 0 its rounding is seen
        torch.testing.assert_close(batched[name], w, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("case", cases(variants, scope="element"))
def test_batched_gives_bitwise_the_same_for_every_way_to_cut_and_join(case: Case) -> None:
    draw = torch.Generator().manual_seed(0)
    whole = {"w": torch.nn.Parameter(torch.randn(200_003, generator=draw))}
    cut = {str(i): torch.nn.Parameter(p.clone()) for i, p in enumerate(whole["w"].detach().split(30_001))}
    one, other = build(case, whole, engine="batched"), build(case, cut, engine="batched")

    def constant(ask: Ask) -> dict[torch.Tensor, torch.Tensor]:
        return {p: torch.full_like(p, 0.5) for p in (*whole.values(), *cut.values())}

    for t in range(3):
        give_gradients(whole, t)
        grad = whole["w"].grad
        assert grad is not None
        for p, g in zip(cut.values(), grad.split(30_001), strict=True):
            p.grad = g.clone()
        for optimizer in (one, other):  # an observation sees a weight whole: one that no cut changes
            estimates.step(optimizer, constant)
    assert torch.equal(torch.cat([p.detach() for p in cut.values()]), whole["w"].detach())


def parts_of(rule: Rule, shape: tuple[int, ...], steps: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    grads = [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(steps)]
    return grads, torch.randn(shape, generator=draw, dtype=torch.float64)


def directions(
    rule: Rule,
    grads: list[torch.Tensor],
    w: torch.Tensor,
    state: dict[str, Any],
    given: dict[str, Any] | None = None,
    stack: int = 0,
) -> tuple[list[Any], dict[str, Any]]:
    """Every step's direction, and the state after the first; ``given`` replaces parts of that state.

    ``stack``: gradients are so many matrices, and each has the draws that the first alone would have.
    """
    found, first = [], {}
    for t, g in enumerate(grads, start=1):
        u, state = rule.update(g, w, moment(rule, t, g.shape, stack), state)
        if t == 1:
            state = first = state | (given or {})
        found.append(u)
    return found, first


def moment(rule: Rule, t: int, shape: torch.Size, stack: int) -> Step:
    """A step with draws and totals; every matrix of a stack sees the same."""
    phase, one = rule.phase(t), torch.empty(shape[1:] if stack else shape, dtype=torch.float64)
    draws = drawn(rule, t, one, 0, phase=phase)
    if stack:
        draws = {name: draw.expand(stack, *draw.shape) for name, draw in draws.items()}
    return Step(phase, {**rule.corrections(t), **dict.fromkeys(rule.totals, torch.tensor(2.0)), **draws})


def rule_of(case: Case) -> Rule:
    name, arguments = case
    arguments = dict(arguments)
    rule = rule_named(name)
    values = defaults(rule, arguments.pop("variant", None)) | untold(rule) | arguments
    return rule(**{k: v for k, v in values.items() if k in hyperparameters(rule)})


def for_roles(case: Case) -> list[Rule]:
    """The rule of a case as it is, and as it is for each role that has hyperparameters of its own."""
    rule, (name, arguments) = rule_of(case), case
    own = variant_of(rules()[name], arguments.get("variant")).get("by_role", {})
    tables = roles_merged(rules()[name], rule.by_role, own).values()
    return [rule, *(dataclasses.replace(rule, **{k: v for k, v in t.items() if k != "lr_ratio"}) for t in tables)]


def zeros(rule: Rule, shape: tuple[int, ...], *stack: int) -> dict[str, torch.Tensor]:
    return {n: torch.zeros((*stack, *s.shape), dtype=torch.float64) for n, s in rule.slots(shape).items()}


@pytest.mark.parametrize("case", cases(variants, options, scope="element"))
def test_an_element_rule_commutes_with_cutting_a_tensor_into_pieces(case: Case) -> None:
    rule = rule_of(case)
    grads, w = parts_of(rule, (12, 4), 4)
    whole, _ = directions(rule, grads, w, zeros(rule, (12, 4)))
    for piece in (slice(0, 5), slice(5, 12)):
        cut, _ = directions(rule, [g[piece] for g in grads], w[piece], zeros(rule, tuple(w[piece].shape)))
        for u, part in zip(whole, cut, strict=True):
            assert u is part is None or torch.equal(u[piece], part)


@pytest.mark.parametrize("case", cases(variants, options, scope="matrix"))
@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)], ids=str)
def test_a_matrix_rule_commutes_with_stacking(case: Case, shape: tuple[int, int]) -> None:
    rule = rule_of(case)
    try:
        rule.slots(shape)
    except SteepestError as why:
        pytest.skip(str(why))
    grads, w = parts_of(rule, (3, *shape), 4)
    stacked, first = directions(rule, grads, w, zeros(rule, shape, 3), stack=3)
    free = rule.fed(0, "w", shape, rule.slots(shape))  # what the first gradient leaves undetermined
    for i in range(3):
        given = {name: first[name][i] for name in free}
        single, _ = directions(rule, [g[i] for g in grads], w[i], zeros(rule, shape), given)
        for u, one in zip(stacked, single, strict=True):
            assert (u is None) == (one is None)
            if u is not None and one is not None:
                torch.testing.assert_close(u[i], one, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("case", cases(variants, scope="matrix"))
def test_a_matrix_rule_is_no_element_rule(case: Case) -> None:
    """The scope is not claimed wider than it is: cutting a matrix, of some role, changes the direction.

    Unless what couples its elements is a number over all weights, which is given here.
    """

    def feels_a_cut(rule: Rule) -> bool:
        # A calendar may begin with steps that see elements alone.
        other = next((t for t in range(2, 200) if rule.phase(t) != rule.phase(1)), 0)
        grads, w = parts_of(rule, (6, 6), max(8, other))
        whole = directions(rule, grads, w, zeros(rule, (6, 6)))[0][-1]
        cut = directions(rule, [g[:3, :3] for g in grads], w[:3, :3], zeros(rule, (3, 3)))[0][-1]
        return not torch.allclose(whole[:3, :3], cut)

    assert any(rule.totals or feels_a_cut(rule) for rule in for_roles(case))


# Variants and options differ in what they compute, not in what is saved: one moment stands for them.
FIRST = {p.values[0][0]: p for p in reversed(cases(variants))}.values()
STOPS = [pytest.param(*p.values, stop, id=f"{stop}-{p.id}") for stop in (0, 1, 5) for p in FIRST]
STOPS += [pytest.param(*p.values, 2, id=f"2-{p.id}") for p in ALL]


@pytest.mark.parametrize(("case", "stop"), STOPS)
def test_a_run_resumed_from_a_checkpoint_is_bitwise_the_uninterrupted_one(case: Case, stop: int) -> None:
    whole, first = weights(torch.float32), weights(torch.float32)
    walk(build(case, whole), whole, 7)
    saved = build(case, first)
    walk(saved, first, stop)
    file = io.BytesIO()
    torch.save({"weights": {n: p.detach() for n, p in first.items()}, "optimizer": saved.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    second = weights(torch.float32, seed=9)
    resumed = build(case, second)
    with torch.no_grad():
        for name, p in second.items():
            p.copy_(loaded["weights"][name])
    resumed.load_state_dict(loaded["optimizer"])
    walk(resumed, second, 7 - stop, start=stop)
    assert same(whole, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ALL)
def test_the_memory_formula_is_what_is_allocated(case: Case, dtype: torch.dtype) -> None:
    named = weights(dtype)
    optimizer = build(case, named)
    for group in optimizer.param_groups:
        rule = optimizer.rule_of(group)
        for p in group["params"]:
            allocated = sum(t.numel() * t.element_size() for t in optimizer.state[p].values())
            assert allocated == rule.state_bytes(tuple(p.shape), dtype)


@pytest.mark.parametrize("case", ALL)
def test_state_keys_and_types_are_the_same_before_and_after_a_step(case: Case) -> None:
    named = weights(torch.bfloat16)
    optimizer = build(case, named)
    before = {p: {k: (v.shape, v.dtype) for k, v in s.items()} for p, s in optimizer.state.items()}
    assert len(before) == len(named)
    walk(optimizer, named, 2)
    assert before == {p: {k: (v.shape, v.dtype) for k, v in s.items()} for p, s in optimizer.state.items()}


@pytest.mark.parametrize("engine", ["loop", "batched"])
@pytest.mark.parametrize("case", cases(variants))
def test_gradients_are_never_modified(case: Case, engine: str) -> None:
    named = weights()
    optimizer = build(case, named, engine=engine)
    for t in range(2):
        give_gradients(named, t)
        before = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
        step(optimizer)
        assert all(torch.equal(before[name], p.grad) for name, p in named.items() if p.grad is not None)


@pytest.mark.parametrize("case", ALL)
def test_a_learning_rate_of_zero_moves_nothing(case: Case) -> None:
    named, before = weights(), weights()
    optimizer = build(case, named)
    for group in optimizer.param_groups:  # of roles and companions with rates of their own too
        group["lr"] = group["peak_lr"] = 0.0
    walk(optimizer, named, 3)
    assert same(named, before)


@pytest.mark.parametrize("case", cases(variants))
def test_a_weight_without_gradient_stays_and_keeps_its_own_step_count(case: Case) -> None:
    named, before = weights(), weights()
    optimizer = build(case, named)
    still = "blocks.0.attn.q.weight"
    for t in range(3):
        give_gradients(named, t)
        named[still].grad = None
        step(optimizer)
    assert torch.equal(named[still], before[still])
    assert optimizer.state[named[still]]["step"] == 0
    assert optimizer.state[named["blocks.1.attn.q.weight"]]["step"] == 3


@pytest.mark.parametrize("case", cases(variants))
def test_a_gradient_that_is_not_a_number_reaches_its_weight_or_state_and_no_other(case: Case) -> None:
    named = weights()
    optimizer = build(case, named)
    struck = "blocks.0.attn.q.weight"
    for t in range(3):
        give_gradients(named, t)
        grad = named[struck].grad
        assert grad is not None
        grad[0, 0] = torch.nan
        step(optimizer)
    # A sign rule's weight stays, because torch.sign(nan) is 0, but its momentum tells.
    assert any(t.isnan().any() for t in (named[struck], *optimizer.state[named[struck]].values()))
    if not rule_of(case).totals:  # a number over all weights carries it to all of them
        assert all(p.isfinite().all() for name, p in named.items() if name != struck)


@pytest.mark.parametrize("case", cases(variants))
def test_a_bfloat16_weight_is_the_rounded_float32_update(case: Case) -> None:
    """One step from equal weights: state and arithmetic are float32, only the weight is rounded."""
    half, full = weights(torch.bfloat16), weights(torch.bfloat16)
    full = {name: torch.nn.Parameter(p.detach().float()) for name, p in full.items()}
    a, b = build(case, half), build(case, full)
    give_gradients(half, 0)
    for name, p in full.items():
        grad = half[name].grad
        assert grad is not None
        p.grad = grad.float()
    for optimizer, named in ((a, half), (b, full)):
        grads = {p: p.grad for p in named.values() if p.grad is not None}
        estimates.step(optimizer, lambda ask, grads=grads: grads)  # type: ignore[misc]
    for name, p in full.items():
        assert torch.equal(half[name], p.detach().bfloat16())


@pytest.mark.parametrize("case", cases(variants))
def test_a_deep_copy_walks_alone_and_the_same(case: Case) -> None:
    named = weights()
    optimizer = build(case, named)
    walk(optimizer, named, 2)
    twin, copies = copy.deepcopy((optimizer, named))
    walk(twin, copies, 2, start=2)
    assert not same(named, copies)
    walk(optimizer, named, 2, start=2)
    assert same(named, copies)


@pytest.mark.parametrize("case", cases(variants))
def test_a_pickled_optimizer_goes_on(case: Case) -> None:
    named = weights()
    optimizer = build(case, named)
    walk(optimizer, named, 2)
    twin, copies = pickle.loads(pickle.dumps((optimizer, named)))
    walk(twin, copies, 1, start=2)
    walk(optimizer, named, 1, start=2)
    assert same(named, copies)


@pytest.mark.parametrize("engine", ["loop", "batched"])
@pytest.mark.parametrize("name", rules())
def test_empty_and_scalar_weights_do_no_harm(name: str, engine: str) -> None:
    named = {
        "a": torch.nn.Parameter(torch.ones(())),
        "b": torch.nn.Parameter(torch.ones(0, 3)),
        "c": torch.nn.Parameter(torch.ones(0)),
        "d": torch.nn.Parameter(torch.ones(3, 1)),
    }
    optimizer = build((name, {}), named, engine=engine)
    walk(optimizer, named, 3)
    assert named["a"] != 1 and named["b"].shape == (0, 3)
