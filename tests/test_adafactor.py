"""Adafactor's own claims: what its four forms are in special cases, and what a learning rate means to each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import steepest
from steepest.core.errors import BadInput

SHAPES = {"a": (7, 5), "stack": (3, 4, 5), "vector": (6,), "scalar": ()}


def made(shapes: dict[str, tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        n: torch.nn.Parameter(torch.randn(s, generator=draw, dtype=torch.float64).to(dtype))
        for n, s in shapes.items()
    }


def drawn(weights: dict[str, Tensor], steps: int = 8) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        {n: torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p.dtype) for n, p in weights.items()}
        for _ in range(steps)
    ]


def walked(
    optimizer: torch.optim.Optimizer, weights: dict[str, Tensor], grads: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    for given in grads:
        for name, p in weights.items():
            p.grad = given[name].clone()
        optimizer.step()
    return {name: p.detach().clone() for name, p in weights.items()}


def both(first: Any, second: Any, grads: list[dict[str, Tensor]]) -> None:
    """The two optimizers, given as functions of named weights, walk the same."""
    a, b = made(), made()
    one, other = walked(first(list(a.items())), a, grads), walked(second(list(b.items())), b, grads)
    for name, w in one.items():
        torch.testing.assert_close(w, other[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_with_momentum_on_squares_of_rank_one_it_is_adam() -> None:
    draw = torch.Generator().manual_seed(2)
    weights, grads = made(), []
    sides = {n: (torch.rand(p.shape[:-1], generator=draw), torch.rand(p.shape[-1:], generator=draw))
             for n, p in weights.items() if p.ndim > 1}  # fmt: skip
    for given in drawn(weights):
        scale = torch.rand((), generator=draw, dtype=torch.float64)
        grads.append(
            {
                n: g if n not in sides else scale * g.sign() * sides[n][0].unsqueeze(-1) * sides[n][1]
                for n, g in given.items()
            }
        )
    shared = {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-8}
    both(
        lambda p: steepest.Adafactor(p, variant="deconstructing", **shared),
        lambda p: steepest.AdamW(p, betas=(0.9, 0.95), **shared),
        grads,
    )


def test_with_momentum_and_every_element_it_is_adam() -> None:
    shared = {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-8}
    both(
        lambda p: steepest.Adafactor(p, variant="deconstructing", second_moment="full", **shared),
        lambda p: steepest.AdamW(p, betas=(0.9, 0.95), **shared),
        drawn(made()),
    )


def test_every_element_and_adams_rate_is_adam_without_momentum() -> None:
    """The paper's section 7.1: a bias correction moved into the decay rate."""
    plain = {"scale_parameter": False, "clip_threshold": None, "second_moment": "full"}
    both(
        lambda p: steepest.Adafactor(p, lr=0.01, beta2=0.9, **plain),
        lambda p: steepest.AdamW(p, lr=0.01, betas=(0.0, 0.9), eps=0.0, weight_decay=0.0),
        drawn(made()),
    )


def test_the_hybrid_without_an_adaptive_role_is_momentum_with_bias_correction() -> None:
    weights = made()
    grads = drawn(weights)
    plain = {role: {"second_moment": "none", "lr": 0.1} for role in ("head", "norm")}
    found = walked(
        steepest.Adafactor(list(weights.items()), variant="sgd-hybrid", lr=0.1, by_role=plain), weights, grads
    )
    for name, w in made().items():
        w, m = w.detach(), torch.zeros_like(w)
        for t, given in enumerate(grads, start=1):
            m = 0.9 * m + 0.1 * given[name]
            w = w - 0.1 * m / (1 - 0.9**t)
        torch.testing.assert_close(found[name], w)


