"""What rules ask for beside the gradient: measured right on the lab's model, repeated after a kill, and billed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import EVERY_STEP, assert_same, numbers
from torch import Tensor

from steepest import estimates
from steepest.core.errors import BadInput
from steepest.core.rule import Ask
from steepest.engines import why_not_compiled
from steepest.lab import record
from steepest.lab.batches import batch
from steepest.lab.config import EstimateConfig, OptimizerConfig, RunConfig
from steepest.lab.corpus import Corpus
from steepest.lab.estimate import SWITCHED, Estimator
from steepest.lab.fused import twice_differentiable
from steepest.lab.model import Decoder, ModelConfig
from steepest.lab.race.calibrate import BLOCK, block_length, step_times
from steepest.lab.race.work import counted, flops_per_step
from steepest.lab.train import Progress, train
from steepest.registry import resolve

SMALL = ModelConfig(layers=2, width=16, heads=4, ffn=24, vocab=40)
MODELS = {
    "llama": SMALL,
    "olmo": replace(SMALL, norm="layer", mlp="gelu", qk_norm=True, z_loss=1e-2, init="mitchell"),
    "grouped and tied": replace(SMALL, kv_heads=2, tied=True),
}
CPU = torch.device("cpu")


def sequences(rows: int = 3) -> Tensor:
    return torch.randint(SMALL.vocab, (rows, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_hutchinsons_product_is_the_change_of_the_fused_models_gradient(config: ModelConfig) -> None:
    """Its double backward through the plain texts, against differences of the gradient through the fused ones."""
    model, ids = Decoder(config, seed=1), sequences()
    weights = list(model.parameters())
    with twice_differentiable():
        found = estimates.hutchinson(weights, model.loss(ids).loss, estimates.generator(0, 1))
    draw = estimates.generator(0, 1)
    z = {p: torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in weights}

    def gradient(along: float) -> dict[Tensor, Tensor]:
        with torch.no_grad():
            for p in weights:
                p.add_(z[p], alpha=along)
        found = estimates.gradient(weights, model.loss(ids).loss)
        with torch.no_grad():
            for p in weights:
                p.sub_(z[p], alpha=along)
        return found

    step = 1e-6
    up, down = gradient(step), gradient(-step)
    assert set(found) == set(up) == set(weights)
    for p in weights:
        expected = z[p] * (up[p] - down[p]) / (2 * step)
        torch.testing.assert_close(found[p], expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_the_plain_texts_give_the_fused_ones_loss_and_are_left_again() -> None:
    model, ids = Decoder(MODELS["olmo"], seed=1), sequences()
    fused = model.loss(ids).loss
    with pytest.raises(RuntimeError, match=r"once_differentiable|not implemented"):
        estimates.hutchinson(model.parameters(), fused, estimates.generator(0, 1))
    with twice_differentiable():
        plain = model.loss(ids).loss
    torch.testing.assert_close(plain, fused)
    assert plain.grad_fn is not None and model.loss(ids).loss.grad_fn is not None
    assert type(plain.grad_fn) is not type(model.loss(ids).loss.grad_fn)


def test_the_loss_on_drawn_labels_has_a_gradient_of_mean_zero() -> None:
    """Bartlett's first identity: labels that the model itself draws tell it nothing new on average."""
    model, ids = Decoder(SMALL, seed=1), sequences(8)
    head, other = torch.zeros_like(model.head.weight), torch.zeros_like(model.head.weight)
    draws = 300
    for t in range(draws):
        loss = model.sampled_loss(ids, estimates.generator(0, t))
        (grad,) = torch.autograd.grad(loss, [model.head.weight])
        head += grad / draws
        other += grad.square() / draws
    assert float((head / (other / draws).sqrt().clamp(min=1e-12)).abs().max()) < 5.5
    (real,) = torch.autograd.grad(model.loss(ids).loss, [model.head.weight])
    assert head.norm() < 0.2 * real.norm()


def estimator(corpus: Corpus, config: RunConfig, notice: Callable[[str], None] = lambda text: None) -> Estimator:
    model = Decoder(config.model.config(corpus.vocab_size), seed=0)
    return Estimator(model, config, corpus, CPU, notice)


