"""Protocols driven to their end by made losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steepest.lab.study.asking import Course


@dataclass(frozen=True)
class Result:
    loss: float | None


def answered(protocol: Any, answer: Callable[[Any], float | None], fails: Callable[[Any], bool] = lambda t: False):
    """Drives a protocol to its end; returns its value and the trials in order."""
    course: Course[Any] = Course(protocol)
    todo = course.begin()
    while todo:
        trial = todo.pop(0)
        if fails(trial):
            todo += course.tell(trial, failure=f"{trial} cannot run")
        else:
            todo += course.tell(trial, Result(answer(trial)))
    assert course.ended
    return course.value, list(course.asked)
