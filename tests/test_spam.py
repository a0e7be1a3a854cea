"""SPAM, Stable-SPAM and their pieces: what each does to any rule, what it leaves alone, and what it survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, give_gradients, same, step, untold, walk, weights
from references import spam as spam_text
from references import stable_spam as stable_text
from test_trajectories import INPUTS, ORACLES

import steepest
from steepest.core.errors import BadInput, UnsupportedTensor
from steepest.core.rule import Step
from steepest.faces import face
from steepest.optimizer import Optimizer
from steepest.registry import built_in, resolve, rules
from steepest.rules.adamw import AdamW
from steepest.verify import one

PLAIN = [n for n, r in rules().items() if r.__module__.startswith("steepest.rules.") and not r.sends()]
OVER_ALL = pytest.mark.parametrize("name", PLAIN)
Q = "blocks.0.attn.q.weight"
Named = dict[str, torch.nn.Parameter]


def over(wrapper: str, name: str, named: Named, **options: Any) -> Optimizer:
    """The optimizer of a rule in the loop, wrapped or not, with the lr and decay of every case."""
    rule = built_in(f"{wrapper}-{name}" if wrapper else name)
    assert rule is not None
    given = {"lr": 0.01, "weight_decay": 0.1} | untold(rule) | options
    return face(rule)(list(named.items()), engine="loop", **given)


# -- neutral settings ------------------------------------------------------------------------------------------

NEUTRAL: dict[str, dict[str, Any]] = {
    "spikeclip": {"threshold": 0.0},
    "reset": {"reset_every": 0},
    "adaclip": {"gamma3": 0.0},
    "spam": {"threshold": 0.0, "reset_every": 0},
}


@OVER_ALL
@pytest.mark.parametrize("wrapper", NEUTRAL)
def test_with_nothing_to_do_it_is_the_rule_itself_bit_for_bit(wrapper: str, name: str) -> None:
    plain, wrapped = weights(torch.float32), weights(torch.float32)
    own = {"eps_form": "torch", "eps": 1e-8, "decay": "before"} if (wrapper, name) == ("spam", "adamw") else {}
    a, b = over("", name, plain), over(wrapper, name, wrapped, **NEUTRAL[wrapper], **own)
    walk(a, plain, 5)
    walk(b, wrapped, 5)
    if a.rule.scope == b.rule.scope:
        assert same(plain, wrapped)
    for n, p in plain.items():  # an engine rounds an element rule's product with lr by itself
        torch.testing.assert_close(wrapped[n], p, rtol=1e-6, atol=1e-6)


@OVER_ALL
def test_before_the_first_reset_nothing_is_different(name: str) -> None:
    if rules()[name]().needs(1):
        pytest.skip("refused, see below")
    plain, wrapped = weights(), weights()
    walk(over("", name, plain), plain, 4)
    walk(over("reset", name, wrapped, reset_every=5), wrapped, 4)
    assert same(plain, wrapped)


@OVER_ALL
def test_gradients_of_norm_1_are_left_as_they_are_by_adagn(name: str) -> None:
    plain, wrapped = ({n: p for n, p in weights().items() if n == Q} for _ in range(2))
    options = {"weight_decay": 0.0}  # a coupled decay would be part of what is normalised
    a, b = over("", name, plain, **options), over("adagn", name, wrapped, norm_eps=0.0, **options)
    for t in range(4):
        for named, optimizer in ((plain, a), (wrapped, b)):
            give_gradients(named, t)
            for p in named.values():
                assert p.grad is not None
                p.grad /= p.grad.norm()
            step(optimizer)
    torch.testing.assert_close(wrapped[Q], plain[Q], rtol=1e-9, atol=1e-11)


# -- reset -----------------------------------------------------------------------------------------------------


@OVER_ALL
def test_a_rule_that_begins_anew_is_a_new_one(name: str) -> None:
    """From the weights that it has then: calendars, bases, bias corrections and all. Random draws go on."""
    if any(rules()[name]().randoms((6, 6), rules()[name]().phase(t)) for t in (1, 2)):
        pytest.skip("the draws of step 5 are not those of step 1")
    if rules()[name]().needs(1):
        pytest.skip("refused: what is measured before a step would be emptied with the state")
    named = weights()
    optimizer = over("reset", name, named, reset_every=5)
    own = {route.parameter for route in optimizer.routing() if route.rule == optimizer.rule.name()}
    walk(optimizer, named, 4)
    twins = {n: torch.nn.Parameter(p.detach().clone()) for n, p in named.items()}
    twin = over("", name, twins)
    for t in range(4, 9):
        walk(optimizer, named, 1, start=t)
        walk(twin, twins, 1, start=t)
    for n in own:
        assert torch.equal(named[n], twins[n]), n


def test_only_moments_are_forgotten_in_spams_form() -> None:
    kept = {"sophia": "hessian", "soap": "GG_left", "mars": "previous_grad"}
    for name, slot in kept.items():
        plain, named = weights(), weights()
        a, b = over("", name, plain), over("reset", name, named, reset_every=4, reset_form="moments")
        walk(a, plain, 3)
        walk(b, named, 3)
        for p in (*plain.values(), *named.values()):
            p.grad = torch.zeros_like(p)
        a.step()
        b.step()
        assert torch.equal(b.state[named[Q]][slot], a.state[plain[Q]][slot]), name
        gone = not b.state[named[Q]]["exp_avg"].any()
        assert gone is (name != "mars") and a.state[plain[Q]]["exp_avg"].any()  # MARS adds the gradient before


def test_what_sophia_asks_for_follows_its_own_count() -> None:
    named = weights()
    optimizer = over("reset", "sophia", named, reset_every=15, hessian_interval=10)
    asked = []
    for t in range(1, 41):
        asked += [t] if optimizer.asks() else []
        walk(optimizer, named, 1, start=t)
    assert asked == [10, 24, 39]  # its steps 10, twice again 10


@pytest.mark.parametrize(
    ("wrapped", "options", "why"),
    [
        ("reset-sophia", {"measured": "first"}, "measured before a step"),
        ("reset-adafactor", {"reset_warmup": 5}, "no direction to warm up"),
        ("reset-soap", {"reset_form": "official"}, "set reset_form='anew'"),
        ("adagn-mars", {"exact": True}, "measured beside it: set exact=False"),
        ("spikeclip-mars", {"exact": True}, "measured beside it: set exact=False"),
        ("adagn", {"gamma1": -0.5}, r"must be in \[0, 1\), or -1"),
        ("stable_spam-sgd", {"gamma1": -2.0}, "at least|-1"),
        ("spam", {"density": 0.0}, r"must be in \(0, 1\]"),
        ("spam", {"density": 0.5, "decay": "independent"}, "decay='independent'"),
        ("spam-muon", {"density": 0.5}, "sees a whole matrix: leave density out"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(wrapped: str, options: dict[str, Any], why: str) -> None:
    rule = resolve(wrapped).rule
    assert rule is not None
    with pytest.raises(BadInput, match=why):
        face(rule)(list(weights().items()), **options)


def test_a_rule_is_wrapped_once_and_names_compose() -> None:
    with pytest.raises(BadInput, match="reset over reset-lion: both have a reset_every of their own"):
        resolve("reset-reset-lion")
    assert steepest.StableSPAM.rule.name() == "stable_spam"
    assert steepest.StableSPAMLion.rule is resolve("stable_spam-lion").rule
    deep = steepest.CautiousResetSpikeClipLion
    assert deep.rule.name() == "cautious-reset-spikeclip-lion"
    text = resolve("stable_spam-lion").provenance["text"]
    assert all(f"class {piece}" in text for piece in ("AdaClipping", "Normalising", "Resetting", "Lion"))


# -- what steps survive ----------------------------------------------------------------------------------------


def alone(optimizer: type[Optimizer], shape: tuple[int, ...] = (6, 6), **options: Any) -> tuple[Any, Optimizer]:
    p = torch.nn.Parameter(torch.zeros(shape))
    return p, optimizer([("h.q.weight", p)], lr=0.01, **options)


def stepped(optimizer: Optimizer, p: torch.nn.Parameter, grad: torch.Tensor) -> float:
    before = p.detach().clone()
    p.grad = grad.clone()
    optimizer.step()
    assert torch.equal(p.grad, grad)
    return float((p.detach() - before).abs().max())


@pytest.mark.parametrize(("unseen", "moves"), [(False, True), (True, False)])
def test_a_row_without_gradients_for_long_moves_when_one_comes(unseen: bool, moves: bool) -> None:
    """A token that is not in the first 25 batches; in the authors' code it is clipped to 0 from then on."""
    p, optimizer = alone(steepest.SPAM, clip_unseen=unseen)
    grad = torch.ones(6, 6)
    grad[2] = 0
    for _ in range(25):
        stepped(optimizer, p, grad)
    for _ in range(5):
        stepped(optimizer, p, torch.ones(6, 6))
    assert bool(p[2].any()) is moves


