"""State in codes of few bits: the recorded tables, every rule, every engine, and checkpoints."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, build, cases, give_gradients, needs_compiler, same, variants, walk, weights

import steepest
from steepest.core.errors import BadInput, SteepestError
from steepest.core.lowbit import LowBit, format_of
from steepest.core.rule import Rule, Slot
from steepest.engines import why_not_compiled
from steepest.linalg.quantise import blocks_of, dequantised, dynamic_map, map_of, midpoints, quantised
from steepest.registry import resolve
from steepest.verify import _load, verify

ORACLES = Path(__file__).parent / "oracles"
ALL = LowBit(block=64, smallest=1)


def defaults(rule: type[Rule]) -> Iterator[dict[str, Any]]:
    """Its defaults alone."""
    yield {}


FORMS = {"8bit": ALL, "4bit": LowBit(bits=4, block=64, smallest=1)}


EVERY = [pytest.param(*p.values, "8bit", id=f"{p.id}-8bit") for p in cases(variants)]
EVERY += [pytest.param(*p.values, "4bit", id=f"{p.id}-4bit") for p in cases(defaults)]
"""Every variant in 8 bits, every rule in 4."""


@pytest.fixture(scope="module")
def tables() -> dict[str, np.ndarray]:
    return _load(ORACLES / "adam8bit" / "codebook_and_blocks.npz")


@pytest.mark.parametrize("kind", ["signed", "unsigned"])
def test_the_map_is_the_authors(kind: str, tables: dict[str, np.ndarray]) -> None:
    ours = dynamic_map(8, kind == "signed").numpy()
    np.testing.assert_allclose(ours, tables[f"codebook/{kind}"], atol=6e-8, rtol=0)


@pytest.mark.parametrize("block", [256, 2048])
@pytest.mark.parametrize("kind", ["signed", "unsigned"])
def test_codes_scales_and_numbers_are_the_authors(kind: str, block: int, tables: dict[str, np.ndarray]) -> None:
    of = f"{kind}/{block}"
    x = torch.tensor(tables[f"{of}/input"])
    codes, scale = quantised(x, 8, block, kind == "signed")
    assert (codes.numpy() == tables[f"{of}/q"]).all()
    assert (scale.numpy() == tables[f"{of}/absmax"]).all()
    back = dequantised(codes, scale, len(x), 8, block, kind == "signed")
    assert (back.numpy() == tables[f"{of}/dequant"]).all()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_of_two_equally_near_entries_the_lower_is_taken(bits: int, signed: bool) -> None:
    middle = midpoints(bits, signed)
    x = torch.cat([middle, torch.ones(1)])  # the one makes the scale 1
    codes, _ = quantised(x, bits, 256, signed)
    whole = torch.stack([codes & 15, codes >> 4], -1).flatten()[: len(x)] if bits == 4 else codes
    assert whole[:-1].tolist() == list(range(len(middle)))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 129, 1000])
def test_a_number_is_off_by_half_a_gap_of_the_map_at_most(n: int, bits: int) -> None:
    x = torch.randn(2, n, generator=torch.Generator().manual_seed(n))
    codes, scale = quantised(x, bits, 64, True)
    assert scale.shape == (2, blocks_of(n, 64)) and codes.shape == (2, n if bits == 8 else -(-n // 2))
    back = dequantised(codes, scale, n, bits, 64, True)
    entries = map_of(bits, True)
    reach = max(float(entries.diff().max()) / 2, 1 + float(entries[0]))  # -1 itself is no entry
    assert ((back - x).abs() <= scale.repeat_interleave(64, -1)[:, :n] * reach * 1.0001).all()


def test_with_keep_sign_no_negative_number_becomes_zero_and_small_positive_ones_do() -> None:
    x = torch.tensor([1.0, -1e-12, 1e-12, 0.0, -0.0])
    for keep, expected in ((True, [1.0, -5.5e-7, 0, 0, 0]), (False, [1.0, 0, 0, 0, 0])):
        codes, scale = quantised(x, 8, 256, True, keep)
        np.testing.assert_allclose(dequantised(codes, scale, 5, 8, 256, True).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("engine", ["loop", "compiled"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_a_number_shows_in_its_block(bad: float, engine: str) -> None:
    if engine == "compiled" and why_not_compiled():
        pytest.skip(str(why_not_compiled()))
    w = torch.nn.Parameter(torch.zeros(2, 64))
    optimizer = steepest.AdamW([w], state=ALL, engine=engine)
    w.grad = torch.ones(2, 64)
    w.grad[0, 3] = bad
    optimizer.step()
    assert not optimizer.state[w]["exp_avg.absmax"][0].isfinite()
    assert optimizer.state[w]["exp_avg.absmax"][1].isfinite()


@pytest.mark.parametrize("variant", ["adamw8bit_exact", "adamw8bit_min4096_is32bit"])
@pytest.mark.parametrize("engine", ["loop", "batched", "compiled"])
def test_the_recorded_trajectory_is_walked(variant: str, engine: str) -> None:
    if engine == "compiled" and why_not_compiled():
        pytest.skip(str(why_not_compiled()))
    (verdict,) = verify(ORACLES, only=f"adam8bit/{variant}", engine=engine)
    assert verdict.status == "pass", verdict


@pytest.mark.parametrize("engine", ["loop", "compiled"])
def test_after_twelve_steps_the_authors_codes_and_scales_are_reached(engine: str) -> None:
    """But for a handful whose value lies within rounding of a midpoint."""
    if engine == "compiled" and why_not_compiled():
        pytest.skip(str(why_not_compiled()))
    arrays, inputs = _load(ORACLES / "adam8bit" / "adamw8bit_exact.npz"), _load(ORACLES / "inputs.npz")
    names = [key.removeprefix("init/") for key in inputs if key.startswith("init/")]
    named = {n: torch.nn.Parameter(torch.tensor(inputs[f"init/{n}"]).float()) for n in names}
    options: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.999), "weight_decay": 0.01}
    optimizer = steepest.AdamW(list(named.items()), **options, state=LowBit(smallest=1), engine=engine)
    for t in range(12):
        for n, p in named.items():
            p.grad = torch.tensor(inputs[f"grad/{t:03d}/{n}"]).float()
        optimizer.step()
    for n, p in named.items():
        for k, slot in ((1, "exp_avg"), (2, "exp_avg_sq")):
            state = optimizer.state[p]
            np.testing.assert_allclose(state[f"{slot}.absmax"], arrays[f"extra/final_absmax{k}/{n}"], rtol=1e-6)
            differ = state[slot].numpy() != arrays[f"extra/final_state{k}/{n}"]
            assert differ.mean() <= 0.005, f"{n} {slot}: {differ.sum()} of {differ.size} codes"


@pytest.mark.parametrize(("case", "form"), EVERY)
def test_every_rule_walks_batched_as_in_the_loop(case: Case, form: str) -> None:
    """To codes: where rounding crosses a midpoint a number differs by a gap of the map, in 4 bits a large one."""
    loop, batched, full = weights(torch.float32), weights(torch.float32), weights(torch.float32)
    walk(build(case, loop, engine="loop", state=FORMS[form]), loop, 3)
    walk(build(case, batched, engine="batched", state=FORMS[form]), batched, 3)
    walk(build(case, full, engine="loop"), full, 3)
    for name, w in loop.items():
        assert w.isfinite().all()
        far = (w - full[name]).norm()  # what the codes themselves do
        assert (batched[name] - w).norm() <= 0.05 * far + 1e-5 * w.norm(), name


@needs_compiler
@pytest.mark.parametrize(
    ("case", "form"),
    [pytest.param(*p.values, "8bit", id=str(p.id)) for p in cases(defaults, scope="element")]
    + [(("adamw", {}), "4bit"), (("adamw", {}), "keep_sign")],
)
def test_kernels_leave_the_loops_codes(case: Case, form: str) -> None:
    state = FORMS.get(form, LowBit(block=64, smallest=1, keep_sign=True))
    shapes = {"a": (70, 67), "b": (3, 5), "c": (129,)}
    draw = torch.Generator().manual_seed(0)
    loop = {n: torch.nn.Parameter(torch.randn(s, generator=draw)) for n, s in shapes.items()}
    kernel = {n: torch.nn.Parameter(p.detach().clone()) for n, p in loop.items()}
    one, other = (
        build(case, named, engine=engine, state=state) for named, engine in ((loop, "loop"), (kernel, "compiled"))
    )
    walk(one, loop, 4)
    walk(other, kernel, 4)
    for n, p in loop.items():
        torch.testing.assert_close(kernel[n], p, rtol=1e-4, atol=1e-5)
        for key, ours in other.state[kernel[n]].items():
            theirs = one.state[p][key]
            if theirs.dtype == torch.uint8:
                assert (ours != theirs).float().mean() < 0.01, f"{n} {key}"
            else:
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("case", "form"), EVERY)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(case: Case, form: str) -> None:
    whole, first, second = (weights(torch.float32, seed) for seed in (0, 0, 9))
    walk(build(case, whole, state=FORMS[form]), whole, 5)
    saved = build(case, first, state=FORMS[form])
    walk(saved, first, 3)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    resumed = build(case, second, state=FORMS[form])
    with torch.no_grad():
        for name, p in second.items():
            p.copy_(first[name])
    resumed.load_state_dict(torch.load(file, weights_only=True))
    walk(resumed, second, 2, start=3)
    assert same(whole, second)


def far_apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def moment(optimizer: steepest.optimizer.Optimizer, p: torch.Tensor, form: LowBit | None) -> torch.Tensor:
    state = optimizer.state[p]
    if form is None:
        return state["exp_avg"]
    codes = state["exp_avg"].reshape(-1)
    found = dequantised(codes, state["exp_avg.absmax"], p.numel(), form.bits, form.block, True)
    return found.view(p.shape)


@pytest.mark.parametrize("new", [None, "8bit", "4bit", "2048"])
@pytest.mark.parametrize("old", [None, "8bit", "4bit", "2048"])
def test_a_checkpoint_loads_in_every_other_format(old: str | None, new: str | None) -> None:
    forms = {None: None, **FORMS, "2048": LowBit(block=2048, smallest=1)}
    a, b = (torch.nn.Parameter(torch.randn(50, 60, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    saved, loaded = (steepest.AdamW([("w", p)], state=forms[form]) for p, form in ((a, old), (b, new)))
    a.grad = torch.randn(50, 60, generator=torch.Generator().manual_seed(1))
    saved.step()
    loaded.load_state_dict(saved.state_dict())
    before, after = moment(saved, a, forms[old]), moment(loaded, b, forms[new])
    assert far_apart(after, before) <= (0.0 if new == old or new is None else 0.2 if new == "4bit" else 0.03)
    b.grad = a.grad
    loaded.step()
    assert b.isfinite().all()


def test_a_block_of_the_checkpoint_is_no_option_of_this_optimizer() -> None:
    """Loading takes the numbers, not the layout: what this optimizer was built with stays."""
    a, b = (torch.nn.Parameter(torch.ones(64, 64)) for _ in range(2))
    saved, loaded = steepest.AdamW([a], state=LowBit(block=128)), steepest.AdamW([b], state="8bit")
    loaded.load_state_dict(saved.state_dict())
    assert loaded.state[b]["exp_avg.absmax"].shape == (16,)
    assert loaded.state_dict()["param_groups"][0]["state_format"]["block"] == 256


def test_a_slot_that_a_step_leaves_alone_keeps_its_codes() -> None:
    """Rounded again, codes would drift: no entry of the map is -1, so that a block's scale would shrink."""
    w = torch.nn.Parameter(torch.ones(8, 64))
    optimizer = steepest.Sophia([("w", w)], state=ALL, hessian_interval=2, engine="loop")
    draw = torch.Generator().manual_seed(0)
    kept = []
    for _ in range(5):
        w.grad = torch.randn(8, 64, generator=draw)
        asked = optimizer.asks()
        optimizer.step()
        for ask in asked:
            optimizer.observe(ask, {w: -torch.rand(8, 64, generator=draw)})
        kept.append(optimizer.state[w]["hessian"].clone())
    assert kept[1].any() and torch.equal(kept[1], kept[2]) and not torch.equal(kept[2], kept[3])


