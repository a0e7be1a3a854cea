import itertools
import math
import warnings

import pytest
import torch

from steepest.core.errors import BadInput, UnknownName
from steepest.schedules import SCHEDULES, factor, schedule

T, W = 100, 10


def curve(name, **options):
    return [factor(name, t, T, **options) for t in range(T)]


def test_constant_is_the_peak_throughout():
    assert curve("constant") == [1.0] * T


def test_linear_falls_in_equal_steps_and_the_last_step_still_moves():
    assert curve("linear") == pytest.approx([1 - t / T for t in range(T)], abs=1e-15)
    assert curve("linear")[-1] == pytest.approx(1 / T)


def test_cosine_equals_torchs_cosine_annealing():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T)
    for value in curve("cosine"):
        assert value == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        torchs.step()


@pytest.mark.parametrize(("name", "shape"), [("wsd", lambda q: 1 - q), ("wsd-sqrt", lambda q: 1 - math.sqrt(q))])
def test_wsd_holds_the_peak_then_falls_over_the_share_of_all_steps(name, shape):
    values = curve(name, warmup=W, decay=0.2)
    assert values[W:80] == pytest.approx([1.0] * (80 - W), abs=1e-12)
    assert values[80:] == pytest.approx([shape((t - 80) / 20) for t in range(80, T)], abs=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_wastes_no_step_and_reaches_the_peak_at_its_last(name):
    values = curve(name, warmup=W)
    assert values[:W] == pytest.approx([(t + 1) / W for t in range(W)])
    assert values[W] == 1.0


def test_decay_after_warmup_takes_the_remaining_steps():
    values = curve("cosine", warmup=W)
    assert values[W:] == pytest.approx([(1 + math.cos(math.pi * (t - W) / (T - W))) / 2 for t in range(W, T)])


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"constant"}))
def test_every_decay_ends_at_the_minimum_by_rescaling(name):
    free, floored = curve(name), curve(name, minimum=0.1)
    assert floored == pytest.approx([0.1 + 0.9 * value for value in free])
    assert factor(name, T, T, minimum=0.1) == pytest.approx(0.1)
    assert factor(name, 10 * T, T, minimum=0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_rises_after_its_warmup(name):
    values = curve(name, warmup=W, minimum=0.05)[W:]
    assert all(later <= earlier + 1e-15 for earlier, later in itertools.pairwise(values))


@pytest.mark.parametrize("name", SCHEDULES)
def test_frozen_steps_come_before_the_schedule_of_the_others(name):
    values = [factor(name, t, T + 30, W, minimum=0.1, freeze=30) for t in range(T + 30)]
    assert values[:30] == [0.0] * 30
    assert values[30:] == curve(name, warmup=W, minimum=0.1)


def test_scheduler_moves_every_group_by_one_factor_of_its_own_lr():
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.02}, {"params": [b], "lr": 3e-4}])
    scheduler = schedule(optimizer, "linear", 20, warmup=4, minimum=0.1)
    for t in range(20):
        expected = factor("linear", t, 20, 4, minimum=0.1)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.02 * expected, 3e-4 * expected])
        optimizer.step()
        scheduler.step()


def test_scheduler_continued_at_a_step_equals_the_unbroken_one():
    def fresh():
        return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)

    whole = fresh()
    scheduler = schedule(whole, "wsd-sqrt", 30, warmup=3)
    for _ in range(17):
        whole.step()
        scheduler.step()
    resumed = fresh()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a scheduler that loads before any optimizer step
        again = schedule(resumed, "wsd-sqrt", 30, warmup=3)
        again.load_state_dict(scheduler.state_dict())
        resumed.load_state_dict(whole.state_dict())
    for _ in range(13):
        assert resumed.param_groups[0]["lr"] == whole.param_groups[0]["lr"]
        for optimizer, each in ((whole, scheduler), (resumed, again)):
            optimizer.step()
            each.step()


def test_one_step_and_all_warmup_schedules_are_defined():
    assert factor("cosine", 0, 1) == 1.0
    assert [factor("linear", t, 4, 4) for t in range(4)] == [0.25, 0.5, 0.75, 1.0]


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
    ],
)
def test_bad_values_are_named_in_one_line(arguments, words):
    with pytest.raises(BadInput, match=words) as caught:
        factor(**arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownName, match="'cosine'"):
        factor("cosin", 0, 10)