@pytest.mark.parametrize("kind", ["gauss_newton_bartlett", "hutchinson", "next_gradient"])
def test_accumulation_measures_the_whole_batch(kind: Any, tiny_corpus: Corpus, tiny_config: RunConfig) -> None:
    whole = replace(tiny_config, estimate=EstimateConfig(share=1.0))
    one = estimator(tiny_corpus, whole).measure(Ask(kind, "after"), 3)
    other = estimator(tiny_corpus, replace(whole, accumulation=2)).measure(Ask(kind, "after"), 3)
    for a, b in zip(one.values(), other.values(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)


def test_the_next_gradient_is_the_one_that_the_next_step_will_see(
    tiny_corpus: Corpus, tiny_config: RunConfig
) -> None:
    measured = estimator(tiny_corpus, replace(tiny_config, clip=0.1)).measure(Ask("next_gradient", "before"), 3)
    model = Decoder(tiny_config.model.config(tiny_corpus.vocab_size), seed=0)
    model.loss(batch(tiny_corpus, seed=tiny_config.seed, step=3, size=4, seq=16)).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    for p, x in zip(model.parameters(), measured.values(), strict=True):
        torch.testing.assert_close(x, p.grad)


def test_the_share_and_the_clip_of_an_estimate_are_the_configurations(
    tiny_corpus: Corpus, tiny_config: RunConfig
) -> None:
    ask = Ask("gauss_newton_bartlett", "after")

    def rows(share: float, accumulation: int = 1) -> list[int]:
        config = replace(tiny_config, accumulation=accumulation, estimate=EstimateConfig(share))
        return [len(part) for part in estimator(tiny_corpus, config)._parts(0, share)]

    assert rows(0.5) == [2] and rows(1.0) == [4] and rows(0.01) == [1]
    assert rows(0.75, accumulation=2) == [2, 2] and rows(0.25, accumulation=2) == [1]
    half, whole = (estimator(tiny_corpus, replace(tiny_config, estimate=EstimateConfig(s))) for s in (0.5, 1.0))
    for kind in ("gauss_newton_bartlett", "hutchinson"):
        every = whole.measure(Ask(kind, "before"), 1).values()  # type: ignore[arg-type]
        told = half.measure(Ask(kind, "before", whole=True), 1).values()  # type: ignore[arg-type]
        assert all(torch.equal(a, b) for a, b in zip(every, told, strict=True))
    clipped = replace(tiny_config, estimate=EstimateConfig(1.0, clip=1e-3))
    found = estimator(tiny_corpus, clipped).measure(ask, 1)
    norm = torch.cat([g.flatten() for g in found.values()]).norm() / math.sqrt(4 * 16)
    assert float(norm) == pytest.approx(1e-3, rel=1e-4)
    for bad in (0.0, 1.5, math.nan):
        with pytest.raises(BadInput, match=r"estimate\.share"):
            EstimateConfig(share=bad)


# ---- in a run


def sophia(config: RunConfig, variant: str, **more: Any) -> RunConfig:
    options = {"variant": variant, "hessian_interval": 3} | more
    return replace(config, optimizer=OptimizerConfig("sophia", 3e-3, options))


ASKING: dict[str, tuple[str, dict[str, Any], float, range]] = {
    "g": ("sophia", {"variant": "g", "hessian_interval": 3}, 3e-3, range(3, 31, 3)),
    "h": ("sophia", {"variant": "h", "hessian_interval": 3}, 3e-3, range(3, 31, 3)),
    "paper-g": ("sophia", {"variant": "paper-g", "hessian_interval": 3}, 3e-3, range(1, 31, 3)),
    "adahessian": ("adahessian", {}, 0.15, range(1, 31)),
}
"""Rules that ask, their learning rate, and the steps in which they are answered."""


@pytest.mark.parametrize("case", ASKING)
def test_a_killed_run_ends_with_the_same_bits_and_its_estimates_are_billed(
    case: str, tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    spec, options, lr, steps = ASKING[case]
    config = replace(tiny_config, optimizer=OptimizerConfig(spec, lr, options))
    whole = train(config, runs, corpus=tiny_corpus, notice=said.append)
    assert said == ([SWITCHED] if case in ("h", "adahessian") else [])
    assert 0 < whole.estimate_seconds < whole.seconds
    parts = whole.forward_backward_seconds + whole.optimizer_seconds + whole.estimate_seconds
    assert whole.seconds == pytest.approx(parts)
    spent = [row["estimate_seconds"] for row in record.read_rows(whole.folder)]
    grew = [step for step, (a, b) in enumerate(zip([0.0, *spent], spent, strict=False), 1) if b > a]
    assert grew == list(steps)

    def killed(now: Progress) -> None:
        if now.step in (3, 7, 20) and now.step not in stops:
            stops.append(now.step)
            raise RuntimeError("killed")

    stops: list[int] = []
    for _ in range(3):
        with pytest.raises(RuntimeError, match="killed"):
            train(replace(config, checkpoint=EVERY_STEP), tmp_path / "other", corpus=tiny_corpus, progress=killed)
    again = train(replace(config, checkpoint=EVERY_STEP), tmp_path / "other", corpus=tiny_corpus)
    assert stops == [3, 7, 20]
    assert_same(numbers(again.folder), numbers(whole.folder))


@pytest.mark.parametrize("variant", ["g", "h"])
def test_sophias_loss_falls(variant: str, tiny_corpus: Corpus, tiny_config: RunConfig, runs: Path) -> None:
    config = replace(sophia(tiny_config, variant), precision="bf16", tokens=80 * 64)
    result = train(config, runs, corpus=tiny_corpus, notice=lambda text: None)
    assert result.status == "finished"
    assert result.val_loss is not None
    assert result.val_loss < record.read_rows(result.folder)[0]["val_loss"] - 0.5


def test_how_estimates_are_made_is_part_of_the_identity_of_runs_that_make_them(
    tiny_corpus: Corpus, tiny_config: RunConfig
) -> None:
    def identity(config: RunConfig, share: float) -> str:
        return replace(config, estimate=EstimateConfig(share)).identity(tiny_corpus.manifest)

    asking = sophia(tiny_config, "g")
    assert identity(asking, 0.5) != identity(asking, 1.0)
    assert identity(tiny_config, 0.5) == identity(tiny_config, 1.0)


@pytest.mark.skipif(why_not_compiled() is not None, reason=f"compiled model: {why_not_compiled()}")
@pytest.mark.slow
def test_a_compiled_model_is_measured_as_the_eager_one(tiny_corpus: Corpus, tiny_config: RunConfig) -> None:
    for kind in ("gauss_newton_bartlett", "hutchinson"):
        eager, compiled = estimator(tiny_corpus, tiny_config), estimator(tiny_corpus, tiny_config)
        compiled.model.compile()
        ask = Ask(kind, "after")  # type: ignore[arg-type]
        for a, b in zip(eager.measure(ask, 2).values(), compiled.measure(ask, 2).values(), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)


# ---- in a race


def optimizer_of(spec: str, corpus: Corpus, config: RunConfig) -> Any:
    return resolve(spec).build(Decoder(config.model.config(corpus.vocab_size), seed=0), lr=1e-3)


@pytest.mark.parametrize(("interval", "steps"), [(1, 10), (4, 12), (7, 14), (10, 10), (25, 25)])
def test_a_timed_block_holds_equally_many_estimates_each_time(
    interval: int, steps: int, tiny_corpus: Corpus, tiny_config: RunConfig
) -> None:
    for rule in ("sophia", "adahessian"):  # asks after its steps, needs before them
        spec = f"{rule}:hessian_interval={interval}"
        assert block_length(optimizer_of(spec, tiny_corpus, tiny_config)) == steps
    assert block_length(optimizer_of("adamw", tiny_corpus, tiny_config)) == BLOCK
    assert block_length(optimizer_of("torch:AdamW", tiny_corpus, tiny_config)) == BLOCK


def test_step_times_and_operations_hold_the_estimates(tiny_corpus: Corpus, tiny_config: RunConfig) -> None:
    configs = {
        name: replace(tiny_config, optimizer=OptimizerConfig(spec, 1e-3))
        for name, spec in {
            "adamw": "torch:AdamW",
            "g": "sophia:variant=g",
            "h": "sophia:variant=h",
            "adahessian": "adahessian",
            "muon": "muon",
        }.items()
    }
    found = step_times(configs, tiny_corpus.path, rounds=2)
    for name in configs:
        seconds, estimated = found["seconds"][name], found["estimate_seconds"][name]
        assert all((e > 0) == (name in ("g", "h", "adahessian")) for e in estimated)
        assert all(e + o < s for e, o, s in zip(estimated, found["optimizer_seconds"][name], seconds, strict=True))
    flops = found["flops"]
    assert flops["adamw"]["model"] == flops["g"]["model"] == flops["h"]["model"] > 0
    assert flops["adamw"]["estimates"] == flops["muon"]["estimates"] == 0 == flops["g"]["optimizer"]
    assert flops["muon"]["optimizer"] > 0
    passes = flops["g"]["model"]
    # Half a batch at every tenth step: one pass and the labels' logits for G, a second derivative for H.
    logits = 2 * (4 * 16) * 16 * tiny_corpus.vocab_size
    assert flops["g"]["estimates"] == pytest.approx((passes + logits) / 20)
    assert flops["h"]["estimates"] == pytest.approx(3 * passes / 20, rel=0.05)
    # The whole batch at every step.
    assert flops["adahessian"]["estimates"] == pytest.approx(20 * flops["h"]["estimates"])


def test_operations_are_those_of_the_formula(tiny_corpus: Corpus, tiny_config: RunConfig) -> None:
    """Six for each weight in a matrix and token, and attention's two products, forward and twice backward."""
    made = estimator(tiny_corpus, tiny_config)
    model, rows, seq, width, vocab = made.model, 4, 16, 16, tiny_corpus.vocab_size
    ids = batch(tiny_corpus, seed=0, step=0, size=rows, seq=seq)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2) - vocab * width
    expected = 6 * rows * seq * matrices + 3 * 2 * 2 * rows * seq * seq * width
    assert counted(lambda: model.loss(ids).loss.backward()) == expected
    optimizer = optimizer_of("sophia:hessian_interval=5", tiny_corpus, tiny_config)
    told = flops_per_step(lambda: model.loss(ids).loss.backward(), optimizer, made, 5)
    twice = flops_per_step(lambda: model.loss(ids).loss.backward(), optimizer, made, 10)
    assert told == twice