def test_only_large_slots_of_the_weights_shape_are_kept_in_codes() -> None:
    form = LowBit()
    assert form.holds(Slot((64, 64)), (64, 64)) and not form.holds(Slot((64, 63)), (64, 63))
    assert not form.holds(Slot((64, 1)), (64, 64)) and not form.holds(Slot((64, 64), torch.bool), (64, 64))
    p = torch.nn.Parameter(torch.ones(64, 64))
    assert {k: v.dtype for k, v in steepest.AdamW([p], state="8bit").state[p].items()} == {
        "step": torch.float32,
        "exp_avg": torch.uint8,
        "exp_avg.absmax": torch.float32,
        "exp_avg_sq": torch.uint8,
        "exp_avg_sq.absmax": torch.float32,
    }


@pytest.mark.parametrize(("form", "bytes_"), [("8bit", 2 * (1 + 4 / 256)), ("4bit", 2 * (0.5 + 4 / 128))])
def test_adamws_state_takes_what_the_papers_say(form: str, bytes_: float) -> None:
    p = torch.nn.Parameter(torch.ones(256, 256))
    state = steepest.AdamW([p], state=form).state[p]
    assert sum(t.nbytes for t in state.values()) == 4 + bytes_ * p.numel()


def test_a_fused_weights_parts_have_codes_of_their_own() -> None:
    w = torch.nn.Parameter(torch.randn(24, 8))
    optimizer = steepest.Muon(
        [("h.0.attn.c_attn.weight", w)], layouts={"h.0.attn.c_attn.weight": "qkv"}, state=ALL
    )
    walk(optimizer, {"w": w}, 2)
    assert {"momentum_buffer.q", "momentum_buffer.absmax.q"} <= set(optimizer.state[w])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("7bit", "8bit"),
        ({"bits": 3}, "8bit and 4bit"),
        ({"block": 100}, "multiple of 64"),
        ({"blok": 64}, "block"),
    ],
)
def test_a_format_that_cannot_be_is_told_with_one_that_can(given: Any, told: str) -> None:
    with pytest.raises(SteepestError, match=told):
        steepest.AdamW([torch.nn.Parameter(torch.ones(2, 2))], state=given)


