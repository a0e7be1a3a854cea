"""Inside backward a weight takes the step that optimizer.step() would have given it, bit for bit."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import io
import json
import math
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import needs_compiler, untold, variants
from torch import Tensor, nn

import steepest
from steepest.core.errors import BadInput, SteepestError
from steepest.faces import face
from steepest.inside_backward import Release, release, why_not
from steepest.optimizer import Optimizer
from steepest.registry import rule_named, rules
from steepest.verify import one

ROOT = Path(__file__).resolve().parents[1]
WIDTH, VOCAB, STEPS = 12, 17, 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).unflatten(-1, (4, 3)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.silu(self.up(x)))


class Tiny(nn.Module):
    """A transformer of two blocks whose head is its embedding."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.embed.weight
        self.to(dtype)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def loss(self, t: int, part: int = 0) -> Tensor:
        ids = torch.randint(VOCAB, (2, 6), generator=torch.Generator().manual_seed(100 * t + part))
        return F.cross_entropy(self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def built(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Tiny, Optimizer]:
    model = Tiny(dtype)
    given = {"lr": 0.01} | untold(rule_named(name)) | options
    return model, face(rule_named(name))(model, **given)


def plain(model: Tiny, optimizer: Optimizer, steps: range, clip: float | None = None) -> list[Tensor]:
    norms = []
    for t in steps:
        model.loss(t).backward()
        if clip is not None:
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip))
        optimizer.step()
        optimizer.zero_grad()
    return norms


def inside(model: Tiny, optimizer: Optimizer, steps: range, **options: Any) -> list[Tensor | None]:
    with release(optimizer, **options) as released:
        return [released.backward(model.loss(t)) for t in steps]


def assert_same(one: tuple[Tiny, Optimizer], other: tuple[Tiny, Optimizer]) -> None:
    for (name, p), q in zip(one[0].named_parameters(), other[0].parameters(), strict=True):
        assert torch.equal(p, q), name
        ours, theirs = one[1].state[p], other[1].state[q]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(t, theirs[key]) for key, t in ours.items()), name


def every(engine: str, scope: str | None = None) -> Iterator[Any]:
    """Every rule in every variant that this model has weights for and that steps inside backward."""
    for name, rule in rules().items():
        if scope is not None and rule.scope != scope:
            continue
        for options in variants(rule):
            given = options | ({} if "lr" not in options else {"lr": 0.01})
            try:
                _, optimizer = built(name, **given)
            except SteepestError:
                continue
            if why_not(optimizer) is None:
                told = ",".join(f"{k}={v}" for k, v in options.items())
                yield pytest.param(name, given | {"engine": engine}, id=f"{name}:{told},{engine}")


@pytest.mark.parametrize(
    ("name", "options"), [*every("loop"), *every("auto", "element"), *every("batched", "element")]
)
def test_inside_backward_is_bit_for_bit_the_plain_step(name: str, options: dict[str, Any]) -> None:
    """Tied weights, the companion's and those of roles with hyperparameters of their own included."""
    unfused, fused = built(name, **options), built(name, **options)
    plain(*unfused, range(STEPS))
    inside(*fused, range(STEPS))
    assert any(not torch.equal(p, q) for p, q in zip(fused[0].parameters(), Tiny().parameters(), strict=True))
    assert_same(unfused, fused)


@pytest.mark.parametrize("engine", ["auto", "batched"])
@pytest.mark.parametrize("name", ["muon", "soap", "adafactor", "adalomo"])
def test_stacking_engines_give_the_loops_bits_inside_backward(name: str, engine: str) -> None:
    """Where pieces are stacked a plain step may round otherwise; inside backward there is nothing to stack."""
    unfused, fused = built(name, engine="loop"), built(name, engine=engine)
    plain(*unfused, range(1))
    inside(*fused, range(1))
    for p, q in zip(unfused[0].parameters(), fused[0].parameters(), strict=True):
        if fused[1].routes_of(q)[0].rule == name:  # the companion moves by elements, as its engine rounds
            assert torch.equal(p, q)


