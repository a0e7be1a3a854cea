"""Schedules: their values, their conventions, and torch's and other programs' factors, step for step."""

from __future__ import annotations

import io
import itertools
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from steepest import schedules
from steepest.core.errors import BadInput, UnknownName
from steepest.schedules import SCHEDULES, Schedule, factor, known_options, named, schedule
from steepest.tables import schedule_of
from steepest.verify import verify

T, W = 100, 10
ORACLES = Path(__file__).parent / "oracles"
TABLE = ORACLES / "schedules" / "factors_T100_W10.npz"
with np.load(TABLE) as archive:
    RECORDED = {key: archive[key] for key in archive.files}
COUNTED = sorted(name for name in SCHEDULES if "rise" not in SCHEDULES[name].sets)
TO_ZERO = sorted(name for name in COUNTED if SCHEDULES[name].options.keys() <= {"d", "power"})


def curve(name: str, **options: Any) -> list[float]:
    return [factor(name, t, T, **options) for t in range(T)]


def sgd(lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def walked(scheduler: Any, steps: int = T) -> list[float]:
    """The learning rate that each step uses."""
    rates = []
    for _ in range(steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


# ---- what is recorded of other programs


@pytest.mark.parametrize("key", sorted(RECORDED))
def test_every_recorded_factor_is_met(key: str) -> None:
    made = schedule_of(key, T, W)
    assert made is not None
    assert [made(t) for t in range(T)] == pytest.approx(RECORDED[key].tolist(), abs=1e-12, rel=0)


def test_the_kit_replays_the_table_and_finds_one_changed_factor(tmp_path: Path) -> None:
    folder = tmp_path / "schedules"
    folder.mkdir()
    told = json.loads(TABLE.with_suffix(".json").read_text())
    assert set(told["keys"]) == set(RECORDED)
    told["keys"]["one_that_nobody_knows"] = {}
    (folder / TABLE.with_suffix(".json").name).write_text(json.dumps(told))
    np.savez(
        folder / TABLE.name,
        **RECORDED | {"rex": RECORDED["rex"] + 1e-8 * (np.arange(T) == 40)},
        one_that_nobody_knows=np.ones(T),
    )
    found = {v.variant: v for v in verify(tmp_path, engine="all")}
    assert found["rex"].status == "fail" and "entry 40" in found["rex"].reason
    assert found["one_that_nobody_knows"].status == "not implemented"
    others = [v.status for key, v in found.items() if key not in ("rex", "one_that_nobody_knows")]
    assert others == ["pass"] * (len(RECORDED) - 1)
    assert [v.variant for v in verify(tmp_path, only="schedules/linear")] == ["linear"]


def test_a_key_of_a_table_without_its_array_fails_by_name(tmp_path: Path) -> None:
    (tmp_path / "schedules").mkdir()
    told = {"keys": {"rex": {}, "linear": {}}, "variant": "t", "rtol_suggested": 1e-9}
    (tmp_path / "schedules" / "t.json").write_text(json.dumps(told))
    np.savez(tmp_path / "schedules" / "t.npz", linear=RECORDED["linear"])
    assert {v.variant: v.status for v in verify(tmp_path)} == {"rex": "fail", "linear": "pass"}


# ---- torch's own schedulers, factor for factor

STEPS = [30, 60, 90]
TORCHS = {
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, T), named("cosine", T)),
    "cosine to a minimum": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, T, eta_min=0.1),
        named("cosine", T, minimum=0.1),
    ),
    "milestones": (
        lambda o: lr_scheduler.MultiStepLR(o, STEPS, gamma=0.3),
        named("step", T, milestones=[m / T for m in STEPS], gamma=0.3),
    ),
    "exponential": (lambda o: lr_scheduler.ExponentialLR(o, 0.95), named("exponential", T, final=0.95**T)),
    "polynomial": (lambda o: lr_scheduler.PolynomialLR(o, T, power=3.0), named("polynomial", T, power=3)),
    "one cycle": (
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=T, cycle_momentum=False),
        named("one-cycle", T, 0.3 * T),
    ),
    "one cycle, linear, other ends": (
        lambda o: lr_scheduler.OneCycleLR(
            o,
            1.0,
            total_steps=T,
            pct_start=0.455,
            div_factor=8,
            final_div_factor=50,
            anneal_strategy="linear",
            cycle_momentum=False,
        ),
        named("one-cycle-linear", T, 0.455 * T, start=1 / 8, minimum=1 / 400),
    ),
    "warm-up, then cosine": (
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.2, total_iters=W), lr_scheduler.CosineAnnealingLR(o, T - W)],
            [W],
        ),
        named("cosine", T, W, start=0.2),
    ),
    "our warm-up, then linear": (
        lambda o: lr_scheduler.SequentialLR(
            o,
            [
                lr_scheduler.LinearLR(o, 1 / W, total_iters=W - 1),
                lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=T - W),
            ],
            [W],
        ),
        named("linear", T, W),
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # SequentialLR's own call
@pytest.mark.parametrize("case", TORCHS)
def test_torchs_scheduler_gives_the_same_rates(case: str) -> None:
    theirs, ours = TORCHS[case]
    rates = walked(theirs(sgd()))
    assert [ours(t) for t in range(T)] == pytest.approx(rates, abs=1e-12)
    assert walked(ours.scheduler(sgd())) == pytest.approx(rates, abs=1e-12)