def test_the_hybrid_adapts_last_layer_and_norms_alone_at_their_own_rate() -> None:
    weights = made({"blocks.0.attn.q.weight": (4, 4), "head.weight": (8, 4), "norm.weight": (4,)})
    optimizer = steepest.Adafactor(list(weights.items()), variant="sgd-hybrid")
    kept = {n: set(optimizer.state[p]) - {"step"} for n, p in weights.items()}
    assert kept == {
        "blocks.0.attn.q.weight": {"exp_avg"},
        "head.weight": {"exp_avg", "row_var", "col_var"},
        "norm.weight": {"exp_avg", "variance"},
    }
    rates = {n: g["lr"] for g in optimizer.param_groups for n in g["param_names"]}
    assert rates == {"blocks.0.attn.q.weight": 10.0, "head.weight": 3.16e-3, "norm.weight": 3.16e-3}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"lr": 0.9, "weight_decay": 0.1}, {"lr": 0.9, "weight_decay": 0.1}),
        ({"clip_threshold": 2.0, "decay_rate": 0.5}, {"d": 2.0, "beta2_decay": -0.5}),
        ({"eps1": 0.5, "eps2": 0.9}, {"eps": (0.5, 0.9)}),
    ],
)
def test_torchs_form_is_torchs(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Tensors of more than two dimensions too: the last two are factored, sizes are the whole tensor's."""
    both(
        lambda p: steepest.Adafactor(p, variant="torch", **ours),
        lambda p: torch.optim.Adafactor([w for _, w in p], **theirs),
        drawn(made()),
    )


@pytest.mark.parametrize("variant", ["t2t", "hf"])
def test_a_schedule_scales_the_relative_step(variant: str) -> None:
    """Without lr a group's lr is a factor of 1, which any scheduler of torch moves."""
    moved = []
    for factor in (1.0, 0.5):
        weights = made()
        optimizer = steepest.Adafactor(list(weights.items()), lr=None, variant=variant)
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _, factor=factor: factor)
        after = walked(optimizer, weights, drawn(weights, 1))
        moved.append({n: after[n] - w.detach() for n, w in made().items()})
    size = made()["a"].detach().square().mean().sqrt()
    assert moved[0]["a"].square().mean().sqrt() <= 0.01 * size * (1 + 1e-9)  # one per cent of the weight's size
    for name in SHAPES:
        torch.testing.assert_close(0.5 * moved[0][name], moved[1][name])


