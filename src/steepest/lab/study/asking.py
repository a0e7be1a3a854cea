"""Protocols as generators that ask for runs, and the course that drives them.

A protocol is a generator of one of two questions:

    found = yield [trial, ...]                 # results of these runs: {trial: result}
    values = yield {key: protocol, ...}        # these protocols side by side: {key: what each returned}

and so reads like the text that describes it, while the course keeps every worker busy with all that may run now.
A protocol sees nothing but results: replayed over the same finished runs it asks the same questions, so that an
interrupted study goes on where it was, and any number of processes may hold one study at once.

A trial that failed (its process died, its configuration cannot run; not: its loss diverged) raises
:class:`TrialFailed` inside the protocol that asked; one that does not catch it ends, and :class:`Failed` is its
value for the protocol that started it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from steepest.core.errors import SteepestError

T = TypeVar("T", bound=Hashable)
Asking = Generator[Any, Any, Any]


class TrialFailed(SteepestError):
    """A run that a protocol asked for could not be made."""


@dataclass(frozen=True)
class Failed:
    """The value of a protocol that ended for want of a run."""

    reason: str


@dataclass(eq=False)
class _Node(Generic[T]):
    protocol: Asking
    parent: _Node[T] | None = None
    key: Any = None
    wants: dict[T, None] = field(default_factory=dict)
    open: int = 0
    """Answers, or protocols, that it still waits for."""
    values: dict[Any, Any] = field(default_factory=dict)


class Course(Generic[T]):
    """Drives a protocol. ``value`` is what it returned, once ``ended``; ``results`` all that was told.

    asked: every trial asked for so far, in order. Trials are equal where they are one run.
    """

    def __init__(self, protocol: Asking) -> None:
        self.asked: dict[T, None] = {}
        self.results: dict[T, Any] = {}
        self.failures: dict[T, str] = {}
        self.ended = False
        self.value: Any = None
        self._root: _Node[T] = _Node(protocol)
        self._waiting: dict[T, list[_Node[T]]] = {}
        self._ready: deque[_Node[T]] = deque()
        self._new: list[T] = []

    def begin(self) -> list[T]:
        """The trials to run first."""
        self._advance(self._root, None)
        return self._news()

    def tell(self, trial: T, result: Any = None, *, failure: str | None = None) -> list[T]:
        """Takes a trial's result, or why there is none; returns the trials that may run now."""
        if failure is not None:
            self.failures[trial] = failure
        else:
            self.results[trial] = result
        for node in self._waiting.pop(trial, ()):
            node.open -= 1
            if node.open == 0:
                self._ready.append(node)
        return self._news()

    def _news(self) -> list[T]:
        """Lets every protocol go on that has all its answers; the trials that were asked for meanwhile."""
        while self._ready:
            node = self._ready.popleft()
            failed = next((self.failures[t] for t in node.wants if t in self.failures), None)
            self._advance(node, TrialFailed(failed) if failed else {t: self.results[t] for t in node.wants})
        new, self._new = self._new, []
        return new

    def _advance(self, node: _Node[T], sent: Any) -> None:
        """Sends a protocol what it waits for, and takes its next question or its end."""
        try:
            question = node.protocol.throw(sent) if isinstance(sent, TrialFailed) else node.protocol.send(sent)
        except StopIteration as end:
            self._finish(node, end.value)
        except TrialFailed as failure:
            self._finish(node, Failed(str(failure)))
        else:
            self._ask(node, question)

    def _ask(self, node: _Node[T], question: Mapping[Any, Asking] | Iterable[T]) -> None:
        if isinstance(question, Mapping):
            children: list[_Node[T]] = [_Node(child, node, key) for key, child in question.items()]
            node.values, node.open = dict.fromkeys(question), len(children)
            if not children:
                self._advance(node, {})
            for child in children:
                self._advance(child, None)
            return
        node.wants = dict.fromkeys(question)
        self._new += [trial for trial in node.wants if trial not in self.asked]
        self.asked |= node.wants
        unanswered = [trial for trial in node.wants if trial not in self.results and trial not in self.failures]
        node.open = len(unanswered)
        for trial in unanswered:
            self._waiting.setdefault(trial, []).append(node)
        if not unanswered:
            self._ready.append(node)

    def _finish(self, node: _Node[T], value: Any) -> None:
        if node.parent is None:
            self.ended, self.value = True, value
            return
        parent = node.parent
        parent.values[node.key] = value
        parent.open -= 1
        if parent.open == 0:
            self._advance(parent, parent.values)