@pytest.mark.parametrize(("form", "share"), [("anew", 0.9), ("official", 0.01)])
def test_gradients_of_zeros_leave_the_threshold_where_it_is(form: str, share: float) -> None:
    """An expert without tokens for 300 steps; in the authors' code the next gradient is all but clipped away."""
    p, optimizer = alone(steepest.StableSPAM, reset_form=form, gamma3=0.98)
    noise = torch.Generator().manual_seed(0)
    for _ in range(20):
        stepped(optimizer, p, torch.randn(6, 6, generator=noise))
    for _ in range(300):
        stepped(optimizer, p, torch.zeros(6, 6))
    average, count = optimizer.state[p]["clip_average"], optimizer.state[p].get("clip_count", torch.tensor(320.0))
    level = average / (1 - 0.98**count)
    assert 1 < float(level) < 4 if form == "anew" else float(level) < share


@pytest.mark.parametrize("wrapper", ["stable_spam", "adagn"])
def test_one_gradient_beyond_float32s_squares_does_not_stop_a_weight(wrapper: str) -> None:
    p, optimizer = alone(face(rules()[wrapper]))
    for _ in range(10):
        stepped(optimizer, p, torch.ones(6, 6))
    stepped(optimizer, p, torch.full((6, 6), 1e30))
    moved = [stepped(optimizer, p, torch.ones(6, 6)) for _ in range(200)]
    assert p.isfinite().all() and min(moved[-20:]) > 0.002
    if wrapper == "stable_spam":
        official, told = alone(steepest.StableSPAM, variant="official")
        for grad in (1.0, 1e30, 1.0):
            last = stepped(told, official, torch.full((6, 6), grad))
        assert not last > 0  # as the authors' code does