def test_scheduler_moves_every_group_by_one_factor_of_its_own_lr() -> None:
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.02}, {"params": [b], "lr": 3e-4}])
    scheduler = schedule(optimizer, "linear", 20, warmup=4, minimum=0.1)
    for t in range(20):
        expected = factor("linear", t, 20, 4, minimum=0.1)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.02 * expected, 3e-4 * expected])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_scheduler_loaded_from_a_file_goes_on_as_the_unbroken_one(name: str) -> None:
    whole = schedule(sgd(0.5), name, 30, warmup=3)
    walked(whole, 17)
    file = io.BytesIO()
    torch.save((whole.state_dict(), whole.optimizer.state_dict()), file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a scheduler that loads before any optimizer step
        again = schedule(sgd(0.5), name, 30, warmup=3)
        state, groups = torch.load(file, weights_only=True)
        again.load_state_dict(state)
        again.optimizer.load_state_dict(groups)
    assert walked(again, 13) == walked(whole, 13)


def test_a_checkpoint_does_not_put_its_own_schedule_over_the_one_that_is_asked_for() -> None:
    """A run that is made longer continues under the longer schedule."""
    short = schedule(sgd(), "wsd", 30)
    walked(short, 10)
    longer = schedule(sgd(), "wsd", 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        longer.load_state_dict(short.state_dict())
        longer.optimizer.load_state_dict(short.optimizer.state_dict())
    assert walked(longer, 50) == pytest.approx([factor("wsd", t, 60) for t in range(10, 60)])


def test_it_chains_with_torchs_schedulers() -> None:
    optimizer = sgd()
    chained = lr_scheduler.ChainedScheduler(
        [schedule(optimizer, "rex", T, W), lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=4)]
    )
    # LambdaLR writes its own rate, so the other must come after it, and says so by its factor at the start.
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * factor("rex", 0, T, W))
    optimizer.step()
    chained.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(factor("rex", 1, T, W))
    optimizer = sgd()
    tail = lr_scheduler.ConstantLR(optimizer, 0.25, total_iters=T)
    after = lr_scheduler.SequentialLR(optimizer, [schedule(optimizer, "linear", 20), tail], [20])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR's own call
        assert walked(after, 25) == pytest.approx([1 - t / 20 for t in range(20)] + [0.25] * 5)


# ---- our conventions


def test_constant_is_the_peak_throughout() -> None:
    assert curve("constant") == [1.0] * T


def test_linear_falls_in_equal_steps_and_the_last_step_still_moves() -> None:
    assert curve("linear") == pytest.approx([1 - t / T for t in range(T)], abs=1e-15)
    assert curve("linear")[-1] == pytest.approx(1 / T)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("wsd", lambda q: 1 - q),
        ("wsd-sqrt", lambda q: 1 - math.sqrt(q)),
        ("wsd-square", lambda q: 1 - q * q),
        ("wsd-exponential", lambda q: 0.01**q),
    ],
)
def test_wsd_holds_the_peak_then_falls_over_the_share_of_all_steps(name: str, shape: Any) -> None:
    values = curve(name, warmup=W, decay=0.2)
    assert values[W:80] == pytest.approx([1.0] * (80 - W), abs=1e-12)
    assert values[80:] == pytest.approx([shape((t - 80) / 20) for t in range(80, T)], abs=1e-12)


@pytest.mark.parametrize("name", COUNTED)
def test_warmup_wastes_no_step_and_reaches_the_peak_at_its_last(name: str) -> None:
    values = curve(name, warmup=W)
    assert values[:W] == pytest.approx([(t + 1) / W for t in range(W)])
    assert values[W] == 1.0


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("start", [0.0, 0.01, 1.0])
def test_a_start_is_the_factor_of_step_0_and_the_peak_is_met(name: str, start: float) -> None:
    values = curve(name, warmup=W, start=start)
    assert values[0] == pytest.approx(start, abs=1e-15)
    assert max(values) == pytest.approx(1.0)
    peak = W - 1 if name.startswith("one-cycle") else W
    assert values[peak] == pytest.approx(1.0)


