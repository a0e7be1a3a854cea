"""Sophia with estimates: the numpy text, the engines, and what the paper says of clipping."""

from __future__ import annotations

from typing import Any

import pytest
import references.sophia as text
import torch
import torch.nn.functional as F
from cases import curvature
from test_trajectories import INPUTS
from torch import Tensor, nn

from steepest import Sophia, estimates
from steepest.core.errors import BadInput
from steepest.core.rule import Ask, Step, hyperparameters
from steepest.rules.sophia import Sophia as Rule

TENSORS = ("square", "tall", "norm")


def told(options: dict[str, Any]) -> str:
    return ",".join(f"{k}={v}" for k, v in options.items())


def found(named: dict[str, nn.Parameter], t: int) -> estimates.Measured:
    return {p: curvature(tuple(p.shape), t).to(p.dtype) for p in named.values()}


def walked(options: dict[str, Any], engine: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights in the end, every estimate that is asked for being given."""
    named = {name: nn.Parameter(torch.tensor(INPUTS[f"init/{name}"]).to(dtype)) for name in TENSORS}
    optimizer = Sophia(list(named.items()), engine=engine, **options)
    for t in range(9):
        for name, p in named.items():
            p.grad = torch.tensor(INPUTS[f"grad/{t:03d}/{name}"]).to(dtype)
        estimates.step(optimizer, lambda ask, t=t: found(named, t))
    return {name: p.detach() for name, p in named.items()}


@pytest.mark.parametrize("engine", ["batched", "auto"])
@pytest.mark.parametrize("options", text.ESTIMATED[::3], ids=told)
def test_estimates_reach_the_state_under_every_engine(options: dict[str, Any], engine: str) -> None:
    loop, other = walked(options, "loop", torch.float32), walked(options, engine, torch.float32)
    for name, w in loop.items():
        torch.testing.assert_close(other[name], w, rtol=1e-6, atol=1e-6)


def asked(rule: Rule, steps: int) -> dict[int, Ask]:
    return {t: ask for t in range(1, steps + 1) for ask in rule.asks(t)}


def test_g_asks_after_and_h_before_every_tenth_step() -> None:
    assert asked(Rule(), 25) == {t: Ask("gauss_newton_bartlett", "after") for t in (10, 20)}
    levanters = Rule(estimator="hutchinson", measured="before")
    assert asked(levanters, 25) == {t: Ask("hutchinson", "before") for t in (10, 20)}
    assert set(asked(Rule(hessian_interval=4), 12)) == {4, 8, 12}
    assert not any(rule.needs(t) for rule in (Rule(), levanters) for t in range(1, 25))


def test_the_papers_form_measures_before_the_first_of_every_k_steps_for_use_in_it() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = Sophia([p], variant="paper-h", hessian_interval=5, gamma=1.0)
    (ask,) = optimizer.owed()
    optimizer.observe(ask, {p: torch.tensor([100.0, 0.0])})
    p.grad = torch.tensor([1.0, 1.0])
    optimizer.step()
    m, h = 0.04, 0.01 * 100.0
    assert (p.detach() - 1).tolist() == pytest.approx([-1e-4 * (m / h + 0.2), -1e-4 * (1 + 0.2)], rel=1e-2)
    paper = Rule(measured="first", hessian_interval=5)
    assert [t for t in range(1, 13) if paper.needs(t)] == [1, 6, 11]
    assert not any(paper.asks(t) for t in range(1, 13))


def direction(rule: Rule, m: list[float], h: list[float]) -> list[float]:
    g = torch.tensor(m, dtype=torch.float64) / (1 - rule.betas[0])
    state = {"exp_avg": torch.zeros_like(g), "hessian": torch.tensor(h, dtype=torch.float64)}
    found: list[float] = rule.update(g, g, Step("", rule.corrections(2)), state)[0].tolist()
    return found


def test_without_an_estimate_every_step_is_a_sign_step() -> None:
    assert direction(Rule(), [2.0, -1e-6, 0.0], [0.0, 0.0, 0.0]) == [1.0, -1.0, 0.0]


def test_negative_curvature_gives_a_full_step_along_the_momentum() -> None:
    for floor in ("add", "max"):
        rule = Rule(estimator="hutchinson", floor=floor)
        assert direction(rule, [2.0, -1e-6], [-5.0, -5.0]) == [1.0, -1.0]


def test_a_coordinate_of_large_curvature_takes_a_newton_step_scaled_by_gamma() -> None:
    found = direction(Rule(gamma=0.5, eps=1e-12, floor="max"), [0.3, -0.3], [4.0, 0.1])
    assert found == pytest.approx([0.3 / (0.5 * 4.0), -1.0])


def test_batch_tokens_times_a_bare_mean_gradient_is_the_estimate_that_brings_its_root() -> None:
    """The two ways to count the B tokens of the estimate: at use, as the authors' code, or in the estimate."""
    tokens = 240.0
    bare, brought = Rule(batch_tokens=tokens), Rule()
    x, state = torch.tensor([0.3, -0.01], dtype=torch.float64), {"hessian": torch.zeros(2, dtype=torch.float64)}
    one = bare.observe("gauss_newton_bartlett", x, x, state)["hessian"]
    other = brought.observe("gauss_newton_bartlett", x * tokens**0.5, x, state)["hessian"]
    m = [1e-4, -1e-6]
    assert direction(bare, m, one.tolist()) == pytest.approx(direction(brought, m, other.tolist()))


def test_a_variant_says_all_that_the_recipe_says_so_that_none_of_it_mixes_in() -> None:
    for name, values in Rule.variants.items():
        assert set(Rule.recipe) - {"variant"} <= set(values), name
    assert Rule.variants["g"] == {k: getattr(Rule(), k) for k in Rule.variants["g"]}
    assert set(Rule.variants["g"]) < set(hyperparameters(Rule))


def test_a_step_after_an_estimate_that_was_not_given_is_refused() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = Sophia([p], hessian_interval=1)
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(BadInput, match=r"sophia asked for gauss_newton_bartlett .* steepest\.estimates"):
        optimizer.step()


@pytest.mark.parametrize("variant", ["g", "h", "paper-h"])
def test_the_loop_of_the_estimates_docstring_trains_and_resumes_bitwise(variant: str) -> None:
    draw = torch.Generator().manual_seed(0)
    tokens, labels = torch.randn(64, 8, generator=draw), torch.randint(5, (64,), generator=draw)

    def made() -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5))
        return model, Sophia(model, 3e-3, variant=variant, hessian_interval=3)

    def train(model: nn.Module, optimizer: Any, start: int, stop: int) -> float:
        weights = list(model.parameters())
        for t in range(start, stop + 1):

            def measure(ask: Ask, t: int = t) -> estimates.Measured:
                draw = estimates.generator(7, t)
                if ask.kind == "hutchinson":
                    return estimates.hutchinson(weights, F.cross_entropy(model(tokens), labels), draw, ask.probe)
                loss = estimates.sampled_loss(model(tokens), draw)
                return estimates.gauss_newton_bartlett(weights, loss, labels.numel())

            loss = F.cross_entropy(model(tokens), labels)
            loss.backward()
            estimates.step(optimizer, measure)
            optimizer.zero_grad()
        return float(loss.detach())

    model, optimizer = made()
    first, last = train(model, optimizer, 1, 1), train(model, optimizer, 2, 40)
    assert last < first - 0.2
    half, stopped = made()
    train(half, stopped, 1, 21)
    resumed, again = made()
    resumed.load_state_dict(half.state_dict())
    again.load_state_dict(stopped.state_dict())
    train(resumed, again, 22, 40)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