def test_a_first_gradient_of_zeros_is_no_observation() -> None:
    late, early = alone(steepest.StableSPAM), alone(steepest.StableSPAM)
    stepped(late[1], late[0], torch.zeros(6, 6))
    for optimizer, p in ((late[1], late[0]), (early[1], early[0])):
        stepped(optimizer, p, torch.ones(6, 6))
    for slot in ("clip_average", "clip_count", "norm_mean", "norm_rms", "norm_count"):
        assert torch.equal(late[1].state[late[0]][slot], early[1].state[early[0]][slot])


def test_a_constant_largest_entry_is_never_clipped_and_a_spike_to_what_is_told() -> None:
    p, optimizer = alone(steepest.AdaClip, gamma3=0.999)
    for _ in range(50):
        stepped(optimizer, p, torch.ones(6, 6))
    rule, state = optimizer.rule_of(optimizer.param_groups[0]), optimizer.state[p]
    moment = Step(rule.phase(51), rule.corrections(51))
    spike = torch.ones(6, 6)
    spike[0, 0] = 10.0
    seen, _ = rule.adaclipped(spike, moment, state)  # type: ignore[attr-defined]
    assert float(seen[0, 0]) == pytest.approx(1 + 9 * 0.001 / (1 - 0.999**51), rel=1e-4)
    assert torch.equal(seen.flatten()[1:], spike.flatten()[1:])


def test_numbers_are_of_each_matrix_under_a_rule_for_matrices() -> None:
    stack = torch.nn.Parameter(torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(2)).double())
    single = [torch.nn.Parameter(w.clone()) for w in stack.detach()]
    a = steepest.StableSPAMMuon([("w", stack)], layouts={"w": "whole"}, roles={"w": "matrix"}, reset_every=3)
    b = steepest.StableSPAMMuon([(f"h.{i}.q.weight", p) for i, p in enumerate(single)], reset_every=3)
    scales = torch.tensor([1.0, 30.0, 0.0]).view(3, 1, 1)
    for t in range(5):
        give_gradients({"w": stack}, t)
        assert stack.grad is not None
        stack.grad *= scales
        for p, grad in zip(single, stack.grad, strict=True):
            p.grad = grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in single]))
    assert a.state[stack]["norm_mean"].shape == (3, 1, 1)


def test_a_scaled_gradient_moves_stable_spam_alike() -> None:
    """AdaGN takes the scale out: a run in other units is the same run, but for epsilon."""
    named, other = weights(), weights()
    a, b = (steepest.StableSPAM(list(n.items()), lr=0.01, norm_eps=0.0) for n in (named, other))
    for t in range(6):
        give_gradients(named, t)
        give_gradients(other, t)
        for p in other.values():
            assert p.grad is not None
            p.grad *= 1024.0
        a.step()
        b.step()
    for n, p in named.items():
        torch.testing.assert_close(other[n], p, rtol=1e-10, atol=1e-12)


# -- sparse momentum -------------------------------------------------------------------------------------------


