"""PSGD Kron and PSGD: the linear algebra of Kronecker factors, and what they converge to."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from references import psgd as text
from test_trajectories import INPUTS
from torch import Tensor

from steepest.core.rule import Rule, Step
from steepest.linalg.kron import (
    apply,
    apply_inverse_transposed,
    apply_transposed,
    balanced,
    factor_shape,
    gram,
    scaled_identity,
)
from steepest.linalg.norm_bound import column_bound, skew_bound, spd_bound
from steepest.linalg.procrustes import asymmetry, rotated
from steepest.registry import rule_of_trajectory
from steepest.rules.kron import Kron, updates
from steepest.rules.psgd import PSGD
from steepest.verify import one

SIZES = [2, 3, 8, 40]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_norm(a: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(a, 2)[..., None, None]


def positive(stack: int, n: int, rank: int) -> Tensor:
    x = random(stack, n, rank)
    return x @ x.mT


# -- lower bounds of norms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_each_bound_is_below_the_norm_and_close_to_it(n: int, scale: float) -> None:
    skew = random(20, n, n) - random(20, n, n).mT
    probes = random(20, 32, n, seed=1)
    low, full = positive(20, n, 1), positive(20, n, 2 * n)
    for a, bound, least in (
        (low, column_bound(scale * low), 0.999),
        (full, column_bound(scale * full), 0.5**0.5),
        (low, spd_bound(scale * low, probes), 0.999),
        (full, spd_bound(scale * full, probes), 0.95),
        (skew, skew_bound(scale * skew, probes), 0.9),
    ):
        share = bound / scale / two_norm(a)
        assert bound.shape == (20, 1, 1)
        assert float(share.max()) <= 1 + 1e-9
        assert float(share.min()) >= least


def test_the_bounds_of_a_matrix_of_zeros_are_zero() -> None:
    zero, probes = torch.zeros(2, 4, 4, dtype=torch.float64), random(2, 32, 4)
    for bound in (column_bound(zero), spd_bound(zero, probes), skew_bound(zero, probes)):
        assert bool((bound < 1e-300).all())


# -- Procrustes rotations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("n", SIZES)
def test_a_rotation_is_orthogonal_and_less_skew_and_ends_at_the_polar_factor(n: int, order: int) -> None:
    q = torch.eye(n, dtype=torch.float64) + 0.2 * random(5, n, n) / n**0.5
    start, turned = q, q
    for step in range(60):
        before = asymmetry(turned)
        turned = rotated(turned, random(5, 32, n, seed=step), order)
        assert bool((asymmetry(turned) <= 1.05 * before + 1e-9).all())
    torch.testing.assert_close(turned.mT @ turned, start.mT @ start, rtol=1e-3, atol=1e-3)
    _, s, vh = torch.linalg.svd(start)
    torch.testing.assert_close(turned, vh.mT @ (s[..., None] * vh), rtol=2e-3, atol=2e-3)


def test_a_symmetric_matrix_is_not_turned() -> None:
    a = positive(3, 6, 12)
    for order in (2, 3):
        torch.testing.assert_close(rotated(a, random(3, 32, 6), order), a, rtol=1e-14, atol=1e-14)


# -- Kronecker factors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [(True, True), (True, False), (False, True), (False, False)], ids=str)
def test_factors_act_as_their_kronecker_product(dense: tuple[bool, bool]) -> None:
    m, n, x = 4, 3, random(2, 4, 3)
    factors, whole = {}, []
    for side, size, is_dense in zip(("left", "right"), (m, n), dense, strict=True):
        q = random(2, *factor_shape(size, side, is_dense), seed=size)
        q = q.triu() + 3 * torch.eye(size) if is_dense else q + 3
        factors[side] = q
        whole.append(q if is_dense else torch.diag_embed(q.flatten(1)))
    product = torch.stack([torch.kron(a, b) for a, b in zip(*whole, strict=True)])

    def times(matrix: Tensor) -> Tensor:
        return (matrix @ x.reshape(2, m * n, 1)).reshape(2, m, n)

    torch.testing.assert_close(apply(factors, x), times(product))
    torch.testing.assert_close(apply_transposed(factors, x), times(product.mT))
    torch.testing.assert_close(apply_inverse_transposed(factors, x), times(product.inverse().mT))
    torch.testing.assert_close(apply(balanced(factors), x), times(product))
    largest = [float(q[0].abs().max()) for q in balanced(factors).values()]
    assert largest[0] == pytest.approx(largest[1])


def test_a_gram_without_its_off_diagonal_is_that_gram_s_diagonal() -> None:
    x = random(2, 5, 3)
    for side in ("left", "right"):
        full, diagonal = gram(x, side, True), gram(x, side, False)
        torch.testing.assert_close(full.diagonal(dim1=-2, dim2=-1), diagonal.flatten(1))
        assert diagonal.shape[1:] == factor_shape(full.shape[-1], side, False)


def test_an_identity_has_the_shape_that_the_factor_has() -> None:
    torch.testing.assert_close(scaled_identity(torch.zeros(2, 3, 3), 5.0), 5 * torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(scaled_identity(torch.zeros(2, 1, 3), 5.0), torch.full((2, 1, 3), 5.0))


# -- what the rules converge to --------------------------------------------------------------------------------

FORMS = [
    Kron(momentum_into_precond_update=False, momentum=0.0, balance_every=7),
    *(
        PSGD(dQ=dQ, max_skew=1e9, init_scale=1.0, balance_every=7)
        for dQ in ("Q0.5EQ1.5", "EQ", "QUAD", "QEQ", "PRO4P")
    ),
]


def root(shape: int, seed: int) -> Tensor:
    """A symmetric positive matrix with eigenvalues from 1/3 to 3."""
    basis = torch.linalg.qr(random(shape, shape, seed=seed)).Q
    return basis @ torch.diag(torch.logspace(-0.5, 0.5, shape, base=9, dtype=torch.float64)) @ basis.mT


def stepped(
    rule: Rule, g: Tensor, state: dict[str, Tensor], t: int, phase: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """The update of a weight of zeros, and the state, with draws from torch's generator."""
    draws = {
        name: random(*draw.shape, seed=1000 * t + i)
        for i, (name, draw) in enumerate(rule.randoms(tuple(g.shape), phase).items())
    }
    return rule.update(g, torch.zeros_like(g), Step(phase, {**rule.corrections(t), **draws}), state)


