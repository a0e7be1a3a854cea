"""Errors that a user can cause. Each message is one line: the thing, its value, the next step."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SteepestError(Exception):
    """Base of every error that the caller can mend. The command line prints it without a traceback."""


class UnknownName(SteepestError):
    """A name that no registry holds; :meth:`among` suggests the nearest one."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownName:
        """``unknown optimizer 'muno': did you mean 'muon'? ...``; without a near name all are listed."""
        known = sorted(known)
        # Case is the commonest slip, so that the same letters in another case are the nearest of all.
        same = [k for k in known if k.lower() == name.lower()]
        near = same or difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        return cls(f"unknown {kind} {name!r}: {guess}" + (f" {hint}" if hint else ""))


class BadInput(SteepestError):
    """A value outside what the call can use (lr nan, zero seeds, an empty corpus)."""


class MissingExtra(SteepestError):
    """An optional dependency is not installed."""

    @classmethod
    def of(cls, what: str, package: str, extra: str = "lab") -> MissingExtra:
        """``the report needs jinja2: pip install 'steepest[lab]'``."""
        return cls(f"{what} needs {package}: pip install 'steepest[{extra}]'")


class BuildFailed(SteepestError):
    """No C++ compiler, or one that fails; the message holds its first complaint."""


class CorruptFile(SteepestError):
    """A file that is damaged, truncated or not of this project; the message names it."""


class UnsupportedTensor(SteepestError, TypeError):
    """A sparse, complex or sharded tensor where the rule needs a dense, real, whole one."""


class RoutingError(SteepestError, ValueError):
    """A weight whose layout a rule cannot read without a declaration."""


class SlowEngine(UserWarning):
    """Steps run slower than they could here; the message says what is missing. Results are the same."""