def test_the_format_is_part_of_a_runs_identity_and_full_state_is_not() -> None:
    plain = resolve("adamw").identity(1e-3)
    assert resolve("adamw:state=full").identity(1e-3) == plain
    assert resolve("adamw:state=8bit").identity(1e-3)["state"] == LowBit().told()
    assert resolve("adamw:state.block=512").identity(1e-3)["state"]["block"] == 512
    assert format_of("full") is None


def test_state_of_another_shape_in_a_checkpoint_is_told() -> None:
    a, b = (torch.nn.Parameter(torch.ones(*shape)) for shape in ((64, 64), (64, 65)))
    saved = steepest.AdamW([a], state="8bit").state_dict()
    with pytest.raises(BadInput, match="exp_avg"):
        steepest.AdamW([b], state="8bit").load_state_dict(saved)


def test_weights_in_another_order_of_memory_walk_the_same() -> None:
    plain = torch.nn.Parameter(torch.randn(70, 65, generator=torch.Generator().manual_seed(0)))
    turned = torch.nn.Parameter(plain.detach().t().contiguous().t())
    for p in (plain, turned):
        optimizer = steepest.AdamW([p], state=ALL)
        for t in range(3):
            give_gradients({"w": p}, t)
            optimizer.step()
    torch.testing.assert_close(plain, turned, rtol=0, atol=0)
