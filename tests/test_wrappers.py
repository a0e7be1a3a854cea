"""Every wrapper over every rule: refused in one line with the reason, or all that a rule promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import test_robustness
import test_rules
import torch
from cases import Case, build, needs_compiler, variants, walk, weights

from steepest.core.errors import BadInput, SteepestError
from steepest.registry import rule_named, rules, wrappers

PLAIN = [name for name in rules() if name not in wrappers()]
ALL = [f"{outer}-{inner}" for outer in wrappers() for inner in PLAIN]
SAMPLE = ("adafactor", "lion", "mars", "muon", "soap", "sophia")
"""A rule of each scope; with totals, with measurements, with a calendar, with its own way to write the weight."""


def products(names: Iterable[str], every_variant: bool = False) -> list[Case]:
    """Those of these wrapped rules that can be, by name and constructor arguments."""
    found = []
    for name in names:
        if refusal(name) is not None:
            continue
        rule = rule_named(name)
        for arguments in variants(rule) if every_variant else [{}]:
            try:
                build((name, arguments), weights())
            except SteepestError:
                continue  # a variant of the inner rule that this wrapper does not take
            found.append((name, arguments))
    return found


def refusal(name: str) -> str | None:
    """Why there is no such rule; None if there is."""
    try:
        build((name, {}), weights())
    except BadInput as why:
        return str(why)
    return None


def told(case: Case) -> str:
    return f"{case[0]}:{','.join(f'{k}={v}' for k, v in case[1].items())}"


def batched_walks_as_the_loop_does(case: Case) -> None:
    """To rounding; a decomposition in the rule may turn rounding into a little more."""
    loop, batched = weights(), weights()
    walk(build(case, loop, engine="loop"), loop, 4)
    walk(build(case, batched, engine="batched"), batched, 4)
    for name, w in loop.items():
        torch.testing.assert_close(batched[name], w, rtol=1e-7, atol=1e-10)


def compiled_walks_as_the_loop_does(case: Case) -> None:
    loop, compiled = weights(), weights()
    walk(build(case, loop, engine="loop"), loop, 3)
    walk(build(case, compiled, engine="compiled"), compiled, 3)
    for name, w in loop.items():
        torch.testing.assert_close(compiled[name], w, rtol=1e-7, atol=1e-10)


def gradients_are_never_modified(case: Case) -> None:
    test_rules.test_gradients_are_never_modified(case, "batched")


def a_resumed_run_is_bitwise_the_uninterrupted_one(case: Case) -> None:
    test_rules.test_a_run_resumed_from_a_checkpoint_is_bitwise_the_uninterrupted_one(case, 3)


def the_memory_formula_is_what_is_allocated(case: Case) -> None:
    test_rules.test_the_memory_formula_is_what_is_allocated(case, torch.float32)


CLAIMS: tuple[Callable[[Case], None], ...] = (
    batched_walks_as_the_loop_does,
    gradients_are_never_modified,
    a_resumed_run_is_bitwise_the_uninterrupted_one,
    the_memory_formula_is_what_is_allocated,
    test_robustness.test_one_gradient_times_100_leaves_every_weight_finite_and_moving,
    test_rules.test_a_pickled_optimizer_goes_on,
)


@pytest.mark.parametrize("name", ALL)
def test_a_wrapper_over_any_rule_trains_or_says_in_a_line_why_not(name: str) -> None:
    why = refusal(name)
    if why is None:
        named, before = weights(), weights()
        walk(build((name, {}), named), named, 2)
        assert all(p.isfinite().all() for p in named.values())
        assert any(not torch.equal(named[n], before[n]) for n in named)
        return
    outer, _, inner = name.partition("-")
    assert outer in why and inner in why and "\n" not in why, why
    assert "wrap " in why or "set " in why, f"the next step is missing: {why}"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize(
    "case", products(f"{outer}-{inner}" for outer in wrappers() for inner in SAMPLE), ids=told
)
def test_a_sample_of_wrapped_rules_keeps_every_promise(case: Case, claim: Callable[[Case], None]) -> None:
    claim(case)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize("name", ALL)
def test_every_wrapped_rule_in_every_variant_keeps_every_promise(name: str, claim: Callable[[Case], None]) -> None:
    for case in products([name], every_variant=True):
        claim(case)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("case", products(ALL), ids=told)
def test_every_wrapped_rule_walks_compiled_as_in_the_loop(case: Case) -> None:
    compiled_walks_as_the_loop_does(case)
