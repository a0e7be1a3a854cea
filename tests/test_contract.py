"""What a rule may declare beyond a direction from a gradient, and that every engine keeps to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import torch
from cases import give_gradients, walk, weights
from torch import Tensor

from steepest import estimates
from steepest.core.errors import BadInput, UnknownName
from steepest.core.rule import Ask, Draw, Rule, Slot, Step, choice, number, run_length
from steepest.engines import ENGINES, why_not_compiled
from steepest.engines.draws import replayed
from steepest.faces import face
from steepest.registry import _of_rule, resolve

ENGINE = pytest.mark.parametrize("engine", [n for n in ENGINES if n != "compiled" or not why_not_compiled()])


@dataclass(frozen=True)
class Plain(Rule):
    scope = "element"
    lr: float = number(0.1, "learning rate", grid=(0.1,))
    gain: float = number(1.0, "factor of the gradient")

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {}

    def update(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> Any:
        return self.gain * g, state


@dataclass(frozen=True)
class Writer(Plain):
    """Moves by lr^2, and pulls to 1 instead of 0: no engine could do it for it."""

    @property
    def writes_weight(self) -> bool:
        return True

    def update(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> Any:
        return w - self.lr * self.lr * g - self.weight_decay * (w - 1), state


@dataclass(frozen=True)
class Clipped(Plain):
    """Descends along the gradient of the whole model, brought to norm 1, and by its largest entry."""

    scope = "matrix"

    @property
    def totals(self) -> Mapping[str, Literal["sum", "max"]]:
        return {"squares": "sum", "largest": "max"}

    def contribution(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"squares": g.square().sum(), "largest": g.abs().amax()}

    def update(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> Any:
        return g / step.squares.sqrt() + step.largest, state


@dataclass(frozen=True)
class Sketched(Plain):
    """Draws a probe of another shape than the weight's, in every second step."""

    scope = "matrix"
    seed: int = choice(0, "seed of the random draws", low=0)

    def phase(self, t: int, turn: int = 0) -> str:
        return "drawn" if t % 2 else ""

    def randoms(self, shape: tuple[int, ...], phase: str) -> dict[str, Draw]:
        probes = {
            "probe": Draw("normal", (*shape[:-2], shape[-1], 3)),
            "coin": Draw("uniform", (*shape[:-2], 1, 1)),
        }
        return probes if phase else {}

    def update(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> Any:
        if step.phase == "drawn":
            g = (g @ step.probe) @ step.probe.mT + step.coin
        return g, state


@dataclass(frozen=True)
class Curious(Plain):
    """Adds the last measurement to the gradient; asks after every second step."""

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"seen": Slot(shape)}

    def asks(self, t: int) -> tuple[Ask, ...]:
        return (Ask("hutchinson", "before"),) if t % 2 == 0 else ()

    def observe(self, kind: str, x: Tensor, w: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"seen": state["seen"] + x}

    def update(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> Any:
        return g + state["seen"], state


@dataclass(frozen=True)
class Eager(Curious):
    """Wants measurements for the steps 1, 4, 7, ... too, and reads them in these."""

    def needs(self, t: int) -> tuple[Ask, ...]:
        return (Ask("hutchinson", "before", probe="rademacher", whole=True),) if t % 3 == 1 else ()


@dataclass(frozen=True)
class Ramped(Plain):
    """Reaches its full step at the end of the run."""

    total_steps: int | None = number(None, "steps of the run")
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"own": {}, "ten": {"total_steps": 10}}

    def corrections(self, t: int) -> dict[str, float]:
        return {"ramp": t / run_length(self)}

    def update(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> Any:
        return step.ramp * g, state


@dataclass(frozen=True)
class Shared(Plain):
    """Its own for hidden matrices and embeddings, other hyperparameters for the head."""

    scope = "matrix"
    companion: ClassVar[Mapping[str, Any] | None] = {"lr_ratio": 0.5}
    by_role: ClassVar[Mapping[str, Mapping[str, Any]]] = {"head": {"gain": 2.0, "lr_ratio": 0.1}}
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"all": {}, "q": {"by_role": {"q": {"gain": 5.0}}}}

    def takes(self, role: str) -> bool:
        return role not in ("norm", "bias", "vector")