def preconditioner(rule: Rule, state: dict[str, Tensor]) -> Tensor:
    parts = [state["Q_left"], state["Q_right"]]
    if not (isinstance(rule, PSGD) and rule.dQ == "PRO4P"):
        parts = [q.mT @ q for q in parts]
    return torch.kron(*parts)


@pytest.mark.parametrize("rule", FORMS, ids=lambda rule: getattr(rule, "dQ", "kron"))
def test_the_preconditioner_approaches_the_inverse_root_of_the_gradients_covariance(rule: Any) -> None:
    left, right = root(4, 1), root(3, 2)
    # g = left z right has covariance (left x right)^2, of which P should be the inverse root.
    target = torch.kron(left, right).inverse()
    state = {name: torch.zeros(slot.shape, dtype=torch.float64) for name, slot in rule.slots((4, 3)).items()}
    _, state = stepped(rule, left @ random(4, 3) @ right, state, 1, "first update")
    start = preconditioner(rule, state)
    far = torch.linalg.matrix_norm(start / float(start.trace()) - target / float(target.trace()))
    mean = torch.zeros_like(target)
    for t in range(2, 402):
        phase = "update balance" if t % 7 == 0 else "update"
        _, state = stepped(rule, left @ random(4, 3, seed=-t) @ right, state, t, phase)
        if t > 200:
            mean += preconditioner(rule, state) / 201
    error = torch.linalg.matrix_norm(mean - target) / torch.linalg.matrix_norm(target)
    assert float(far) > 0.1 and float(error) < 0.15