def test_decay_after_warmup_takes_the_remaining_steps_or_goes_by_all() -> None:
    rest, whole = curve("cosine", warmup=W), curve("cosine", warmup=W, over="all")
    assert rest[W:] == pytest.approx([(1 + math.cos(math.pi * (t - W) / (T - W))) / 2 for t in range(W, T)])
    assert whole == pytest.approx([min(1, (t + 1) / W) * (1 + math.cos(math.pi * t / T)) / 2 for t in range(T)])


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"constant"}))
def test_the_minimum_is_met_by_rescaling_adding_or_clamping(name: str) -> None:
    free = curve(name, minimum=0.0)
    assert curve(name, minimum=0.1) == pytest.approx([0.1 + 0.9 * value for value in free])
    assert curve(name, minimum=0.1, floor="add") == pytest.approx([0.1 + value for value in free])
    assert curve(name, minimum=0.1, floor="clamp") == pytest.approx([max(0.1, value) for value in free])


@pytest.mark.parametrize("name", sorted(set(TO_ZERO) - {"constant"}))
def test_every_decay_to_zero_ends_at_the_minimum_and_stays_there(name: str) -> None:
    assert factor(name, T, T, minimum=0.1) == pytest.approx(0.1)
    assert factor(name, 10 * T, T, minimum=0.1) == pytest.approx(0.1)


def test_a_tail_stays_at_the_end_of_the_decay() -> None:
    values = curve("rex", warmup=W, tail=0.3, minimum=0.05)
    assert values[70:] == pytest.approx([0.05] * 30)
    assert values[W:70] == pytest.approx([0.05 + 0.95 * schedules.rex(i / 60) for i in range(60)])


