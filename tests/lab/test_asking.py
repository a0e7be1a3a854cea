"""Protocols as generators: what may run runs at once, each run is asked for once, a failure ends what needs it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from steepest.lab.study.asking import Asking, Course, Failed, TrialFailed


def once(*trials: str) -> Asking:
    return (yield list(trials))


def chain(*trials: str) -> Asking:
    """One after another; what each gave."""
    found = []
    for trial in trials:
        found.append((yield [trial])[trial])
    return found


def beside(**protocols: Asking) -> Asking:
    return (yield protocols)


def driven(protocol: Asking, fails: Iterable[str] = ()) -> tuple[Any, list[list[str]]]:
    """Its value, and what could run at once at each turn, all runs of a turn ending in their order."""
    course: Course[str] = Course(protocol)
    waiting, turns = course.begin(), []
    while waiting:
        turns.append(waiting)
        later: list[str] = []
        for trial in waiting:
            failure = f"{trial} failed" if trial in set(fails) else None
            later += course.tell(trial, trial.upper(), failure=failure)
        waiting = later
    assert course.ended
    assert list(course.asked) == [trial for turn in turns for trial in turn]
    return course.value, turns


def test_protocols_side_by_side_wait_for_nothing_but_their_own_runs() -> None:
    value, turns = driven(beside(long=chain("a", "b", "c"), short=once("d", "e")))
    assert turns == [["a", "d", "e"], ["b"], ["c"]]
    assert value == {"long": ["A", "B", "C"], "short": {"d": "D", "e": "E"}}


def test_a_run_that_two_ask_for_is_made_once_and_told_to_both_also_when_it_is_there_already() -> None:
    value, turns = driven(beside(one=once("a", "b"), two=chain("a", "b", "c")))
    assert turns == [["a", "b"], ["c"]]
    assert value == {"one": {"a": "A", "b": "B"}, "two": ["A", "B", "C"]}


def test_a_failure_ends_the_protocols_that_asked_and_the_others_go_on() -> None:
    value, _ = driven(beside(one=once("a", "b"), two=chain("b", "c"), three=chain("c")), fails=["b"])
    assert value == {"one": Failed("b failed"), "two": Failed("b failed"), "three": ["C"]}


def test_a_protocol_may_catch_a_failure_once_all_that_it_asked_for_has_ended() -> None:
    def patient() -> Asking:
        try:
            yield ["a", "b"]
        except TrialFailed as failure:
            return str(failure), (yield ["b"])

    value, turns = driven(patient(), fails=["a"])
    assert value == ("a failed", {"b": "B"})
    assert turns == [["a", "b"]]


def test_asking_for_nothing_is_answered_at_once() -> None:
    def idle() -> Asking:
        return (yield []), (yield {}), (yield {"inner": once()})

    assert driven(idle()) == (({}, {}, {"inner": {}}), [])


def test_the_same_answers_in_another_order_lead_to_the_same_runs() -> None:
    def race() -> Asking:
        found = yield {name: chain(f"{name}1", f"{name}2") for name in "abc"}
        return sorted(found), (yield [min(ends[-1] for ends in found.values())])

    told = []
    for forward in (True, False):
        course: Course[str] = Course(race())
        waiting = course.begin()
        while waiting:
            trial = waiting.pop(0 if forward else -1)
            waiting += course.tell(trial, trial.upper())
        told.append((course.value, set(course.asked)))
    assert told[0] == told[1]
