"""What SOAP promises beyond its numpy text: blocks, the study's variant, trajectories of deficient factors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_trajectories import INPUTS
from torch import Tensor

import steepest
from steepest.core.rule import Step
from steepest.rules.soap import SOAP
from steepest.verify import verify


def gradients(*shape: int, steps: int = 6) -> list[Tensor]:
    draw = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(steps)]


def directions(rule: SOAP, grads: list[Tensor]) -> list[Tensor]:
    state = {n: torch.zeros(s.shape, dtype=torch.float64) for n, s in rule.slots(tuple(grads[0].shape)).items()}
    found = []
    for t, g in enumerate(grads, start=1):
        u, state = rule.update(g, torch.zeros_like(g), Step(rule.phase(t), rule.corrections(t)), state)
        found.append(torch.zeros_like(g) if u is None else u)
    return found


@pytest.mark.parametrize("order", ["official", "levanter"])
def test_blocks_are_soap_by_themselves_what_fills_them_up_does_not_count(order: str) -> None:
    options: dict[str, Any] = {"order": order, "precondition_frequency": 2, "eps": 1e-12}
    grads = gradients(7, 7)
    blocked = directions(SOAP(**options, block_size=4), grads)
    for i in (0, 4):
        for j in (0, 4):
            part = slice(i, i + 4), slice(j, j + 4)
            alone = directions(SOAP(**options), [g[part] for g in grads])
            for u, block in zip(blocked, alone, strict=True):
                torch.testing.assert_close(u[part], block, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)], ids=str)
def test_a_block_as_large_as_the_matrix_changes_nothing(shape: tuple[int, int]) -> None:
    options: dict[str, Any] = {"precondition_frequency": 2, "max_precond_dim": 6}  # bases of full rank alone
    grads = gradients(*shape)
    whole = directions(SOAP(**options), grads)
    for u, other in zip(whole, directions(SOAP(**options, block_size=9), grads), strict=True):
        torch.testing.assert_close(u, other, rtol=1e-9, atol=1e-11)


def test_a_dimension_without_a_basis_is_not_cut() -> None:
    slots = SOAP(block_size=4, max_precond_dim=10).slots((30, 8))
    assert slots["GG_right"].shape == (2, 4, 4) and slots["exp_avg"].shape == (2, 30, 4)
    assert "GG_left" not in slots
    assert SOAP(block_size=4).slots((8,))["exp_avg"].shape == (1, 1, 8)
    assert SOAP(block_size=4, precondition_1d=True).slots((8,))["Q_right"].shape == (2, 4, 4)


def test_levanters_first_step_decays_matrices_but_no_embedding_norm_or_bias() -> None:
    shapes = {"blocks.0.attn.q.weight": (6, 6), "embed.weight": (9, 6), "norm.weight": (6,), "b.bias": (6,)}
    named = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    optimizer = steepest.SOAP(list(named.items()), variant="levanter", lr=0.5, weight_decay=0.2)
    for p in named.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [float(p.detach().mean()) for p in named.values()] == pytest.approx([0.9, 1.0, 1.0, 1.0])


def test_a_trajectory_whose_factors_stay_deficient_is_replayed_by_its_recorded_bases(tmp_path: Path) -> None:
    """A vector's factor after t gradients has rank t: another program's null space, turned at will, is followed,
    with the first moment that the rule keeps in the bases."""
    steps, name = 12, "norm"
    turn = np.random.default_rng(0)
    w = INPUTS[f"init/{name}"]
    n, beta, lr, arrays = len(w), 0.95, 0.01, {}
    factor, m, v, start = np.zeros((n, n)), np.zeros(n), np.zeros(n), w
    q = np.eye(n)
    for t in range(steps):
        g = INPUTS[f"grad/{t:03d}/{name}"]
        if t > 0:
            m, v = beta * m + (1 - beta) * g, beta * v + (1 - beta) * (q.T @ g) ** 2
            u = q @ ((q.T @ m) / (np.sqrt(v) + 1e-8))
            w = w - lr * np.sqrt(1 - beta**t) / (1 - beta**t) * u / np.sqrt((u**2).mean())
        factor = beta * factor + (1 - beta) * np.outer(g, g)
        if t == 0:
            q = np.linalg.eigh(factor)[1][:, ::-1].copy()
        else:
            order = np.argsort(-np.diag(q.T @ factor @ q))
            q, v = np.linalg.qr(factor @ q[:, order])[0], v[order]
        free = max(0, n - t - 1)
        q[:, n - free :] = q[:, n - free :] @ np.linalg.qr(turn.normal(size=(free, free)))[0]
        arrays |= {f"extra/Q/{t:03d}/{name}/0": q.copy(), f"param/{t:03d}/{name}": w}
    told = {
        "optimizer": "soap",
        "hyperparameters": {
            "lr": lr,
            "beta1": beta,
            "beta2": beta,
            "shampoo_beta": -1,
            "weight_decay": 0.0,
            "precondition_frequency": 1,
            "precondition_1d": True,
            "normalize_grads": True,
        },
        "source": "numpy",
        "dtype": "float64",
        "param_dtype": "float64",
        "rtol_suggested": 1e-9,
        "steps_kept": [2, steps - 1],
        "total_move": {name: float(np.abs(w - start).max())},
        "tensors": [name],
    }
    (tmp_path / "soap").mkdir()
    (tmp_path / "soap" / "vector.json").write_text(json.dumps(told))
    np.savez(tmp_path / "soap" / "vector.npz", **arrays)
    np.savez(tmp_path / "inputs.npz", **INPUTS)
    for verdict in verify(tmp_path, engine="loop"):
        assert verdict.status == "pass", verdict