def grads(named: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


@ENGINE
def test_a_rule_that_writes_the_weight_is_left_alone_by_decay_and_learning_rate(engine: str) -> None:
    named, before = weights(), weights()
    give_gradients(named, 0)
    face(Writer)(list(named.items()), lr=0.5, weight_decay=0.25, engine=engine).step()
    for name, g in grads(named).items():
        expected = before[name] - 0.25 * g - 0.25 * (before[name] - 1)
        torch.testing.assert_close(named[name].detach(), expected.detach())


@ENGINE
def test_totals_are_over_all_weights_of_all_groups(engine: str) -> None:
    named, before = weights(), weights()
    names = list(named)
    groups = [
        {"params": [(n, named[n]) for n in part], "lr": lr} for part, lr in ((names[:4], 1.0), (names[4:], 2.0))
    ]
    give_gradients(named, 0)
    face(Clipped)(groups, engine=engine).step()
    found = grads(named)
    squares = sum(float(g.square().sum()) for g in found.values())
    largest = max(float(g.abs().max()) for g in found.values())
    for name, g in found.items():
        lr = 1.0 if name in names[:4] else 2.0
        torch.testing.assert_close(named[name].detach(), before[name].detach() - lr * (g / squares**0.5 + largest))


@pytest.mark.parametrize(
    "engine", [n for n in ENGINES if n not in ("loop", *(["compiled"] if why_not_compiled() else []))]
)
def test_draws_of_any_shape_are_the_same_in_every_engine(engine: str) -> None:
    loop, other = weights(), weights()
    walk(face(Sketched)(list(loop.items()), engine="loop"), loop, 3)
    walk(face(Sketched)(list(other.items()), engine=engine), other, 3)
    for name in loop:
        torch.testing.assert_close(other[name], loop[name], rtol=1e-8, atol=1e-10)


def test_a_recorded_draw_replaces_the_counters_for_its_piece_and_step_alone() -> None:
    named, other = weights(), weights()
    ours, theirs = face(Sketched)(list(named.items())), face(Sketched)(list(other.items()))
    index = theirs.first_pieces()[other["head.weight"]]
    probe = torch.zeros(4, 3, dtype=torch.float64)
    with replayed(lambda t, i: {"probe": probe} if (t, i) == (1, index) else {}):
        walk(theirs, other, 1)
    walk(ours, named, 1)
    differ = [name for name in named if not torch.equal(named[name], other[name])]
    assert differ == ["head.weight"]


def test_what_a_rule_asks_for_is_told_before_the_step_and_taken_after_it() -> None:
    named = weights()
    optimizer = face(Curious)(list(named.items()))
    assert optimizer.asks() == ()
    walk(optimizer, named, 1)
    (ask,) = optimizer.asks()
    give_gradients(named, 1)
    optimizer.step()
    optimizer.observe(ask, {p: torch.ones_like(p) for p in named.values()})
    assert all(bool((optimizer.state[p]["seen"] == 1).all()) for p in named.values())
    walk(optimizer, named, 1, start=2)


def test_a_step_after_an_unanswered_ask_is_refused_with_what_to_do() -> None:
    named = weights()
    optimizer = face(Curious)(list(named.items()))
    walk(optimizer, named, 1)
    give_gradients(named, 1)
    optimizer.step()
    before = {name: p.detach().clone() for name, p in named.items()}
    with pytest.raises(BadInput, match=r"curious asked for hutchinson .* observe\(ask"):
        optimizer.step()
    assert all(torch.equal(before[name], p) for name, p in named.items())


def test_what_a_step_reads_itself_is_owed_before_it_and_before_no_other() -> None:
    named = weights()
    optimizer = face(Eager)(list(named.items()))
    owed = []
    for t in range(1, 8):
        give_gradients(named, t)
        if t % 3 == 1:
            with pytest.raises(BadInput, match=r"eager asked for hutchinson .* owed\(\)"):
                optimizer.step()
        owed.append(optimizer.owed())
        for ask in owed[-1]:
            optimizer.observe(ask, {p: torch.ones_like(p) for p in named.values()})
            assert all(bool((optimizer.state[p]["seen"] > 0).all()) for p in named.values())
        assert optimizer.owed() == ()
        asked = optimizer.asks()
        optimizer.step()
        for ask in asked:
            optimizer.observe(ask, {p: torch.ones_like(p) for p in named.values()})
    told = (Ask("hutchinson", "before", probe="rademacher", whole=True),)
    assert owed == [told if t % 3 == 1 else () for t in range(1, 8)]
    assert all(bool((optimizer.state[p]["seen"] == 3 + 3).all()) for p in named.values())


def test_what_the_last_step_asked_for_comes_before_what_the_next_one_reads() -> None:
    named = weights()
    optimizer = face(Eager)(list(named.items()))
    walk(optimizer, named, 3)
    give_gradients(named, 4)
    (needed,) = optimizer.owed()
    optimizer.observe(needed, {})
    optimizer.step()  # the fourth, which asks, and is not answered
    (late,) = optimizer.owed()
    assert (late.probe, needed.probe) == ("normal", "rademacher")
    estimates.step(optimizer, lambda ask: {})
    assert optimizer.owed() == ()


@pytest.mark.parametrize("stop", range(5))
def test_a_checkpoint_holds_nothing_pending_and_what_is_owed_follows_from_its_step(stop: int) -> None:
    named, later = weights(), weights()
    optimizer, resumed = face(Eager)(list(named.items())), face(Eager)(list(later.items()))
    walk(optimizer, named, stop)
    walk(resumed, later, 3)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.owed() == optimizer.owed() == resumed.rule_of(resumed.param_groups[0]).needs(stop + 1)


def test_a_measurement_that_was_not_asked_for_is_refused() -> None:
    named = weights()
    optimizer = face(Curious)(list(named.items()))
    walk(optimizer, named, 1)
    with pytest.raises(BadInput, match="did not ask"):
        optimizer.observe(Ask("hutchinson", "before"), {})


def test_roles_have_hyperparameters_of_their_own_and_the_companion_takes_the_rest() -> None:
    named = weights()
    optimizer = face(Shared)(list(named.items()), lr=1.0, by_role={"embed": {"weight_decay": 0.5}})
    found = {n: g for g in optimizer.param_groups for n in g["param_names"]}
    assert (found["head.weight"]["gain"], found["head.weight"]["lr"]) == (2.0, 0.1)
    assert (found["embed.weight"]["weight_decay"], found["embed.weight"]["lr"]) == (0.5, 1.0)
    assert (found["norm.weight"]["rule"], found["norm.weight"]["lr"]) == ("adamw", 0.5)
    assert found["embed.weight"]["rule"] == "shared"


def test_a_variants_roles_and_the_users_lie_over_the_rules_own() -> None:
    options = {"variant": "q", "by_role": {"q": {"lr": 3.0}, "head": {"lr": 4.0}}}
    optimizer = face(Shared)(list(weights().items()), **options)
    found = {n: g for g in optimizer.param_groups for n in g["param_names"]}
    q, head = found["blocks.0.attn.q.weight"], found["head.weight"]
    assert (q["gain"], q["lr"], head["gain"], head["lr"]) == (5.0, 3.0, 2.0, 4.0)


def test_a_groups_own_key_is_over_its_roles() -> None:
    named = weights()
    optimizer = face(Shared)([{"params": [("head.weight", named["head.weight"])], "gain": 7.0}])
    assert optimizer.param_groups[0]["gain"] == 7.0


@pytest.mark.parametrize(
    ("by_role", "told"), [({"heed": {"gain": 1.0}}, "head"), ({"head": {"gian": 1.0}}, "gain")], ids=str
)
def test_a_misspelt_role_or_hyperparameter_of_one_is_named(by_role: dict[str, Any], told: str) -> None:
    with pytest.raises(UnknownName, match=f"did you mean '{told}'"):
        face(Shared)(list(weights().items()), by_role=by_role)


def test_the_command_line_reaches_a_roles_hyperparameters_and_layouts_of_dotted_names() -> None:
    spec = "muon:by_role.q.lr_ratio=0.5,by_role.q.momentum=0.9,layouts.h.0.qkv.weight=qkv"
    assert resolve(spec).hyperparameters() | {} == resolve("muon").hyperparameters() | {
        "by_role": {"q": {"lr_ratio": 0.5, "momentum": 0.9}},
        "layouts": {"h.0.qkv.weight": "qkv"},
    }


def test_a_rule_that_wants_the_runs_length_gets_it_from_the_run_unless_somebody_set_it() -> None:
    contender = _of_rule("ramped", Ramped, {}, "")
    assert contender.of_run(50).recipe == {"total_steps": 50}
    assert contender.of_run(50, total_steps=7).recipe == contender.of_run(50, variant="ten").recipe == {}
    assert _of_rule("ramped", Ramped, {"total_steps": 7}, "").of_run(50).recipe == {"total_steps": 7}
    assert resolve("lion").of_run(50) == resolve("lion")
    asked, set_so = contender.of_run(50).identity(0.1), contender.identity(0.1, total_steps=50)
    assert asked == set_so != contender.of_run(51).identity(0.1)


@ENGINE
def test_outside_of_the_lab_a_rule_that_is_not_told_the_runs_length_says_what_to_give(engine: str) -> None:
    named, before = weights(), weights()
    give_gradients(named, 0)
    with pytest.raises(BadInput, match=r"ramped: total_steps=None.*give total_steps=") as told:
        face(Ramped)(list(named.items()), engine=engine).step()
    assert "\n" not in str(told.value)
    assert all(torch.equal(named[name], p) for name, p in before.items())
    face(Ramped)(list(named.items()), engine=engine, total_steps=4, lr=1.0).step()
    for name, g in grads(named).items():
        torch.testing.assert_close(named[name].detach(), before[name].detach() - g / 4)
