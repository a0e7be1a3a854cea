"""Zeroth order: what an estimate from losses is, what a step leaves behind, and what it takes."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import steepest
from steepest.cli import main
from steepest.core.errors import BadInput, SteepestError
from steepest.zeroth import probes
from steepest.zeroth.directions import BLOCK, Directions, Key
from steepest.zeroth.log import Log
from steepest.zeroth.parts import parts_of
from steepest.zeroth.replay import Walked
from steepest.zeroth.sparsity import Sparsity
from steepest.zeroth.ways import WAYS, way

Problem = tuple[nn.Module, Callable[[], Tensor]]


def problem(dtype: torch.dtype = torch.float64, seed: int = 0) -> Problem:
    """A small classifier in blocks, and the loss of one batch."""
    torch.manual_seed(seed)
    model = nn.Sequential()
    model.add_module("embed", nn.Embedding(11, 6))
    model.add_module("h", nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)))
    model.add_module("norm", nn.LayerNorm(6))
    model.add_module("head", nn.Linear(6, 11))
    model.to(dtype)
    x = torch.arange(11)
    return model, lambda: F.cross_entropy(model(x), x * 3 % 11)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient(model: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss(), list(model.parameters()))])


def direction(optimizer: steepest.ZerothOrder, step: int, query: int = 0) -> Tensor:
    """The direction of a step, all weights after each other."""
    found = {}
    for part in optimizer.parts().values():
        for p in part.weights:
            key = Key(step, query, optimizer.queries)
            found[p] = part.estimate(p, 0, p.numel(), [(key, 1.0)]).clone()
    return torch.cat([found[p] for p in optimizer.inner.first_pieces()])


# ---- the estimate


def test_the_step_is_the_slope_times_the_direction() -> None:
    model, loss = problem()
    optimizer = steepest.ZerothOrder(model, lr=0.1, perturbation=1e-4)
    start, g = flat(model), gradient(model, loss)
    optimizer.step(loss)
    z = direction(optimizer, 1)
    assert optimizer.slopes[0] == pytest.approx(float(g @ z), rel=1e-6)
    torch.testing.assert_close(flat(model), start - 0.1 * optimizer.slopes[0] * z)


@pytest.mark.parametrize("eps", [1e-3, 0.1, 10.0])
def test_on_a_quadratic_the_slope_is_exact_for_any_perturbation(eps: float) -> None:
    torch.manual_seed(1)
    w, a = nn.Parameter(torch.randn(20, dtype=torch.float64)), torch.randn(20, 20, dtype=torch.float64)
    loss = lambda: (a @ w).square().sum()  # noqa: E731
    optimizer = steepest.ZerothOrder([w], lr=0.0, perturbation=eps)
    g = torch.autograd.grad(loss(), w)[0]
    optimizer.step(loss)
    assert optimizer.slopes[0] == pytest.approx(float(g @ direction(optimizer, 1)), rel=1e-9)


@pytest.mark.parametrize("noise", ["normal", "rademacher", "sphere"])
def test_the_mean_over_directions_is_the_gradient(noise: str) -> None:
    w = nn.Parameter(torch.arange(4.0, dtype=torch.float64))
    part = Directions([w], seed=3, kind=noise)
    g = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    z = torch.stack([part.estimate(w, 0, 4, [(Key(t, 0, 1), 1.0)]).clone() for t in range(4000)])
    estimates = (z @ g)[:, None] * z
    errors = estimates.std(dim=0) / math.sqrt(len(z)) + 1e-12
    assert ((estimates.mean(dim=0) - g).abs() < 5 * errors).all()


def test_the_estimates_norm_is_d_plus_2_times_the_gradients_and_d_on_the_sphere() -> None:
    d, n = 50, 100_000
    w = nn.Parameter(torch.zeros(n, d))
    part = Directions([w])
    z = part.estimate(w, 0, n * d, [(Key(1, 0, 1), 1.0)]).view(n, d).double()
    u = torch.full((d,), d**-0.5, dtype=torch.float64)
    normal = (z @ u).square() * z.square().sum(dim=1)
    assert float(normal.mean()) == pytest.approx(d + 2, abs=1.2)
    z *= math.sqrt(d) / z.norm(dim=1, keepdim=True)
    assert float(((z @ u).square() * d).mean()) == pytest.approx(d, abs=1.2)
    few = Directions([nn.Parameter(torch.zeros(30)), nn.Parameter(torch.zeros(20))], kind="sphere")
    parts = [few.estimate(p, 0, p.numel(), [(Key(1, 0, 1), 1.0)]).clone() for p in few.weights]
    assert float(torch.cat(parts).square().sum()) == pytest.approx(50, rel=1e-6)


def test_the_forward_gradient_is_the_limit_of_two_sided_differences() -> None:
    model, loss = problem()
    exact = steepest.ZerothOrder(model, lr=0.0, estimator="forward-gradient", seed=5)
    exact.step(loss)
    close = steepest.ZerothOrder(model, lr=0.0, perturbation=1e-5, seed=5)
    close.step(loss)
    assert close.slopes[0] == pytest.approx(exact.slopes[0], rel=1e-8)
    assert exact.slopes[0] == pytest.approx(float(gradient(model, loss) @ direction(exact, 1)), rel=1e-12)
    assert len(exact.losses) == 1 and exact.losses[0] == loss().item()


def test_as_many_orthogonal_directions_as_weights_give_the_gradient() -> None:
    d = 9
    w = nn.Parameter(torch.randn(3, 3, dtype=torch.float64))
    a, start = torch.randn(3, 3, dtype=torch.float64), w.detach().clone()
    eye = math.sqrt(d) * np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    arrays = {f"extra/z/000/{i}/w": eye[i].reshape(3, 3) for i in range(d)}
    optimizer = Walked({"w": w}, arrays, lr=0.1, queries=d, perturbation=1e-2)
    optimizer.step(lambda: ((w - a) ** 2).sum())
    torch.testing.assert_close(w.detach(), start - 0.1 * 2 * (start - a))


def test_one_sided_with_many_queries_measures_the_weights_once() -> None:
    model, loss = problem()
    optimizer = steepest.ZerothOrder(model, lr=0.0, sides=1, queries=4)
    assert optimizer.step(loss) == pytest.approx(loss().item(), abs=1e-12)
    assert len(optimizer.losses) == 5 and len(optimizer.slopes) == 4


def test_the_two_signs_are_what_they_say() -> None:
    for sign in ("projected", "elementwise"):
        model, loss = problem()
        optimizer = steepest.ZerothOrder(model, lr=0.01, sign=sign)
        start = flat(model)
        optimizer.step(loss)
        z, s = direction(optimizer, 1), math.copysign(1.0, optimizer.slopes[0])
        step = s * z if sign == "projected" else (s * z).sign()
        torch.testing.assert_close(flat(model), start - 0.01 * step)


# ---- the directions


def test_a_kernel_and_torch_make_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    w = nn.Parameter(torch.zeros(BLOCK + 100))
    for kind in ("normal", "rademacher"):
        quick = Directions([w], seed=2, kind=kind, first=7)
        slow = Directions([w], seed=2, kind=kind, first=7)
        monkeypatch.setattr(slow, "_kernel", lambda pieces, rule: None)
        terms = [(Key(3, 1, 2), 0.5)]
        for start, n in ((0, BLOCK), (BLOCK, 100), (0, BLOCK + 100)):
            z = quick.estimate(w, start, n, terms).clone()
            torch.testing.assert_close(slow.estimate(w, start, n, terms), z, rtol=1e-5, atol=2e-6)
        quick.move(terms[0][0], 0.5)
        torch.testing.assert_close(w.detach(), slow.estimate(w, 0, w.numel(), terms), rtol=1e-5, atol=2e-6)
        slow.move(terms[0][0], -0.5)
        assert float(w.detach().abs().max()) < 2e-6


def test_no_two_weights_queries_steps_or_blocks_share_numbers() -> None:
    weights = [nn.Parameter(torch.zeros(2 * BLOCK)), nn.Parameter(torch.zeros(50))]
    part = Directions(weights)
    runs = [
        part.estimate(p, start, 50, [(Key(t, i, 2), 1.0)]).clone()
        for p, start in ((weights[0], 0), (weights[0], BLOCK), (weights[1], 0))
        for t in (1, 2)
        for i in (0, 1)
    ]
    joined = torch.stack(runs)
    assert len(torch.unique(joined)) > 0.99 * joined.numel()


def test_a_weight_that_is_not_contiguous_moves_as_its_copy_would() -> None:
    base = torch.randn(6, 5)
    moved = []
    for w in (nn.Parameter(base.clone().t()), nn.Parameter(base.t().contiguous())):
        optimizer = steepest.ZerothOrder([w], "adamw", lr=0.1)
        for _ in range(3):
            optimizer.step(lambda w=w: w.square().sum())
        moved.append(w.detach().clone())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-5)


def test_a_mask_takes_the_share_that_is_asked_for_and_the_authors_law_takes_more() -> None:
    w = nn.Parameter(torch.zeros(50_000))
    for ratio, more in ((0.1, 0.5398), (0.5, 0.6915), (0.9, 0.8159)):
        for law, share in (("fraction", ratio), ("below-ratio", more)):
            sparsity = Sparsity(ratio, law=law)
            part = Directions([w], sparsity=sparsity, ratios=[ratio])
            z = part.estimate(w, 0, w.numel(), [(Key(1, 0, 1), 1.0)])
            assert float((z == 0).double().mean()) == pytest.approx(share, abs=0.01)


def test_a_mask_lasts_as_long_as_it_should_and_steps_stay_in_its_subspace() -> None:
    model, loss = problem()
    optimizer = steepest.ZerothOrder(model, lr=0.1, sparsity=Sparsity(0.7, every=3))
    start = flat(model)
    for _ in range(3):
        optimizer.step(loss)
    still = flat(model) == start
    assert 0.5 < float(still.double().mean()) < 0.9
    optimizer.step(loss)
    assert (flat(model) != start)[still].any()


def test_a_global_mask_spares_the_weights_of_large_numbers() -> None:
    small, large = nn.Parameter(torch.full((4000,), 0.1)), nn.Parameter(torch.full((4000,), 3.0))
    optimizer = steepest.ZerothOrder([small, large], lr=0.1, sparsity=Sparsity(0.5, scope="global"))
    optimizer.step(lambda: (small.sum() + large.sum()) / 10)
    assert (small == 0.1).all() and not (large == 3.0).any()


# ---- what a step leaves behind


def test_probing_in_place_restores_the_weights_within_a_few_ulps_and_a_copy_exactly() -> None:
    for restore in ("in-place", "copy"):
        model, loss = problem(torch.float32)
        start = flat(model)
        optimizer = steepest.ZerothOrder(model, lr=0.0, restore=restore)
        for _ in range(10):
            optimizer.step(loss)
        away = (flat(model) - start).abs()
        assert (away == 0).all() if restore == "copy" else (away <= 40 * torch.finfo(torch.float32).eps).all()


def test_narrow_weights_do_not_walk_away_unless_the_walk_back_is_asked_for() -> None:
    for restore, still in ((None, True), ("in-place", False)):
        w = nn.Parameter((torch.randn(500) * 0.02).bfloat16())
        start = w.detach().clone()
        optimizer = steepest.ZerothOrder([w], lr=0.0, restore=restore)
        for _ in range(20):
            optimizer.step(lambda w=w: w.float().square().sum())
        assert torch.equal(w.detach(), start) is still


def test_a_closure_that_raises_finds_the_weights_where_they_were() -> None:
    model, loss = problem()
    start, calls = flat(model), []

    def failing() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss()

    with pytest.raises(KeyboardInterrupt):
        steepest.ZerothOrder(model, lr=1.0).step(failing)
    torch.testing.assert_close(flat(model), start, rtol=0, atol=1e-15)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["mezo", "zo-sgd-cons", "zo-adam"])
def test_a_loss_that_is_not_finite_moves_nothing_and_is_returned(name: str, bad: float) -> None:
    model, loss = problem()
    optimizer = way(name)(model, lr=0.1)
    optimizer.step(loss)
    start = flat(model)
    assert not math.isfinite(optimizer.step(lambda: loss() * bad))
    torch.testing.assert_close(flat(model), start, rtol=0, atol=1e-14)
    assert math.isfinite(optimizer.step(loss)) and flat(model).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(WAYS) - {"zo-fo"}))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_way_goes_down_and_goes_on_bit_for_bit_from_a_checkpoint(name: str, dtype: torch.dtype) -> None:
    def begun() -> tuple[nn.Module, Callable[[], Tensor], Any, Any]:
        model, loss = problem(dtype)
        optimizer = way(name)(model, lr=2e-2 if name == "zo-adam" else 1e-3, perturbation=1e-2, seed=3)
        return model, loss, optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, 30)

    model, loss, optimizer, scheduler = begun()
    before = loss().item()
    kept: Any = None
    for t in range(60):
        if t == 30:
            kept = copy.deepcopy([x.state_dict() for x in (model, optimizer, scheduler)])
        optimizer.step(loss)
        scheduler.step()
    assert flat(model).isfinite().all()
    if dtype == torch.float32:
        assert loss().item() < before
    again, loss, *others = begun()
    for part, saved in zip((again, *others), kept, strict=True):
        part.load_state_dict(saved)
    for _ in range(30):
        others[0].step(loss)
        others[1].step()
    assert torch.equal(flat(again), flat(model))


# ---- memory


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes inside."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor):
                self.numbers = max(
                    self.numbers, x.untyped_storage().nbytes() // x.element_size() if own(x, args) else 0
                )
        return result


def own(x: Tensor, args: Any) -> bool:
    """Whether the memory is new, not that of an argument."""
    given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
    return x.untyped_storage().data_ptr() not in given


@pytest.mark.parametrize(
    "given", [{}, {"rule": "adamw"}, {"queries": 3}, {"sparsity": 0.5}, {"conservative": True}]
)
def test_nothing_larger_than_a_block_is_made_beside_the_rules_state(given: dict[str, Any]) -> None:
    w = nn.Parameter(torch.zeros(1000, 500))
    optimizer = steepest.ZerothOrder([w], lr=0.1, **given)
    optimizer.step(lambda: w[0].sum())  # the kernels are arranged in the first step
    with Largest() as largest:
        optimizer.step(lambda: w[0].sum())
    assert largest.numbers <= BLOCK
    assert w.grad is None
    kept = [t for state in optimizer.state.values() for t in state.values() if t.numel() > 1]
    assert len(kept) == (2 if "rule" in given else 0)


def test_no_graph_is_made() -> None:
    model, loss = problem()
    saved: list[Tensor] = []

    def watched() -> Tensor:
        assert not torch.is_grad_enabled()
        return loss()

    for estimator in ("spsa", "forward-gradient"):
        optimizer = steepest.ZerothOrder(model, lr=0.1, estimator=estimator)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (saved.append(x), x)[1], lambda x: x):
            optimizer.step(watched)
    assert not saved


# ---- rules


@pytest.mark.parametrize("rule", ["muon", "adafactor", "mars", "galore", "signum", "scale", "adam_mini"])
def test_any_rule_without_measurements_runs_on_the_estimate(rule: str) -> None:
    model, loss = problem(torch.float32)
    twin, _ = problem(torch.float32)
    optimizer = steepest.ZerothOrder(model, rule, lr=1e-3, queries=2)
    beside = getattr(steepest, steepest.resolve(rule).kind.__name__)(twin, lr=1e-3)
    for t in range(1, 4):
        optimizer.step(loss)
        z = [direction(optimizer, t, query) for query in (0, 1)]
        whole = (optimizer.slopes[0] * z[0] + optimizer.slopes[1] * z[1]) / 2
        for p, part in zip(twin.parameters(), whole.split([p.numel() for p in twin.parameters()]), strict=True):
            p.grad = part.view(p.shape).clone()
        beside.step()
        torch.testing.assert_close(flat(model), flat(twin), rtol=1e-3, atol=1e-4)
        twin.load_state_dict(model.state_dict())


def test_a_rule_that_wants_a_hessian_is_refused() -> None:
    model, loss = problem()
    with pytest.raises(BadInput, match="takes gradients"):
        steepest.ZerothOrder(model, "adahessian", lr=0.1).step(loss)


def test_state_in_codes_is_kept_in_codes() -> None:
    w = nn.Parameter(torch.randn(300, 256))
    optimizer = steepest.ZerothOrder([w], "adamw", lr=1e-3, state="8bit")
    for _ in range(2):
        optimizer.step(lambda: w.square().sum())
    assert any(t.dtype == torch.uint8 for t in optimizer.state[w].values()) and w.isfinite().all()


# ---- the conservative form


@pytest.mark.parametrize("given", [{}, {"momentum": 0.9}, {"restore": "copy"}, {"rule": "adamw"}])
def test_conservative_steps_never_raise_the_loss_of_their_batch(given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(30, dtype=torch.float64))
    loss = lambda: (0.5 * w.square() + 0.3 * (9 * w).cos()).sum()  # noqa: E731
    optimizer = steepest.ZerothOrder([w], lr=0.01, perturbation=0.3, conservative=True, **given)
    went, losses = set(), [loss().item()]
    for _ in range(80):
        optimizer.step(loss)
        went.add(optimizer.decision)
        losses.append(loss().item())
        measured = dict(zip((0, -1, 1), (optimizer.losses[0], *optimizer.losses[3:]), strict=True))
        assert losses[-1] == pytest.approx(measured[optimizer.decision], abs=1e-9)
        assert losses[-1] == pytest.approx(min(measured.values()), abs=1e-9)
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(losses))
    assert went == {-1, 0, 1} or (went == {-1, 1} and "rule" in given)


# ---- blocks


def test_gauss_seidel_moves_a_block_before_the_next_is_probed_and_jacobi_after_all() -> None:
    seen: dict[str, list[float]] = {}
    for sweep in ("gauss-seidel", "jacobi"):
        model, loss = problem()
        optimizer = steepest.ZerothOrder(model, lr=0.5, perturbation=1e-6, blocks="layers", sweep=sweep)
        g = gradient(model, loss)
        optimizer.step(loss)
        assert list(optimizer.parts()) == ["embed", "h.0", "h.2", "norm", "head"]
        assert len(optimizer.losses) == 10 and len(optimizer.slopes) == 5
        seen[sweep] = [float(g @ direction(optimizer, 1)), sum(optimizer.slopes)]
    assert seen["jacobi"][0] == pytest.approx(seen["jacobi"][1], rel=1e-5)
    assert abs(seen["gauss-seidel"][0] - seen["gauss-seidel"][1]) > 1e-3


def test_blocks_share_their_first_numbers_only_if_asked_to() -> None:
    for shared in (False, True):
        weights = [nn.Parameter(torch.zeros(10)), nn.Parameter(torch.zeros(20))]
        optimizer = steepest.ZerothOrder(weights, blocks="tensors", shared_noise=shared)
        z = direction(optimizer, 1)
        assert torch.allclose(z[:10], z[10:20], rtol=1e-5) is shared


def test_patterns_and_roles_make_blocks_and_the_rest_is_the_last() -> None:
    p = [torch.zeros(1) for _ in range(4)]
    named = [
        ("embed.weight", "embed", p[0]),
        ("h.0.up", "ffn_in", p[1]),
        ("h.1.up", "ffn_in", p[2]),
        ("lm_head", "head", p[3]),
    ]
    found = parts_of(named, ["embed", ("h.0.*", "h.7.*")])
    assert {name: [id(x) for x in those] for name, those in found.items()} == {
        "embed": [id(p[0])], "('h.0.*', 'h.7.*')": [id(p[1])], "the rest": [id(p[2]), id(p[3])],
    }  # fmt: skip
    with pytest.raises(BadInput, match="no weight matches"):
        parts_of(named, ["h.5.*"])


# ---- with first order


def test_late_weights_get_their_own_gradient_and_the_graph_ends_before_the_early_ones() -> None:
    model, loss = problem()
    late = list(model.head.parameters())
    expected = torch.autograd.grad(loss(), late)
    start = [p.detach().clone() for p in late]
    optimizer = steepest.ZerothOrder(model, lr=0.1, first_order=torch.optim.SGD(late, lr=0.5))
    needed: list[bool] = []
    hook = model.norm.register_forward_hook(lambda module, given, out: needed.append(out.requires_grad))
    before = flat(model.h)
    optimizer.step(loss)
    hook.remove()
    assert not any(needed) and len(needed) == 3
    for p, old, g in zip(late, start, expected, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.5 * g)
        assert p.grad is None
    assert not torch.equal(flat(model.h), before)
    assert all(p.requires_grad for p in model.parameters())
    moved = {p for part in optimizer.parts().values() for p in part.weights}
    assert not moved & set(late)


# ---- the log


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"rule": "adamw", "queries": 2},
        {"conservative": True},
        {"conservative": True, "momentum": 0.9},
        {"conservative": "official", "momentum": 0.9},
        {"blocks": "layers", "noise": "sphere"},
        {"sparsity": 0.5, "sign": "elementwise"},
    ],
)
def test_a_log_of_a_few_bytes_a_step_walks_the_same_way(given: dict[str, Any], tmp_path: Any) -> None:
    def begun(**more: Any) -> tuple[nn.Module, Callable[[], Tensor], steepest.ZerothOrder, Any]:
        model, loss = problem(torch.float32)
        optimizer = steepest.ZerothOrder(model, lr=1e-2, restore="copy", seed=4, **given, **more)
        return model, loss, optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 20)

    log = Log()
    model, loss, optimizer, scheduler = begun(log=log)
    for _ in range(20):
        optimizer.step(loss)
        scheduler.step()
    log.save(tmp_path / "log")
    again, _, other, scheduler = begun()
    other.replay(Log.load(tmp_path / "log"), after=scheduler.step)
    assert torch.equal(flat(model), flat(again)) and other.steps == 20 == len(log)
    if not given:
        assert (tmp_path / "log").stat().st_size < 20 * 4 + 700


def test_in_place_the_log_replays_to_rounding_and_another_run_is_refused() -> None:
    log = Log()
    model, loss = problem(torch.float32)
    optimizer = steepest.ZerothOrder(model, lr=1e-2, log=log)
    for _ in range(20):
        optimizer.step(loss)
    again, _ = problem(torch.float32)
    steepest.ZerothOrder(again, lr=1e-2).replay(log)
    torch.testing.assert_close(flat(model), flat(again), rtol=0, atol=2e-5)
    with pytest.raises(BadInput, match="seed=0"):
        steepest.ZerothOrder(again, lr=1e-2, seed=1).replay(log)


# ---- what is refused, and what the command line says


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sides": 3}, "sides"),
        ({"perturbation": 0.0}, "perturbation"),
        ({"queries": 0}, "queries"),
        ({"sign": "both"}, "sign"),
        ({"estimator": "spas"}, "did you mean 'spsa'"),
        ({"noise": "cauchy"}, "kind of direction"),
        ({"blocks": "layer"}, "did you mean 'layers'"),
        ({"conservative": True, "blocks": "layers"}, "whole steps"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"rule": "mezo"}, "fine-tunes"),
    ],
)
def test_a_wrong_argument_is_answered_in_one_line(given: dict[str, Any], words: str) -> None:
    model, _ = problem()
    with pytest.raises(SteepestError, match=words) as raised:
        steepest.ZerothOrder(model, **given)
    assert "\n" not in str(raised.value)


def test_a_step_needs_a_closure_and_a_model_something_to_move() -> None:
    model, _ = problem()
    with pytest.raises(BadInput, match="closure"):
        steepest.ZerothOrder(model).step()
    with pytest.raises(BadInput, match="requires_grad"):
        steepest.ZerothOrder(model.requires_grad_(False))


def test_attention_without_forward_mode_is_told_what_to_do() -> None:
    q = nn.Parameter(torch.randn(1, 2, 4, 8))
    part = Directions([q])
    with torch.no_grad(), pytest.raises(BadInput, match=r"SDPBackend\.MATH"):
        probes.along(part, Key(1, 0, 1), lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True).sum())


def test_the_command_line_tells_of_the_ways_and_does_not_race_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0 and "mezo, zo-sgd" in capsys.readouterr().out
    for name in WAYS:
        assert main(["show", name]) == 0 and WAYS[name].title in capsys.readouterr().out
        assert main(["show", name, "--json"]) == 0 and '"update"' in capsys.readouterr().out
    assert main(["race", "mezo"]) == 2
    told = capsys.readouterr().err
    assert "fine-tunes by losses alone" in told and told.count("\n") == 1


# ---- its page


def test_every_method_has_a_section_with_a_short_example_that_runs() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "zeroth-order.md").read_text()
    sections = re.findall(r"^### ([\w-]+)\n(.*?)(?=^##)", page, re.S | re.M)
    assert [name for name, _ in sections] == list(WAYS)
    for name, text in sections:
        (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
        assert len(example.splitlines()) <= 5 and f'way("{name}")' in example
    space: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(example, space)