def test_entries_outside_the_mask_neither_move_nor_decay_nor_have_state() -> None:
    p = torch.nn.Parameter(torch.ones(50, 40))
    optimizer = steepest.SPAM([("h.q.weight", p)], lr=0.01, density=0.25, weight_decay=0.5, reset_every=6)
    start = p.detach().clone()
    walk(optimizer, {"w": p}, 5)
    state = optimizer.state[p]
    first = (p.detach() != start).clone()
    assert int(first.sum()) == 500  # floor(d * entries), by decay at least
    walk(optimizer, {"w": p}, 1, start=5)
    assert torch.equal((p.detach() != start) | first, state["mask"] | first)
    assert not torch.equal(state["mask"], first) and 400 < int(state["mask"].sum()) < 600
    kept = {n: (tuple(x.shape), x.dtype) for n, x in state.items() if n != "step"}
    room = kept["exp_avg"][0][0]
    assert 500 <= room < 500 + 6 * 20 and kept["exp_avg"] == kept["exp_avg_sq"]
    assert kept["mask"] == ((50, 40), torch.bool)
    rule = optimizer.rule_of(optimizer.param_groups[0])
    assert rule.state_bytes((50, 40)) == 4 + 2 * 4 * room + 2000
    large = rule.state_bytes((4096, 4096)) / 4096**2
    assert 2.0 + 1.0 <= large < 3.05  # 2d of a float32 weight and a byte an entry


@pytest.mark.parametrize(("every", "changes"), [(1, [1, 2, 3]), (2, [1, 3]), (3, [2]), (0, [])])
def test_the_mask_changes_after_the_step_before_each_reset(every: int, changes: list[int]) -> None:
    p = torch.nn.Parameter(torch.ones(30, 20))
    optimizer = steepest.SPAM([("h.q.weight", p)], lr=0.01, density=0.5, reset_every=every)
    optimizer.state[p]["mask"][:15] = True
    found = []
    for t in range(1, 4):
        before = optimizer.state[p]["mask"].clone()
        walk(optimizer, {"w": p}, 1, start=t)
        found += [] if torch.equal(before, optimizer.state[p]["mask"]) else [t]
    assert found == changes


def test_the_masked_part_walks_as_a_weight_of_its_own() -> None:
    draw = torch.Generator().manual_seed(1)
    mask = torch.rand(9, 7, generator=draw) < 0.5
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "reset_every": 0}
    options |= {"threshold": 2.0, "clip_after": 1}
    whole = torch.nn.Parameter(torch.randn(9, 7, generator=draw, dtype=torch.float64))
    part = torch.nn.Parameter(whole.detach()[mask].clone())
    a = steepest.SPAM([("h.q.weight", whole)], density=0.5, **options)
    a.state[whole]["mask"].copy_(mask)
    b = steepest.SPAM([("part", part)], **options)
    for t in range(4):
        give_gradients({"w": whole}, t)
        assert whole.grad is not None
        part.grad = whole.grad[mask].clone()
        a.step()
        b.step()
    torch.testing.assert_close(whole.detach()[mask], part.detach())


@pytest.mark.parametrize("name", ["lion", "sophia", "sgd"])
def test_a_density_is_for_every_element_wise_rule(name: str) -> None:
    named, before = weights(), weights()
    walk(over("spam", name, named, density=0.5, reset_every=3, reset_warmup=0), named, 2)
    moved = (named[Q] != before[Q]).sum()
    assert named[Q].isfinite().all() and int(moved) == 18


def test_a_sharded_weight_is_refused_with_masks() -> None:
    """Its state is allocated in its own shape, as for every element-wise rule."""
    p, optimizer = alone(steepest.SPAM, density=0.5)
    optimizer.state[p]["exp_avg"] = torch.zeros_like(p)
    with pytest.raises(UnsupportedTensor, match="density is not for sharded weights: leave density out"):
        stepped(optimizer, p, torch.ones(6, 6))


def test_spam_is_element_wise_without_masks_and_sees_tensors_with_them() -> None:
    rule = rules()["spam"]
    assert (rule.scope, rule().scope, rule(density=1.0).scope, rule(density=0.5).scope) == (
        "element", "element", "element", "tensor",
    )  # fmt: skip
    assert rule(density=1.0).slots((3, 2)) == AdamW().slots((3, 2))


# -- the authors' code -----------------------------------------------------------------------------------------