@pytest.mark.parametrize("rule", FORMS, ids=lambda rule: getattr(rule, "dQ", "kron"))
def test_a_step_without_an_update_draws_nothing_and_keeps_the_factors(rule: Any) -> None:
    state = {name: torch.zeros(slot.shape, dtype=torch.float64) for name, slot in rule.slots((4, 3)).items()}
    _, state = stepped(rule, random(4, 3), state, 1, "first update")
    assert rule.randoms((4, 3), "") == {}
    _, after = stepped(rule, random(4, 3, seed=1), state, 2, "")
    assert all(after[name] is state[name] for name in state if name != "momentum_buffer")


@pytest.mark.parametrize("rule", FORMS, ids=lambda rule: getattr(rule, "dQ", "kron"))
def test_updates_scale_with_the_gradient_s_inverse_once_fitted(rule: Any) -> None:
    """A gradient of another unit gives the same step in the end: whitened, its size is 1."""
    found = []
    for unit in (1.0, 1e-3):
        state = {name: torch.zeros(slot.shape, dtype=torch.float64) for name, slot in rule.slots((4, 3)).items()}
        sizes = []
        for t in range(1, 201):
            phase = "first update" if t == 1 else "update"
            u, state = stepped(rule, unit * random(4, 3, seed=-t), state, t, phase)
            sizes.append(float(u.square().mean().sqrt()))
        found.append(sum(sizes[-50:]) / 50)
    assert found[0] == pytest.approx(found[1], rel=0.2)


def test_pro4p_keeps_its_preconditioner_symmetric() -> None:
    rule = PSGD(dQ="PRO4P", max_skew=1e9, init_scale=1.0, precond_lr=0.7)
    state = {name: torch.zeros(slot.shape, dtype=torch.float64) for name, slot in rule.slots((6, 6)).items()}
    for t in range(1, 30):
        _, state = stepped(rule, random(6, 6, seed=t), state, t, "first update" if t == 1 else "update")
        assert float(asymmetry(state["Q_left"])) < 2e-3 and float(asymmetry(state["Q_right"])) < 2e-3


def test_a_gradient_of_zeros_tells_kron_nothing() -> None:
    rule, g = Kron(), random(4, 3)
    state = {name: torch.zeros(slot.shape, dtype=torch.float64) for name, slot in rule.slots((4, 3)).items()}
    for t in (1, 2):
        _, state = stepped(rule, 0 * g, state, t, "first update" if t == 1 else "update")
    torch.testing.assert_close(state["Q_left"], torch.eye(4, dtype=torch.float64))


# -- calendars -------------------------------------------------------------------------------------------------


def test_kron_updates_at_every_step_at_first_and_at_every_34th_in_the_end() -> None:
    steps = list(updates((None, 0.03, 500, 0.001), 8192))
    assert steps[:501] == list(range(1, 502))
    assert steps[501] == 503  # p below 1 asks for a second step
    assert [b - a for a, b in zip(steps[-4:], steps[-3:], strict=False)] == [34, 34, 34]  # 1 / .03 = 33.3


def test_a_constant_probability_is_a_fixed_distance() -> None:
    assert list(updates((0.4, 0.03, 500, 0.001), 10)) == [3, 6, 9]
    assert updates((0.0, 0.03, 500, 0.001), 10) == {}


def test_phases_of_a_resumed_run_are_those_of_the_whole_one() -> None:
    rule = Kron(flat=3, decay_rate=0.3, balance_every=4)
    late = [Kron(flat=3, decay_rate=0.3, balance_every=4).phase(t) for t in range(3000, 3300)]
    assert late == [rule.phase(t) for t in range(1, 3300)][2999:]
    assert {"", "update", "balance update"} >= set(late) and len(set(late)) == 3


def test_by_chance_psgd_updates_about_as_often_as_asked_and_the_same_steps_for_the_same_seed() -> None:
    def steps(seed: int) -> list[int]:
        rule = PSGD(update_probability=0.3, update_at=(1,), seed=seed)
        return [t for t in range(1, 301) if "update" in rule.phase(t)]

    assert 60 < len(steps(0)) < 120 and steps(0)[0] == 1
    assert steps(0) == steps(0) != steps(1)


