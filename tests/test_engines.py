"""What engines keep between steps: it follows what happens to weights and state, and costs little memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import same, walk, weights
from torch import Tensor

import steepest
from steepest.core.rule import Rule, Slot, Step, number
from steepest.engines import ENGINES, why_not_compiled
from steepest.optimizer import Optimizer, face

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


def peak(run: Callable[[], Any]) -> int:
    """Most bytes that torch's CPU allocator held beyond what it held at the start."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


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
    assert 0 <= peak(optimizer.step) <= max(buckets.values())


def test_the_profile_that_measures_memory_sees_an_allocation() -> None:
    assert peak(lambda: torch.empty(1 << 20)) >= 4 << 20