def test_the_authors_six_steps_with_a_spike_and_a_reset() -> None:
    """Stable-SPAM's code in float32: six weights, gradients of sines, step 5's ten times as long, a reset at 3."""
    told = json.loads((ORACLES / "stable_spam" / "six_steps.trace").read_text())["trace"]

    def sines(k: int) -> torch.Tensor:
        return torch.sin(0.37 * (k + 1) * torch.arange(6, dtype=torch.float64) + 0.11 * k).view(2, 3)

    p = torch.nn.Parameter((0.5 * sines(0)).float())
    optimizer = steepest.StableSPAM([p], lr=0.01, variant="official", reset_every=3)
    for t, expected in enumerate(told):
        p.grad = (sines(t + 1) * (10 if t == 4 else 1)).float()
        optimizer.step()
        torch.testing.assert_close(p.detach().flatten(), torch.tensor(expected), rtol=0, atol=1e-7)


SPAM_KEYS = {
    "DeltaT": 5, "betas": [0.9, 0.99], "density": None, "eps": 1e-6, "grad_accu_steps": 2, "lr": 0.01,
    "threshold": 3.0, "warmup_steps": 3, "weight_decay": 0.1,
}  # fmt: skip
STABLE_KEYS = {
    "betas": [0.9, 0.99], "eps": 1e-8, "eta_min": 0.5, "gamma1": 0.7, "gamma2": 0.9, "gamma3": 0.5, "lr": 0.01,
    "total_T": None, "update_proj_gap": 4, "weight_decay": 0.1,
}  # fmt: skip
KEYS: list[Case] = [
    ("spam", {"density": 0.5}),
    ("spam", {"density": 0.1, "DeltaT": 3, "warmup_steps": 0}),
    ("spam", {"density": 1.0, "threshold": 0}),
    ("spam", {"grad_accu_steps": 1}),
    ("spam", {"grad_accu_steps": 0, "DeltaT": 4}),
    ("stable_spam", {"amsgrad": True}),
    ("stable_spam", {"gamma1": -1, "total_T": 12.0, "eta_min": 0.1}),
    ("stable_spam", {"gamma1": -1.0, "total_T": 8, "update_proj_gap": 0, "amsgrad": True}),
]


def written(folder: Path, case: Case) -> Path:
    """A trajectory in the kit's format with these keys, from the numpy texts in the authors' form."""
    name, keys = case
    told = json.loads((ORACLES / name / "default.json").read_text())
    h = told["hyperparameters"] = (SPAM_KEYS if name == "spam" else STABLE_KEYS) | keys
    arrays: dict[str, Any] = {}
    draw = np.random.default_rng(0)
    for tensor in told["tensors"]:
        start = INPUTS[f"init/{tensor}"]
        grads = [INPUTS[f"grad/{t:03d}/{tensor}"] for t in range(12)]
        if name == "spam":
            masked = h["density"] is not None and tensor in ("square", "tall", "wide")
            masks = [draw.random(start.shape) < h["density"] for _ in range(12)] if masked else None
            arrays |= {f"extra/mask/{j}/{tensor}": mask for j, mask in enumerate(masks or [])}
            found = spam_text.walk(
                start, grads, h["lr"], h["betas"], h["eps"], 0.0 if masked else h["weight_decay"], h["threshold"],
                h["grad_accu_steps"], True, h["DeltaT"], h["warmup_steps"], masks=masks,
            )  # fmt: skip
        else:
            own = {k: h[k] for k in h if k not in ("eps", "update_proj_gap")}
            found = stable_text.walk(start, grads, reset_every=h["update_proj_gap"], reset_form="official", **own)
        params = list(found)
        arrays |= {f"param/{t:03d}/{tensor}": params[t] for t in told["steps_kept"]}
        told["total_move"][tensor] = float(np.abs(params[-1] - start).max())
    path = folder / "made.json"
    path.write_text(json.dumps(told))
    np.savez(path.with_suffix(".npz"), **arrays)
    return path


@pytest.mark.parametrize("engine", ["loop", "batched"])
@pytest.mark.parametrize("case", KEYS, ids=str)
def test_every_key_of_a_trajectory_is_understood(case: Case, engine: str, tmp_path: Path) -> None:
    (folder := tmp_path / case[0]).mkdir()
    verdict = one(written(folder, case), INPUTS, engine)
    assert verdict.status == "pass", verdict


def test_a_run_in_masks_goes_on_from_its_checkpoint() -> None:
    named, other = weights(torch.float32), weights(torch.float32, seed=4)
    a, b = (steepest.SPAM(list(n.items()), lr=0.01, density=0.3, reset_every=4) for n in (named, other))
    walk(a, named, 3)
    with torch.no_grad():
        for n, p in other.items():
            p.copy_(named[n])
    b.load_state_dict(a.state_dict())
    for t in range(3, 8):
        for optimizer, some in ((a, named), (b, other)):
            give_gradients(some, t)
            step(optimizer)
    assert same(named, other)
