"""What engines keep between steps: it follows what happens to weights and state, and costs little memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from cases import same, walk, weights
from torch import Tensor

import steepest
from steepest import engines
from steepest.core.errors import SlowEngine
from steepest.core.rule import Rule, Slot, Step, choice, number
from steepest.engines import ENGINES, why_not_compiled
from steepest.faces import face
from steepest.optimizer import Optimizer

EAGER = ("loop", "batched")
ENGINE = pytest.mark.parametrize("engine", [n for n in ENGINES if n in EAGER or not why_not_compiled()])


@dataclass(frozen=True)
class Delayed(Rule):
    """Descends along the gradient of the step before: one slot becomes another."""

    scope = "element"
    lr: float = number(0.1, "learning rate", grid=(0.1,))

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"now": Slot(shape), "before": Slot(shape), "start": Slot(shape)}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return state["before"], {"now": g, "before": state["now"], "start": w}


@dataclass(frozen=True)
class Swapped(Delayed):
    """Two slots change places at every step."""

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return state["before"], {"now": state["before"], "before": state["now"] + g, "start": state["start"]}


@dataclass(frozen=True)
class Normalised(Rule):
    """Descends along the gradient brought to unit norm: the tensor is seen whole, whatever its shape."""

    scope = "tensor"
    lr: float = number(0.1, "learning rate", grid=(0.1,))

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"norm": Slot(())}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        norm = g.norm()
        return g / (norm + 1e-8), {"norm": norm}


@dataclass(frozen=True)
class Halting(Rule):
    """Looks at a value in Python, which no tape and no compiler can record."""

    scope = "element"
    lr: float = number(0.1, "learning rate", grid=(0.1,))

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return (g if bool(g.isfinite().all()) else torch.zeros_like(g)), {}


@dataclass(frozen=True)
class Reflected(Halting):
    """Numbers on the left of an operator, each time another function of torch."""

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return (2.0 - g) + 1 / (3.0 + w * w) - 2.0**w * (0.5 / (2.0 + g * g)), {}


@dataclass(frozen=True)
class Noisy(Rule):
    """Stochastic gradient Langevin dynamics in its simplest form, and a coin per element."""

    scope = "element"
    draws: ClassVar = {"noise": "uniform", "coin": "rademacher"}
    lr: float = number(0.1, "learning rate", grid=(0.1,))
    seed: int = choice(0, "seed of the random draws", low=0)

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return g + step.coin * step.noise, {}


@dataclass(frozen=True)
class NoisyNorm(Noisy):
    """The same on whole tensors, which are stacked and not joined."""

    scope = "tensor"

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return g / (1 + g.norm()) + step.coin * step.noise, {}


def walked(rule: type[Rule], engine: str, steps: int = 4) -> dict[str, torch.nn.Parameter]:
    named = weights()
    walk(face(rule)(list(named.items()), engine=engine), named, steps)
    return named


@ENGINE
@pytest.mark.parametrize("rule", [Delayed, Swapped], ids=lambda r: r.__name__)
def test_a_slot_handed_to_another_is_read_before_it_is_written(rule: type[Rule], engine: str) -> None:
    named = {"w": torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))}
    optimizer = face(rule)(list(named.items()), lr=1.0, engine=engine)
    given = [1.0, 10.0, 100.0, 1000.0]
    moved = []
    for g in given:
        before = named["w"].detach().clone()
        named["w"].grad = torch.full((3,), g, dtype=torch.float64)
        optimizer.step()
        moved.append(float((before - named["w"].detach())[0]))
    # Swapped adds the gradient to the slot that has just been swapped in: 0, 1, 10, 101.
    assert moved == ([0.0, 0.0, 1.0, 10.0] if rule is Delayed else [0.0, 1.0, 10.0, 101.0])


@ENGINE
def test_a_rule_of_whole_tensors_gives_the_loops_result(engine: str) -> None:
    for name, w in walked(Normalised, "loop").items():
        torch.testing.assert_close(walked(Normalised, engine)[name], w, rtol=1e-12, atol=1e-14)


def large() -> dict[str, torch.nn.Parameter]:
    """Weights that are cut to blocks, joined, stacked, strided and alone."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"cut": (300, 500), "strided": (400, 300), "a": (20, 30), "b": (20, 30), "c": (7,), "d": ()}
    named = {n: torch.nn.Parameter(torch.randn(s, generator=draw)) for n, s in shapes.items()}
    named["strided"] = torch.nn.Parameter(named["strided"].detach().t())
    return named