@pytest.mark.parametrize("sampling", [1, 7, (0.2, 0.7)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_rises_after_its_warmup(name: str, sampling: Any) -> None:
    values = curve(name, warmup=W, minimum=0.05, sampling=sampling)[W:]
    assert all(later <= earlier + 1e-15 for earlier, later in itertools.pairwise(values))


@pytest.mark.parametrize("name", SCHEDULES)
def test_frozen_steps_come_before_the_schedule_of_the_others(name: str) -> None:
    values = [factor(name, t, T + 30, W, minimum=0.1, freeze=30) for t in range(T + 30)]
    assert values[:30] == [0.0] * 30
    assert values[30:] == curve(name, warmup=W, minimum=0.1)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_shortest_runs_have_factors(name: str, total: int) -> None:
    shared = {"decay", "tail"} & SCHEDULES[name].sets.keys()  # they need what a warm-up of all steps would take
    for warmup in range(1 if shared else total + 1):
        made = named(name, total, warmup)
        assert all(0 <= made(t) <= 1 for t in range(3 * total))


def test_one_step_and_all_warmup_schedules_are_defined() -> None:
    assert factor("cosine", 0, 1) == 1.0
    assert [factor("rex", t, 2) for t in range(2)] == [1.0, pytest.approx(2 / 3)]
    assert [factor("linear", t, 4, 4) for t in range(4)] == [0.25, 0.5, 0.75, 1.0]


# ---- REX, and a schedule as a profile and how often it is read


def test_rex_has_the_values_of_its_paper() -> None:
    points = {0: 1, 0.1: 18 / 19, 0.25: 6 / 7, 0.5: 2 / 3, 0.75: 0.4, 0.9: 2 / 11, 1: 0}
    for x, value in points.items():
        assert schedules.rex(x) == pytest.approx(value, abs=1e-12)
        assert schedules.rex(x) == pytest.approx((1 - x) / (0.5 + 0.5 * (1 - x)), abs=1e-15)
    assert np.mean([schedules.rex((n + 0.5) / 10_000) for n in range(10_000)]) == pytest.approx(
        2 - 2 * math.log(2), abs=1e-8
    )


@given(st.floats(-3.0, 0.99), st.floats(0.02, 0.98))
def test_rex_falls_and_bends_down_for_d_above_0_and_up_below(d: float, x: float) -> None:
    h = 1e-3
    before, here, after = (schedules.rex(x + step, d=d) for step in (-h, 0, h))
    assert before > here > after
    second = 2 * d * (d - 1) / (1 - d * x) ** 3
    assert (before + after - 2 * here) / h**2 == pytest.approx(second, rel=0.05, abs=1e-4)


def test_rex_begins_and_ends_at_the_slopes_of_its_d() -> None:
    for d in (0.0, 0.5, 0.9):
        h = 1e-7
        assert (schedules.rex(h, d=d) - 1) / h == pytest.approx(d - 1, abs=1e-5)
        assert -schedules.rex(1 - h, d=d) / h == pytest.approx(-1 / (1 - d), rel=1e-4)


def test_rex_without_d_is_linear() -> None:
    assert curve("rex", d=0) == curve("linear")


def test_a_step_decay_is_a_profile_that_is_read_seldom() -> None:
    read = curve("linear", sampling=[0.5, 0.75])
    assert read == [1.0] * 50 + [0.5] * 25 + [0.25] * 25
    seldom = named("exponential", T, final=0.01, sampling=[0.5])
    assert [seldom(t) for t in range(T)] == pytest.approx(
        [factor("step", t, T, milestones=[0.5], gamma=0.1) for t in range(T)]
    )


def test_a_profile_that_is_read_every_k_steps_holds_in_between() -> None:
    fine, coarse = curve("rex", warmup=W), curve("rex", warmup=W, sampling=7)
    assert coarse[W:] == pytest.approx([fine[W + 7 * (i // 7)] for i in range(T - W)])
    assert curve("rex", sampling=1) == curve("rex")


def test_a_profile_of_ones_own_is_a_function_of_progress() -> None:
    made = Schedule(8, lambda x: 1 - x**3, decay=0.5)
    assert [made(t) for t in range(8)] == pytest.approx([1] * 5 + [1 - (n / 4) ** 3 for n in (1, 2, 3)])


def test_the_expected_error_on_a_noisy_quadratic_follows_its_recursion() -> None:
    """e <- (1 - η h)² e + (η σ)²: what a schedule does to SGD, exactly; here against the thing itself."""
    h, sigma, total, peak = 1.0, 0.5, 60, 0.3
    generator = torch.Generator().manual_seed(0)
    w = torch.ones(20_000, dtype=torch.float64)
    expected = 1.0
    for t in range(total):
        lr = peak * factor("rex", t, total, 5)
        noise = torch.randn(w.shape, dtype=torch.float64, generator=generator)
        w = w - lr * (h * w + sigma * noise)
        expected = (1 - lr * h) ** 2 * expected + (lr * sigma) ** 2
    assert float(w.square().mean()) == pytest.approx(expected, rel=0.03)


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(name="cosine", step=-1, total=10), "step=-1"),
        (dict(name="cosine", step=0, total=0), "total=0"),
        (dict(name="cosine", step=0, total=10, warmup=11), "warmup=11"),
        (dict(name="cosine", step=0, total=10, freeze=10), "freeze=10"),
        (dict(name="cosine", step=0, total=10, freeze=-1), "freeze=-1"),
        (dict(name="cosine", step=0, total=10, freeze=4, warmup=7), "warmup=7"),
        (dict(name="cosine", step=0, total=10, minimum=1.5), "minimum=1.5"),
        (dict(name="cosine", step=0, total=10, minimum=math.nan), "minimum=nan"),
        (dict(name="wsd", step=0, total=10, decay=0.0), "decay=0.0"),
        (dict(name="wsd", step=0, total=10, warmup=2, decay=0.9), "no room for warmup=2"),
        (dict(name="cosine", step=0, total=10, warmup=5, tail=0.6), "tail=0.6"),
        (dict(name="cosine", step=0, total=10, tail=1.0), "tail=1.0"),
        (dict(name="rex", step=0, total=10, d=1.0), "d=1.0"),
        (dict(name="rex", step=0, total=10, d="half"), "d='half'"),
        (dict(name="exponential", step=0, total=10, final=0), "final=0"),
        (dict(name="polynomial", step=0, total=10, power=math.inf), "power=inf"),
        (dict(name="inverse-sqrt", step=0, total=10, timescale=-1), "timescale=-1"),
        (dict(name="step", step=0, total=10, milestones=[0.7, 0.5]), "milestones="),
        (dict(name="step", step=0, total=10, milestones=[30, 60]), "milestones="),
        (dict(name="step", step=0, total=10, gamma=2), "gamma=2"),
        (dict(name="cosine", step=0, total=10, start=-0.1), "start=-0.1"),
        (dict(name="cosine", step=0, total=10, sampling=0), "sampling=0"),
        (dict(name="cosine", step=0, total=10, sampling=[0.5, 1.5]), "sampling="),
        (dict(name="cosine", step=0, total=10, sampling=True), "sampling=True"),
    ],
)
def test_bad_values_are_named_in_one_line(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        factor(**arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cosin", {}, "'cosine'"),
        ("rex", {"start_": 0}, "'schedule.start'"),
        ("cosine", {"power": 2}, "'schedule.power'"),
        ("cosine", {"floor": "rescaled"}, "'rescale'"),
        ("cosine", {"over": "al"}, "'all'"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UnknownName, match=words):
        factor(name, 0, 10, **options)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedules_own_defaults_change_nothing_when_they_are_given(name: str) -> None:
    assert curve(name, warmup=W, **known_options(name)) == pytest.approx(curve(name, warmup=W), abs=1e-15)