@needs_compiler
@pytest.mark.parametrize("name", ["lion", "adalomo"])
def test_compiled_inside_backward_is_the_plain_step(name: str) -> None:
    """Of whole tensors on a CPU, too, where nothing is stacked."""
    unfused, fused = built(name, engine="compiled"), built(name, engine="compiled")
    plain(*unfused, range(2))
    inside(*fused, range(2))
    assert_same(unfused, fused)


@pytest.mark.parametrize(
    "more", [{"state": "8bit"}, {"state": "4bit"}, {"rounding": "stochastic"}, {"rounding": "kahan"}]
)
@pytest.mark.parametrize(
    ("name", "engine"), [("adamw", "loop"), ("adamw", "auto"), ("muon", "loop"), ("adalomo", "loop")]
)
def test_codes_and_roundings_are_those_of_the_plain_step(name: str, engine: str, more: dict[str, Any]) -> None:
    if "state" in more:  # every weight here is below the size from which state is kept in codes
        block = {"8bit": 8, "4bit": 4}[more["state"]]
        more = {"state": {"bits": block, "block": 64, "smallest": 1}}
    unfused, fused = (built(name, torch.bfloat16, engine=engine, **more) for _ in range(2))
    plain(*unfused, range(STEPS))
    inside(*fused, range(STEPS))
    assert_same(unfused, fused)


# ---- one line less, nothing else to change


def test_a_loop_that_still_calls_step_and_zero_grad_walks_the_same() -> None:
    unfused, fused = built("adamw"), built("adamw")
    plain(*unfused, range(STEPS))
    with release(fused[1]):
        plain(*fused, range(STEPS))
    assert_same(unfused, fused)


def test_after_close_backward_leaves_gradients_again() -> None:
    model, optimizer = built("adamw")
    with release(optimizer):
        model.loss(0).backward()
        assert all(p.grad is None for p in model.parameters())
    before = copy.deepcopy(model.state_dict())
    model.loss(1).backward()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is not None for p in model.parameters())


def test_at_no_moment_is_there_more_than_one_gradient() -> None:
    model, optimizer = built("adamw")
    sizes = []

    def count(_: Tensor) -> None:
        sizes.append(sum(p.grad.numel() for p in model.parameters() if p.grad is not None))

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(count)  # before release's own
    with release(optimizer, clip_norm=1.0) as released:
        released.backward(model.loss(0))
    assert len(sizes) == 2 * len(list(model.parameters()))
    assert max(sizes) == max(p.numel() for p in model.parameters())


def test_a_scheduler_moves_the_rate_between_steps_and_does_not_warn() -> None:
    def half(optimizer: Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)

    unfused, fused = built("muon", engine="loop"), built("muon", engine="loop")
    ours, theirs = half(fused[1]), half(unfused[1])
    with release(fused[1]), warnings.catch_warnings():
        warnings.simplefilter("error")
        for t in range(STEPS):
            plain(*unfused, range(t, t + 1))
            theirs.step()
            fused[0].loss(t).backward()
            ours.step()
    assert_same(unfused, fused)


def test_a_weight_without_gradient_stays_and_keeps_its_step_count() -> None:
    model, optimizer = built("adamw")
    with release(optimizer):
        model.blocks[0].q.weight.square().sum().backward()
    assert optimizer.state[model.blocks[0].q.weight]["step"] == 1
    assert optimizer.state[model.embed.weight]["step"] == 0


def test_a_weight_that_is_added_later_is_moved_by_step() -> None:
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = steepest.SGD([p], lr=0.5)
    with release(optimizer):
        optimizer.add_param_group({"params": [q]})
        (p.sum() + q.sum()).backward()
        assert p.tolist() == [0.5] * 3 and q.tolist() == [1.0] * 3
        optimizer.step()
        assert p.tolist() == [0.5] * 3 and q.tolist() == [0.5] * 3