def test_lr_makes_t2ts_step_absolute() -> None:
    both(
        lambda p: steepest.Adafactor(p, lr=0.01),
        lambda p: steepest.Adafactor(p, lr=0.01, variant="hf", relative_step=False),
        drawn(made()),
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "hf", "lr": 0.01}, ("lr=0.01", "relative_step=True", "relative_step=False")),
        ({"lr": 0.01, "relative_step": True}, ("lr=0.01", "relative_step=True")),
        ({"variant": "hf", "relative_step": False}, ("relative_step=False", "give lr")),
        ({"variant": "hf", "relative_step": False, "lr": 0.01, "warmup_init": True}, ("warmup_init",)),
        ({"lr": 0.01, "warmup_init": True}, ("warmup_init=True", "no lr")),
        ({"formulation": "deconstructing", "lr": 0.01}, ("beta2=None", "variant='deconstructing'")),
        ({"variant": "torch", "relative_step": True}, ("relative_step=True", "'torch'")),
        ({"second_moment": "none"}, ("second_moment='none'",)),
        ({"variant": "hf", "decay": "after"}, ("decay='after'",)),
        ({"variant": "deconstructing", "warmup_init": True}, ("warmup_init=True", "'deconstructing'")),
        ({"clip_threshold": -1.0}, ("clip_threshold=-1.0",)),
        ({"clip_threshold": 0.0}, ("clip_threshold=0", "None")),
    ],
)
def test_what_contradicts_itself_is_told_in_one_line(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as raised:
        steepest.Adafactor([torch.nn.Parameter(torch.ones(2, 2))], **options)
    assert "\n" not in str(raised.value)
    assert all(word in str(raised.value) for word in words), raised.value


def test_a_group_may_have_an_lr_of_its_own_beside_the_relative_step() -> None:
    a, b = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer = steepest.Adafactor([{"params": [a]}, {"params": [b], "lr": 0.5}])
    assert [(g["lr"], g["relative_step"]) for g in optimizer.param_groups] == [(1.0, True), (0.5, False)]


@pytest.mark.parametrize("variant", ["t2t", "hf", "torch", "deconstructing", "deconstructing-official"])
def test_gradients_of_zero_leave_finite_weights_that_move_later(variant: str) -> None:
    weights = made(dtype=torch.float32)
    optimizer = steepest.Adafactor(list(weights.items()), variant=variant)
    still = walked(optimizer, weights, [{n: torch.zeros_like(p) for n, p in weights.items()}] * 2)
    assert all(torch.equal(still[n], w.detach()) for n, w in made(dtype=torch.float32).items())
    moved = walked(optimizer, weights, drawn(weights, 1))
    assert all(w.isfinite().all() and not torch.equal(w, still[n]) for n, w in moved.items())


def test_memory_is_a_row_and_a_column() -> None:
    p = torch.nn.Parameter(torch.zeros(300, 200))
    floats = {
        variant: sum(t.numel() for t in steepest.Adafactor([p], variant=variant).state[p].values()) - 1
        for variant in ("t2t", "deconstructing")
    }
    assert floats == {"t2t": 500, "deconstructing": 60_500}


STUDY = {"lr": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
T2T = {"lr": 0.01, "eps1": 1e-30, "eps2": 1e-3, "weight_decay": 0.0}
TENSORS = ["square", "head", "norm", "bias"]


@pytest.mark.parametrize(
    ("source", "told", "options"),
    [
        (
            "tensor2tensor/utils/adafactor.py",
            T2T
            | {"beta1": 0.9, "factored": False, "multiply_by_parameter_scale": False, "clipping_threshold": None}
            | {"decay_exponent": None, "decay_adam_beta2": 0.99},
            T2T
            | {"beta1": 0.9, "second_moment": "full", "scale_parameter": False, "clip_threshold": None}
            | {"beta2": 0.99},
        ),
        (
            "transformers/optimization.py",
            {"lr": None, "beta1": None, "decay_rate": -0.7, "relative_step": True, "warmup_init": True},
            {"variant": "hf", "beta1": 0.0, "decay_rate": 0.7, "warmup_init": True},
        ),
        (
            "torch/optim/_adafactor.py",
            {"lr": 0.5, "beta2_decay": -0.5, "d": 2.0, "eps1": None, "eps2": 0.1, "weight_decay": 0.1},
            {"variant": "torch", "lr": 0.5, "decay_rate": 0.5, "clip_threshold": 2.0, "eps2": 0.1}
            | {"weight_decay": 0.1},
        ),
        (
            "rosieyzh/optimizers-llm olmo/optim.py AdafactorW",
            STUDY | {"neuron_only": True},
            STUDY | {"variant": "deconstructing-official", "second_moment": "rows"},
        ),
        (
            "rosieyzh/optimizers-llm olmo/optim.py AdafactorWLast",
            STUDY | {"neuron_only": False, "lr_last": 0.01, "update_last": True, "update_norm": True},
            STUDY
            | {"variant": "sgd-hybrid", "vectors": "scalar"}
            | {"by_role": {role: {"lr": 0.01} for role in ("head", "norm")}},
        ),
    ],
    ids=["t2t", "hf", "torch", "rows", "hybrid"],
)
def test_what_a_trajectory_tells_is_what_a_user_would_ask_for(
    source: str, told: dict[str, Any], options: dict[str, Any]
) -> None:
    arguments = steepest.Adafactor.rule.of_trajectory(
        {"hyperparameters": told, "source": source, "tensors": TENSORS, "groups": {"lr_last": ["head", "norm"]}},
        {},
    )
    own, roles = arguments.pop("groups", {}), {"head": "head", "norm": "norm", "bias": "bias"}
    shapes = {"square": (4, 4), "head": (6, 4), "norm": (4,), "bias": (5,)}
    a, b = made(shapes), made(shapes)
    given = [{"params": [(n, p)], **own.get(n, {})} for n, p in a.items()]
    one = walked(steepest.Adafactor(given, roles=roles, **arguments), a, drawn(a))
    other = walked(steepest.Adafactor(list(b.items()), roles=roles, **options), b, drawn(b))
    for name, w in one.items():
        assert torch.equal(w, other[name]) and not torch.equal(w, made(shapes)[name].detach()), name
