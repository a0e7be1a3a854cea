"""What Scion's norms, balls and forms claim beyond a single step."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from cases import give_gradients, same, walk, weights
from test_trajectories import ORACLES

import steepest
from steepest.core.errors import BadInput
from steepest.core.rule import Step
from steepest.rules.scion import Scion

SHAPE = (6, 4)
ROWS, COLS = SHAPE

# The norm whose ball each option names, as a function of the weight.
NORMS: list[tuple[dict[str, Any], Any]] = [
    ({"norm": "Auto"}, lambda w: np.linalg.norm(w, 2) * (COLS / ROWS) ** 0.5),
    ({"norm": "Spectral", "normalized": False}, lambda w: np.linalg.norm(w, 2) * ROWS**-0.5),
    ({"norm": "Spectral", "transpose": True}, lambda w: np.linalg.norm(w, 2) * (ROWS / COLS) ** 0.5),
    ({"norm": "Spectral", "transpose": True, "spectral_max": True}, lambda w: np.linalg.norm(w, 2)),
    ({"norm": "SpectralConv", "taps": 2}, lambda w: np.linalg.norm(w, 2) * 2 * (COLS / 2 / ROWS) ** 0.5),
    ({"norm": "Sign"}, lambda w: np.abs(w).max() * COLS),
    ({"norm": "Sign", "normalized": False}, lambda w: np.abs(w).max()),
    ({"norm": "ColNorm"}, lambda w: np.sqrt((w**2).mean(axis=0)).max()),
    ({"norm": "ColNorm", "normalized": True}, lambda w: np.sqrt((w**2).mean(axis=0)).max() * COLS),
    ({"norm": "ColNorm", "transpose": True}, lambda w: np.sqrt((w**2).mean(axis=1)).max()),
    ({"norm": "RowNorm"}, lambda w: np.sqrt((w**2).sum(axis=1)).max() * COLS**0.5),
    ({"norm": "RowNorm", "normalized": False}, lambda w: np.sqrt((w**2).sum(axis=1)).max()),
]
BALLS = pytest.mark.parametrize(("options", "norm"), NORMS, ids=[json.dumps(o) for o, _ in NORMS])


def noise(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@BALLS
def test_a_weight_starts_on_the_boundary_of_its_ball(options: dict[str, Any], norm: Any) -> None:
    start = Scion(scale=3.0, **options).init(noise(0))
    assert norm(start.numpy()) == pytest.approx(3.0, rel=1e-6)


@BALLS
def test_no_point_of_the_ball_lies_further_along_the_gradient(options: dict[str, Any], norm: Any) -> None:
    rule, d = Scion(**options), noise(1)
    furthest = (d * rule.furthest(d, exact=True)).sum()
    for seed in range(50):
        x = noise(seed + 2)
        assert (d * x).sum() / norm(x.numpy()) < furthest
        assert (d * rule.init(x)).sum() < furthest


@pytest.mark.parametrize("exact", [False, True])
def test_newton_schulz_steps_end_within_the_claimed_distance_of_the_spectral_ball(exact: bool) -> None:
    o = Scion().furthest(noise(0), exact)
    values = torch.linalg.svdvals(o) * (COLS / ROWS) ** 0.5
    assert values.max() <= (1 + 1e-9 if exact else 1.13)
    assert values.min() >= (1 - 1e-9 if exact else 0.68)


@BALLS
def test_the_constrained_iterates_stay_in_the_ball(options: dict[str, Any], norm: Any) -> None:
    rule = Scion(scale=2.0, alpha=0.1, **options)
    p = torch.nn.Parameter(rule.init(noise(0)))
    optimizer = steepest.Scion([("w", p)], lr=0.1, scale=2.0, alpha=0.1, **options)
    room = 1.13 if options["norm"] in ("Auto", "Spectral", "SpectralConv") else 1 + 1e-9
    for t in range(30):
        p.grad = noise(t + 1)
        optimizer.step()
        assert norm(p.detach().numpy()) <= 2.0 * room


def test_at_a_learning_rate_of_one_the_constrained_form_forgets_where_it_was() -> None:
    a, b = weights(), weights(seed=1)
    for named in (a, b):
        walk(steepest.Scion(list(named.items()), lr=1.0), named, 1)
    assert same(a, b)


def test_unconstrained_spectral_is_muon_without_nesterov() -> None:
    a, b = ({n: p for n, p in weights().items() if p.ndim == 2 and "blocks" in n} for _ in range(2))
    muon = steepest.Muon(list(a.items()), lr=0.02, momentum=0.95, nesterov=False)
    scion = steepest.Scion(list(b.items()), lr=0.02, alpha=0.05, spectral_max=True, weight_decay=0.0)
    walk(muon, a, 5)
    walk(scion, b, 5)
    for name, w in a.items():
        torch.testing.assert_close(b[name], w, rtol=1e-12, atol=1e-12)


def test_unconstrained_sign_is_signum() -> None:
    a, b = weights(), weights()
    sign = {"norm": "Sign", "normalized": False}
    signum = steepest.Signum(list(a.items()), lr=0.02, momentum=0.9, weight_decay=0.1)
    scion = steepest.Scion(
        list(b.items()),
        lr=0.02,
        alpha=0.1,
        weight_decay=0.1,
        **sign,
        by_role={role: sign for role in ("norm", "bias", "vector")},
    )
    walk(signum, a, 5)
    walk(scion, b, 5)
    for name, w in a.items():
        torch.testing.assert_close(b[name], w, rtol=1e-12, atol=1e-12)


def test_alpha_one_needs_no_buffer() -> None:
    assert Scion().slots(SHAPE) == {}
    assert set(Scion(alpha=0.1).slots(SHAPE)) == {"momentum_buffer"}


def test_biases_and_norms_are_brought_to_rms_one_whatever_norm_the_matrices_have() -> None:
    named = weights()
    optimizer = steepest.Scion(list(named.items()), lr=1.0, norm="Sign")
    walk(optimizer, named, 1)
    for name in ("norm.weight", "blocks.0.mlp.out.bias"):
        assert named[name].square().mean().item() == pytest.approx(1)


def test_levanters_form_has_its_own_rate_and_no_decay_for_signs() -> None:
    optimizer = steepest.Scion(list(weights().items()), lr=0.01, variant="levanter")
    told = {route.parameter: route.role for route in optimizer.routing()}
    seen = set()
    for group in optimizer.param_groups:
        for name in group["param_names"]:
            sign = told[name] in ("embed", "head", "norm", "bias", "vector")
            assert (group["norm"] == "Sign") == sign
            assert group["lr"] == pytest.approx(0.002 if sign else 0.01)
            assert group["weight_decay"] == (0.1 if told[name] == "head" or not sign else 0.0)
            seen.add(told[name])
    assert {"embed", "head", "norm", "bias", "q", "ffn_in"} <= seen


# ---- the start of a model


def test_initialise_puts_every_weight_on_its_boundary_and_biases_at_zero() -> None:
    named = weights()
    fused = torch.nn.Parameter(torch.ones(12, 4, dtype=torch.float64))
    optimizer = steepest.Scion(
        [*named.items(), ("blocks.0.qkv.weight", fused)], variant="lm-tied", layouts={"blocks.0.qkv.weight": "qkv"}
    )
    steepest.initialise(optimizer, seed=3)
    assert named["head.weight"].abs().unique().tolist() == pytest.approx([3000 / 4])
    for part in (*fused.detach().split(4), named["blocks.0.mlp.in_.weight"].detach()):
        rows, cols = part.shape
        values = torch.linalg.svdvals(part) * (cols / rows) ** 0.5
        torch.testing.assert_close(values, torch.full_like(values, 50.0))
    assert not named["norm.weight"].any() and not named["blocks.0.mlp.out.bias"].any()


def test_initialise_draws_by_seed_and_by_weight() -> None:
    made = []
    for seed, engine in ((3, "loop"), (3, "batched"), (4, "loop")):
        named = weights()
        steepest.initialise(steepest.Scion(list(named.items()), engine=engine), seed=seed)
        made.append(named)
    assert same(made[0], made[1])
    q = "blocks.0.attn.q.weight"
    assert not torch.equal(made[0][q], made[2][q])
    assert not torch.equal(made[0][q], made[0]["blocks.1.attn.q.weight"])


def test_initialise_refuses_a_rule_that_does_not_say_where_weights_start() -> None:
    with pytest.raises(BadInput, match="muon does not say where weights start"):
        steepest.initialise(steepest.Muon(list(weights().items())))


# ---- trajectories


def test_the_options_of_a_trajectory_are_read_from_its_groups() -> None:
    told = json.loads((ORACLES / "scion" / "unconstrained-f64.json").read_text())
    told["groups"]["tall"] = {"norm": "Auto", "norm_kwargs": {}, "radius": 2.0}
    told["groups"]["bias"] = {"norm": "Auto", "norm_kwargs": {}, "radius": 4.0}
    told["groups"]["wide"] = {"norm": "Spectral", "norm_kwargs": {"max": True, "steps": 7}, "radius": 1.0}
    told["groups"]["head"] = {
        "norm": "Sign",
        "norm_kwargs": {"zero_init": True, "normalized": False},
        "radius": 1.0,
    }
    with np.load(ORACLES / "scion" / "unconstrained-f64.npz") as arrays:
        read = Scion.of_trajectory(told, arrays)
    assert read["weight_decay"] == 0.0
    assert read["alpha"] == 0.1
    assert read["groups"]["tall"] == {"norm": "Spectral", "scale": 2.0}
    assert read["groups"]["bias"] == {"norm": "BiasRMS", "scale": 4.0}
    assert read["groups"]["wide"] == {"norm": "Spectral", "spectral_max": True, "ns_steps": 7, "scale": 1.0}
    assert read["groups"]["head"] == {"norm": "Sign", "normalized": False, "scale": 1.0}
    assert read["groups"]["embed"] == {"norm": "ColNorm", "transpose": True, "scale": 1.0}


def test_a_gradient_of_zero_moves_nothing_but_the_constrained_form_still_shrinks() -> None:
    for rule in (Scion(), Scion(norm="Sign"), Scion(norm="ColNorm"), Scion(norm="RowNorm"), Scion(norm="BiasRMS")):
        u, _ = rule.update(torch.zeros(SHAPE), torch.ones(SHAPE), Step("", {}), {})
        assert not u.any()
    named = weights()
    optimizer = steepest.Scion(list(named.items()), lr=0.25)
    give_gradients(named, 0)
    for p in named.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in weights().items():
        torch.testing.assert_close(named[name], torch.nn.Parameter(0.75 * p))