# ---- accumulation


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_accumulated_gradients_move_once_by_their_sum(name: str, clip: float | None) -> None:
    unfused, fused = built(name, engine="loop"), built(name, engine="loop")
    for t in range(STEPS):
        for part in range(3):
            (unfused[0].loss(t, part) / 3).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(unfused[0].parameters(), clip)
        unfused[1].step()
        unfused[1].zero_grad()
    with release(fused[1], clip_norm=clip) as released:
        for t in range(STEPS):
            with released.accumulate():
                for part in range(2):
                    (fused[0].loss(t, part) / 3).backward()
            released.backward(fused[0].loss(t, 2) / 3)
    assert_same(unfused, fused)


def test_what_only_an_earlier_micro_batch_reached_is_moved_by_step_or_by_releases_own_backward() -> None:
    for own in (True, False):
        p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        optimizer = steepest.SGD([p, q], lr=0.5)
        with release(optimizer) as released:
            with released.accumulate():
                q.sum().backward()
            if own:
                released.backward(p.sum())
            else:
                p.sum().backward()
                assert q.tolist() == [1.0] * 3
                optimizer.step()
        assert p.tolist() == q.tolist() == [0.5] * 3
        assert p.grad is None


# ---- what needs all gradients at once


@pytest.mark.parametrize("clip", [0.05, 1e6])
@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "adalomo"])
def test_two_passes_clip_as_torch_clips(name: str, clip: float) -> None:
    unfused, fused = built(name, engine="loop"), built(name, engine="loop")
    norms = plain(*unfused, range(STEPS), clip)
    found = inside(*fused, range(STEPS), clip_norm=clip)
    assert all(n is not None and torch.equal(n, m) for n, m in zip(found, norms, strict=True))
    assert_same(unfused, fused)


def test_clipping_by_value_takes_one_plain_pass() -> None:
    unfused, fused = built("sgd", variant="lomo"), built("sgd", variant="lomo")
    with release(fused[1], clip_value=1e-3):
        for t in range(STEPS):
            unfused[0].loss(t).backward()
            nn.utils.clip_grad_value_(unfused[0].parameters(), 1e-3)
            unfused[1].step()
            unfused[1].zero_grad()
            fused[0].loss(t).backward()
    assert_same(unfused, fused)


def test_the_norm_is_that_before_clipping_by_value() -> None:
    p = nn.Parameter(torch.zeros(2))
    with release(steepest.SGD([p], lr=1.0), clip_value=1.0, clip_norm=2.5) as released:
        norm = released.backward((torch.tensor([3.0, 4.0]) * p).sum())
    assert norm == 5
    torch.testing.assert_close(p.detach(), torch.tensor([-0.5, -0.5]))


def test_the_norm_is_noted_on_the_way_without_a_second_pass() -> None:
    unfused, fused = built("adamw"), built("adamw")
    norms, found = plain(*unfused, range(STEPS), math.inf), inside(*fused, range(STEPS), note_norm=True)
    assert all(n is not None and torch.equal(n, m) for n, m in zip(found, norms, strict=True))
    assert_same(unfused, fused)


@pytest.mark.parametrize(
    ("name", "options"),
    [("mars", {"clip": "global"}), ("adam_mini", {"clip": 0.05, "blocks": "row"}), ("psgd", {})],
)
def test_numbers_over_all_weights_are_measured_in_a_pass_of_their_own(name: str, options: dict[str, Any]) -> None:
    unfused, fused = built(name, engine="loop", **options), built(name, engine="loop", **options)
    assert any(fused[1].rule_of(group).totals for group in fused[1].param_groups)
    plain(*unfused, range(STEPS))
    inside(*fused, range(STEPS))
    assert_same(unfused, fused)


def test_a_loss_scale_of_a_power_of_two_changes_no_bit() -> None:
    unfused, fused = built("adalomo"), built("adalomo")
    inside(*unfused, range(STEPS), clip_norm=0.1)
    inside(*fused, range(STEPS), clip_norm=0.1, loss_scale=1024.0)
    assert_same(unfused, fused)


def test_micro_batches_are_scaled_alike() -> None:
    p = nn.Parameter(torch.zeros(2))
    with release(steepest.SGD([p], lr=1.0), loss_scale=1024.0, clip_norm=100.0) as released:
        with released.accumulate():
            released.backward(p.sum())
        released.backward(2 * p.sum())
    assert p.tolist() == [-3.0, -3.0]