def test_a_trajectory_of_psgd_kron_is_of_the_rule_whose_authors_recorded_it() -> None:
    for source, rule in (("a/kron_torch@1 kron.py", Kron), ("b/psgd_torch@2 psgd.py KronWhiten", PSGD)):
        assert rule_of_trajectory({"optimizer": "psgd_kron", "source": source}) is rule


# -- replay of what a program drew ------------------------------------------------------------------------------


class Recorder:
    """In place of the numpy text's draws: made when they are needed and recorded in that order, as programs do."""

    def __init__(self, arrays: dict[str, Any], t: int, weight: str, shape: tuple[int, ...]) -> None:
        self.arrays, self.key, self.weight, self.count = arrays, f"extra/draw/{t:03d}/", weight, 0
        self.noise = self.next("randn_like", shape)
        self.probes = {n: Probe(self, n) for n in shape}

    def next(self, kind: str, shape: tuple[int, ...]) -> Any:
        self.count += 1
        made = np.random.default_rng([len(self.arrays), *shape]).standard_normal(shape)
        self.arrays[f"{self.key}{len(self.arrays):05d}-{kind}-{self.weight}"] = made
        return made


@dataclass
class Probe:
    recorder: Recorder
    n: int

    def pop(self, _: int) -> Any:
        return self.recorder.next("randn", (32, self.n))


TOLD = {
    "optimizer": "psgd_kron",
    "source": "someone/psgd_torch@0 psgd.py KronWhiten",
    "dtype": "float64",
    "param_dtype": "float64",
    "groups": {},
    "rtol_suggested": 1e-8,
    "hyperparameters": {
        "lr_params": 0.01,
        "lr_preconditioner": 0.7,
        "preconditioner_init_scale": 0.5,
        "preconditioner_max_skew": "inf",
        "preconditioner_update_probability": 0.6,
        "grad_clip_max_amps": [2.0, 10.0],
        "betaL": 0.9,
        "damping": 1e-9,
        "momentum": 0.9,
        "weight_decay": 0.1,
    },
}


@pytest.mark.parametrize(
    ("dQ", "least"), [("PRO4P", 0), ("PRO4P", 1), ("QUAD", 0), ("QEQ", 0), ("Q0.5EQ1.5", 0), ("EQ", 0)]
)
def test_recorded_draws_find_their_places_however_many_each_factor_took(
    dQ: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, arrays = [0.1, 0.9, 0.5, 0.2, 0.7, 0.3, 0.4, 0.1], {}
    updated = tuple(t for t, drawn in enumerate(chosen, start=1) if drawn < 0.6)
    told = copy.deepcopy(TOLD) | {"steps_kept": [0, 3, 7], "total_move": {}, "tensors": ["square", "wide", "norm"]}
    told["hyperparameters"] |= {"dQ": dQ, "whiten_grad": False, "update_preconditioner_first": False}
    for t, drawn in enumerate(chosen):
        arrays[f"extra/draw/{t:03d}/000-rand--"] = np.array(drawn)
    for name in told["tensors"]:
        w, grads = INPUTS[f"init/{name}"], [INPUTS[f"grad/{t:03d}/{name}"] for t in range(8)]
        monkeypatch.setattr(text, "Draws", lambda t, shape, *_, name=name: Recorder(arrays, t - 1, name, shape))
        options = {"momentum": 0.9, "weight_decay": 0.1, "precond_lr": 0.7, "init_scale": 0.5, "max_skew": np.inf}
        options |= {"dQ": dQ, "whiten_grad": False, "update_preconditioner_first": False, "update_at": updated}
        walk = text.walk(w, grads, 0.01, update_probability=0.0, least_rotations=least, **options)
        for t, expected in enumerate(walk):
            arrays[f"param/{t:03d}/{name}"] = expected
        told["total_move"][name] = float(abs(expected - w).max())
    (tmp_path / "made.json").write_text(json.dumps(told))
    np.savez(tmp_path / "made.npz", **arrays)
    verdict = one(tmp_path / "made.json", INPUTS, "batched")
    assert verdict.status == "pass", verdict
