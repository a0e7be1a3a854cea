"""SinkGD's normalisation, and the ports' sizes against the paper's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import build, walk, weights
from torch import Tensor

from steepest.core.rule import Step
from steepest.rules.sinkgd import SinkGD

M, N = 6, 10


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def direction(g: Tensor, **options: Any) -> Tensor:
    u, _ = SinkGD(**options).update(g, g, Step("", {}), {})
    return u


def rms(x: Tensor, dim: int) -> Tensor:
    return x.square().mean(dim=dim).sqrt()


@pytest.mark.parametrize("rounds", [1, 5])
def test_columns_come_out_at_rms_1_and_so_does_the_matrix(rounds: int) -> None:
    u = direction(noise(M, N), L=rounds)
    torch.testing.assert_close(rms(u, -2), torch.ones(N, dtype=u.dtype))
    assert float(u.norm()) == pytest.approx(math.sqrt(M * N))


def test_more_rounds_bring_rows_nearer_to_rms_1() -> None:
    far = [float((rms(direction(noise(M, N), L=k), -1) - 1).abs().max()) for k in (1, 5, 50)]
    assert far[0] > far[1] > far[2] and far[2] < 1e-6


def test_sizes_of_rows_and_columns_do_not_matter_after_many_rounds() -> None:
    g, rows, cols = noise(M, N), noise(M, 1, seed=1).exp(), noise(1, N, seed=2).exp()
    torch.testing.assert_close(direction(rows * g * cols, L=300), direction(g, L=300), rtol=1e-6, atol=1e-8)


def test_a_ports_update_is_the_papers_over_its_missing_roots() -> None:
    g = noise(M, N)
    torch.testing.assert_close(direction(g, size="column", eps=0.0) * math.sqrt(M), direction(g))
    torch.testing.assert_close(direction(g, size="matrix") * math.sqrt(M * N), direction(g))


def test_rows_and_columns_of_zeros_stay_zero_and_spoil_no_other() -> None:
    g = noise(M, N, dtype=torch.float32)
    g[2], g[:, 3] = 0.0, 0.0
    u = direction(g)
    assert torch.equal(u[2], torch.zeros(N)) and torch.equal(u[:, 3], torch.zeros(M))
    rows, cols = [i for i in range(M) if i != 2], [j for j in range(N) if j != 3]
    alone = direction(g[rows][:, cols])
    # Only the roots of the sizes tell that there are empty ones: in the end the columns' is what counts.
    torch.testing.assert_close(u[rows][:, cols], alone * math.sqrt(M / (M - 1)), rtol=1e-4, atol=1e-4)


def test_the_port_moves_norms_and_biases_by_their_length_and_leaves_embeddings_to_adam() -> None:
    named, before = weights(), weights()
    optimizer = build(("sinkgd", {"variant": "naubull2", "lr": 0.5, "weight_decay": 0.0}), named)
    moved = {name for name, p in named.items() if set(optimizer.state[p]) == {"step"}}
    assert moved == set(named) - {"embed.weight", "head.weight"}
    walk(optimizer, named, 1)
    for name in ("norm.weight", "blocks.0.mlp.out.bias", "scale"):
        assert float((named[name] - before[name]).norm().detach()) == pytest.approx(0.5, rel=1e-5)