def test_a_gradient_that_overflows_moves_nothing_if_it_is_skipped() -> None:
    model, optimizer = built("adamw")
    before = copy.deepcopy(model.state_dict())
    with release(optimizer, skip_nonfinite=True) as released:
        released.backward(model.loss(0) * math.inf)
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
        released.backward(model.loss(0))
    assert not torch.equal(model.embed.weight, before["embed.weight"])


# ---- what is refused


@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, {"loss_scale": 2.0}, {"skip_nonfinite": True}])
def test_what_a_plain_backward_cannot_do_is_said_before_anything_moves(options: dict[str, Any]) -> None:
    model, optimizer = built("adamw")
    before = copy.deepcopy(model.state_dict())
    with release(optimizer, **options), pytest.raises(BadInput, match=r"call release.backward\(loss\)"):
        model.loss(0).backward()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def refused(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_cannot_be_released_is_refused_in_one_line() -> None:
    weight = [nn.Parameter(torch.ones(3, 3))]
    refused(lambda: release(steepest.Sophia(weight)), "sophia wants gauss_newton_bartlett measured")
    refused(lambda: release(steepest.AdaHessian(weight)), "adahessian wants hutchinson")
    refused(lambda: release(torch.optim.SGD(weight)), "SGD is not of this package")  # type: ignore[arg-type]
    refused(lambda: release(steepest.SGD(weight), clip_norm=-1.0), "clip_norm=-1.0: it must be above 0")
    refused(lambda: release(steepest.MARS(weight, clip="global"), clip_norm=1.0), "third backward pass")
    optimizer = steepest.SGD(weight)
    with release(optimizer):
        refused(lambda: release(optimizer), "steps inside backward already")
    release(optimizer).close()


def test_a_graph_that_reads_a_weight_after_it_moved_fails_and_does_not_read_it() -> None:
    p = nn.Parameter(torch.ones(4))
    loss = p.square().sum()
    with release(steepest.AdamW([p], lr=0.1)):
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


# ---- checkpoints


@pytest.mark.parametrize("name", ["adamw", "muon", "adalomo", "soap"])
def test_a_run_resumed_from_a_checkpoint_is_bitwise_the_uninterrupted_one(name: str) -> None:
    whole, first, second = (built(name) for _ in range(3))
    inside(*whole, range(5))
    inside(*first, range(2))
    file = io.BytesIO()
    torch.save([x.state_dict() for x in first], file)
    file.seek(0)
    with release(second[1]) as released:  # loaded while it is released
        for part, saved in zip(second, torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(saved)
        for t in range(2, 5):
            released.backward(second[0].loss(t))
    assert_same(whole, second)


def test_released_and_plain_steps_may_alternate() -> None:
    unfused, mixed = built("muon", engine="loop"), built("muon", engine="loop")
    plain(*unfused, range(6))
    for t in range(0, 6, 2):
        inside(*mixed, range(t, t + 1))
        plain(*mixed, range(t + 1, t + 2))
    assert_same(unfused, mixed)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_made_while_it_is_released_is_free_and_goes_on(twin: Any) -> None:
    pair = built("adamw")
    with release(pair[1]):
        pair[0].loss(0).backward()
        other = twin(pair)
        inside(*other, range(1, 3))
        for t in range(1, 3):
            pair[0].loss(t).backward()
    assert_same(pair, other)


# ---- AdaLomo and LOMO themselves

TRACE = [
    (
        [0.0044643026776611805, 0.29546383023262024, -0.2428988367319107],
        [0.009528025053441525, 0.09853047877550125],
    ),
    (
        [0.0061363051645457745, 0.2948838770389557, -0.24134451150894165],
        [0.010012228041887283, 0.09686056524515152],
    ),
    (
        [0.0022750450298190117, 0.29557573795318604, -0.24423421919345856],
        [0.011757689528167248, 0.09748441725969315],
    ),
    (
        [0.003444269997999072, 0.29322436451911926, -0.24577410519123077],
        [0.013118859380483627, 0.09891831874847412],
    ),
]
"""Of the authors' AdaLomo on a linear layer of 3 x 4: elements 0, 4, 11 of its weight, 0 and 2 of its bias."""


def det(shape: tuple[int, ...], k: int) -> Tensor:
    n = np.arange(math.prod(shape), dtype=np.float64)
    return torch.tensor(np.sin(0.37 * (k + 1) * n + 0.11 * k).astype(np.float32)).reshape(shape)


def test_adalomo_walks_as_its_authors_on_a_linear_layer() -> None:
    w, b = nn.Parameter(0.3 * det((3, 4), 0)), nn.Parameter(0.1 * det((3,), 1))
    optimizer = steepest.AdaLomo([("w", w), ("b", b)], lr=0.02, weight_decay=0.01)
    with release(optimizer):
        for t, (weight, bias) in enumerate(TRACE):
            F.mse_loss(det((5, 4), t + 2) @ w.T + b, det((5, 3), t + 7)).backward()
            np.testing.assert_allclose(w.detach().flatten()[[0, 4, 11]].numpy(), weight, rtol=0, atol=1e-7)
            np.testing.assert_allclose(b.detach()[[0, 2]].numpy(), bias, rtol=0, atol=1e-7)


def one_step(g: Tensor, **options: Any) -> Tensor:
    p = nn.Parameter(torch.ones_like(g))
    with release(steepest.AdaLomo([p], lr=1.0, **options)):
        (g * p).sum().backward()
    return 1 - p.detach()


def test_adalomos_first_step_on_sizes_of_rank_one_is_the_sign() -> None:
    draw = torch.Generator().manual_seed(0)
    g = torch.randn(6, 1, generator=draw, dtype=torch.float64) * torch.randn(
        1, 5, generator=draw, dtype=torch.float64
    )
    torch.testing.assert_close(one_step(g), g.sign())


def test_adalomos_step_is_bounded_and_knows_no_scale() -> None:
    g = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 5
    for threshold in (0.1, 1.0):
        u = one_step(g, clip_threshold=threshold)
        assert u.square().mean().sqrt() <= threshold * (1 + 1e-12)
        torch.testing.assert_close(one_step(1e6 * g, clip_threshold=threshold), u)


def test_one_gradient_whose_squares_overflow_leaves_adalomo_finite() -> None:
    p = nn.Parameter(torch.ones(4, 3))
    optimizer = steepest.AdaLomo([p], lr=0.01)
    for factor in (1.0, 1e30, 1.0):
        p.grad = factor * torch.ones(4, 3)
        optimizer.step()
    assert p.isfinite().all()


@pytest.mark.parametrize("rule", [steepest.AdaLomo, steepest.Adafactor])
def test_a_row_and_a_column_without_gradient_are_finite(rule: Any) -> None:
    p = nn.Parameter(torch.ones(4, 3))
    p.grad = torch.ones(4, 3)
    p.grad[1], p.grad[:, 2] = 0, 0
    rule([p], lr=0.01).step()
    assert p.isfinite().all()


def test_every_key_of_their_trajectories_is_read(tmp_path: Path) -> None:
    """Written here from the papers' formulas in numpy, with all keys that such a file may carry."""
    h = {"lr": 0.05, "weight_decay": 0.02, "clip_grad_norm": 0.3, "clip_grad_value": 0.2, "loss_scale": 512}
    own = {"clip_threshold": 0.7, "decay_rate": -0.6, "eps": [1e-8, 0.5]}
    draw = np.random.default_rng(0)
    start = {"square": draw.normal(size=(4, 3)), "bias": draw.normal(size=3)}
    inputs = {f"init/{n}": w for n, w in start.items()}
    inputs |= {f"grad/{t:03d}/{n}": draw.normal(size=w.shape) for t in range(4) for n, w in start.items()}
    for name in ("adalomo", "lomo"):
        told = h | (own if name == "adalomo" else {})
        if name == "lomo":
            del told["loss_scale"]
        arrays, weights, state = {}, dict(start), dict[str, Any]()
        for t in range(4):
            grads = {n: inputs[f"grad/{t:03d}/{n}"] for n in start}
            coef = min(1.0, 0.3 / (math.sqrt(sum((g**2).sum() for g in grads.values())) + 1e-6))
            for n, g in grads.items():
                g, w = np.clip(g, -0.2, 0.2) * coef, weights[n]
                if name == "lomo":
                    weights[n] = w * (1 - 0.05 * 0.02) - 0.05 * g
                else:
                    weights[n] = adalomo(w, g, t + 1, state.setdefault(n, {}))
                arrays[f"param/{t:03d}/{n}"] = weights[n]
        file = tmp_path / name / "all.json"
        file.parent.mkdir()
        record = {
            "optimizer": name,
            "hyperparameters": told,
            "tensors": list(start),
            "param_dtype": "float64",
            "source": f"lomo_optim/{name}.py, run through the real hooks with loss=sum<G,p>",
            "steps_kept": [0, 1, 2, 3],
            "rtol_suggested": 1e-9,
            "total_move": {n: 1.0 for n in start},
        }
        file.write_text(json.dumps(record))
        np.savez(file.with_suffix(".npz"), **arrays)
        verdict = one(file, inputs, "loop")
        assert verdict.status == "pass", verdict


def adalomo(w: np.ndarray, g: np.ndarray, t: int, state: dict[str, Any]) -> np.ndarray:
    beta, squares = 1 - t**-0.6, g**2 + 1e-8
    if w.ndim == 2:
        r = state["r"] = beta * state.get("r", 0.0) + (1 - beta) * squares.mean(1)
        c = state["c"] = beta * state.get("c", 0.0) + (1 - beta) * squares.mean(0)
        u = g / np.sqrt(np.outer(r / r.mean(), c))
    else:
        v = state["v"] = beta * state.get("v", 0.0) + (1 - beta) * squares
        u = g / np.sqrt(v)
    u = u / max(1.0, np.sqrt((u**2).mean()) / 0.7)
    rate = 0.05 * max(0.5, np.sqrt((w**2).mean()))
    return w * (1 - rate * 0.02) - rate * u


def test_planned_with_release_of_gradients_only_the_largest_counts() -> None:
    plan = steepest.memory("llama-7b", "adamw", dtype="bfloat16")
    released = plan.counted("steepest:release=True")
    assert released.gradients == plan.largest_gradient == 2 * 32_000 * 4096
    assert (released.weights, released.state, released.counted_buffers) == (plan.weights, plan.state, 0)
    assert sum(sizes[2] for sizes in released.by_role().values()) == released.gradients
    assert "the largest gradient alone" in str(released)
    with pytest.raises(BadInput, match="gauss_newton_bartlett"):
        steepest.memory("llama-7b", "sophia", accounting="steepest:release=True")


# ---- the page, and what was measured


def test_the_examples_on_the_page_run() -> None:
    page = (ROOT / "docs" / "step-inside-backward.md").read_text()
    space: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(example, space)


def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("release_benchmark", ROOT / "benchmarks" / "release.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("spec", ["sgd:variant=lomo", "adalomo", "adamw"])
def test_the_peak_keeps_the_law_and_is_below_the_plain_steps(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = benchmark(monkeypatch)
    args = argparse.Namespace(width=64, layers=4, vocab=64, tokens=4)
    plain, released = (script.measured(spec, kind, args) for kind in (False, True))
    script.check(plain)
    script.check(released)
    assert plain["peak"] - released["peak"] > 0.7 * (plain["gradients"] - released["gradients"])


def test_the_picture_on_the_page_is_that_of_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = benchmark(monkeypatch)
    record = json.loads((ROOT / "benchmarks" / "results" / "release.json").read_text())
    for row in record["rows"]:
        script.check(row)
    script.picture.write(tmp_path / "made.svg", script.drawn(record))
    assert (tmp_path / "made.svg").read_text() == (ROOT / "docs" / "images" / "release.svg").read_text()


def test_release_is_a_public_name() -> None:
    assert steepest.release is release and steepest.Release is Release