@ENGINE
@pytest.mark.parametrize("rule", [Noisy, NoisyNorm], ids=lambda r: r.__name__)
def test_random_draws_are_the_same_however_weights_are_cut_and_joined(rule: type[Rule], engine: str) -> None:
    loop, other, reseeded = large(), large(), large()
    walk(face(rule)(list(loop.items()), engine="loop"), loop, 2)
    walk(face(rule)(list(other.items()), engine=engine), other, 2)
    walk(face(rule)(list(reseeded.items()), engine=engine, seed=1), reseeded, 2)
    for name, w in loop.items():
        torch.testing.assert_close(other[name], w, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(reseeded[name], w, rtol=1e-6, atol=1e-6)
    assert rule is not Noisy or same(loop, other)


def test_two_weights_of_one_shape_get_different_draws_and_every_step_new_ones() -> None:
    named = {n: torch.nn.Parameter(torch.zeros(50)) for n in ("a", "b")}
    optimizer = face(Noisy)(list(named.items()), lr=1.0)
    drawn = []
    for _ in range(2):
        before = {n: p.detach().clone() for n, p in named.items()}
        for p in named.values():
            p.grad = torch.zeros(50)
        optimizer.step()
        drawn += [before[n] - p.detach() for n, p in named.items()]
    assert all(not torch.allclose(x, y) for i, x in enumerate(drawn) for y in drawn[:i])


@ENGINE
def test_spread_refreshes_give_the_loops_result_and_no_step_refreshes_all(engine: str) -> None:
    def made(name: str) -> tuple[dict[str, torch.nn.Parameter], Optimizer]:
        draw = torch.Generator().manual_seed(0)
        named = {
            f"h.{i}.attn.q.weight": torch.nn.Parameter(torch.randn(6, 6, generator=draw, dtype=torch.float64))
            for i in range(7)
        }
        soap = steepest.SOAP(list(named.items()), precondition_frequency=3, spread=True, engine=name)
        return named, soap

    loop, reference = made("loop")
    named, optimizer = made(engine)
    walk(reference, loop, 1)
    walk(optimizer, named, 1)
    for t in range(1, 7):
        bases = {n: optimizer.state[p]["Q_left"].clone() for n, p in named.items()}
        walk(reference, loop, 1, start=t)
        walk(optimizer, named, 1, start=t)
        turned = [n for n, p in named.items() if not torch.equal(bases[n], optimizer.state[p]["Q_left"])]
        assert 2 <= len(turned) <= 3
    for name, w in loop.items():
        torch.testing.assert_close(named[name], w, rtol=1e-8, atol=1e-10)


def test_without_a_compiler_auto_says_once_what_is_missing_and_gives_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = weights()
    walk(steepest.AdamW(list(fast.items())), fast, 2)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(importlib.import_module("steepest.engines.native"), "KERNELS", {})
    engines.say_slow.cache_clear()
    slow = weights()
    with pytest.warns(SlowEngine, match=r"CXX='no-such-compiler' is not found.* 2 to 4 times slower") as said:
        walk(steepest.AdamW(list(slow.items())), slow, 1)
        walk(steepest.Lion(list(weights().items())), weights(), 1)
    assert len(said) == 1
    engines.say_slow.cache_clear()
    with pytest.warns(SlowEngine):
        walk(steepest.AdamW(list((again := weights()).items())), again, 2)
    for name, w in fast.items():
        torch.testing.assert_close(again[name], w, rtol=1e-12, atol=1e-14)


def test_equal_shapes_of_a_rule_of_whole_tensors_run_as_one() -> None:
    seen: list[tuple[int, ...]] = []

    @dataclass(frozen=True)
    class Watched(Normalised):
        def update(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> Any:
            seen.append(tuple(g.shape))
            return super().update(g, w, step, state)

    walked(Watched, "batched", 1)
    assert len(seen) == len({tuple(p.shape) for p in weights().values()})


def test_a_text_that_no_tape_can_record_runs_as_it_is() -> None:
    assert same(walked(Halting, "loop"), walked(Halting, "batched"))


@ENGINE
def test_a_number_on_the_left_of_an_operator_counts(engine: str) -> None:
    loop, other = walked(Reflected, "loop"), walked(Reflected, engine)
    for name, w in loop.items():
        torch.testing.assert_close(other[name], w, rtol=1e-12, atol=1e-12)


@ENGINE
def test_weights_that_were_given_other_memory_are_moved_there(engine: str) -> None:
    plain, moved = weights(), weights()
    first, second = (steepest.AdamW(list(w.items()), engine=engine) for w in (plain, moved))
    walk(first, plain, 4)
    walk(second, moved, 2)
    for p in moved.values():
        p.data = p.data.clone()
    walk(second, moved, 2, start=2)
    assert same(plain, moved)


@ENGINE
@pytest.mark.parametrize("name", ["AdamW", "Muon"])
def test_no_gradient_outlives_the_step_once_its_owner_drops_it(name: str, engine: str) -> None:
    named = weights() | {"large": torch.nn.Parameter(torch.zeros(300, 300, dtype=torch.float64))}
    optimizer = getattr(steepest, name)(list(named.items()), engine=engine)
    walk(optimizer, named, 2)
    optimizer.zero_grad(set_to_none=True)

    def step_and_drop() -> None:
        walk(optimizer, named, 1, start=2)
        optimizer.zero_grad(set_to_none=True)

    assert memory(step_and_drop)[1] == 0


@ENGINE
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_put_in_by_hand_is_what_the_next_step_uses(name: str, engine: str) -> None:
    def stepped(put: Callable[[Optimizer, Tensor], None]) -> dict[str, torch.nn.Parameter]:
        named = weights()
        optimizer = getattr(steepest, {"adamw": "AdamW", "muon": "Muon"}[name])(list(named.items()), engine=engine)
        walk(optimizer, named, 2)
        put(optimizer, named["blocks.1.attn.q.weight"])
        walk(optimizer, named, 2, start=2)
        return named

    slot = "exp_avg" if name == "adamw" else "momentum_buffer"

    def replace(optimizer: Optimizer, p: Tensor) -> None:
        optimizer.state[p][slot] = torch.ones_like(p)

    def fill(optimizer: Optimizer, p: Tensor) -> None:
        optimizer.state[p][slot].fill_(1.0)

    assert same(stepped(replace), stepped(fill))
    assert not same(stepped(replace), stepped(lambda *_: None))


@ENGINE
def test_a_step_count_set_by_hand_counts(engine: str) -> None:
    named, other = weights(), weights()
    one, two = (steepest.AdamW(list(w.items()), engine=engine) for w in (named, other))
    walk(one, named, 2)
    walk(two, other, 2)
    changed = "norm.weight"
    two.state[other[changed]]["step"].fill_(100.0)
    walk(one, named, 1, start=2)
    walk(two, other, 1, start=2)
    assert not torch.equal(named[changed], other[changed])
    assert all(torch.equal(named[n], other[n]) for n in named if n != changed)
    assert two.state[other[changed]]["step"] == 101


@ENGINE
def test_a_saved_tensor_carries_no_neighbours_memory(engine: str) -> None:
    named = weights()
    optimizer = steepest.Muon(list(named.items()), engine=engine)
    walk(optimizer, named, 2)
    for state in optimizer.state_dict()["state"].values():
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in state.values())


def memory(run: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that torch's CPU allocator held beyond what it held at the start: at most, and in the end."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most, held


@ENGINE
@pytest.mark.parametrize("name", ["AdamW", "Lion", "SGD", "Muon", "SOAP"])
def test_a_step_needs_at_most_one_more_copy_of_its_largest_bucket(name: str, engine: str) -> None:
    if engine == "loop":
        pytest.skip("the loop joins nothing, and says that it takes copies of the largest piece")
    shapes = [(256, 256)] * 6 + [(512, 256)] * 4 + [(256,)] * 20
    if name not in ("Muon", "SOAP"):
        shapes.append((1024, 1024))
    named = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    groups: list[Any] = [p for p in named if p.ndim == 2] if name in ("Muon", "SOAP") else named
    optimizer = getattr(steepest, name)(groups, engine=engine)
    for p in named:
        p.grad = torch.randn_like(p)
    optimizer.step()
    optimizer.step()
    copies = 2 + len(optimizer.state[groups[0]]) - 1
    buckets = {}
    for p in groups:
        size = p.numel() * p.element_size() * copies
        buckets[p.shape] = buckets.get(p.shape, 0) + size
    numbers = 4096  # of single numbers; how many are alive at once depends on the processor's kernels
    assert 0 <= memory(optimizer.step)[0] <= max(buckets.values()) + numbers


def test_the_profile_that_measures_memory_sees_an_allocation() -> None:
    assert memory(lambda: torch.empty(1 << 20)) == (4 << 20, 0)
