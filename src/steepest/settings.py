"""Hyperparameters as users write them: checked, and one table over another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steepest.core.errors import UnknownName
from steepest.core.rule import Rule, hyperparameters
from steepest.routing import check_roles
from steepest.rules.adamw import AdamW


def merged(*hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Later companions over earlier ones; a later lr also replaces an earlier lr_ratio, and the reverse."""
    result: dict[str, Any] = {}
    for values in hyper:
        other = {"lr": "lr_ratio", "lr_ratio": "lr"}
        for name in values:
            if name not in hyperparameters(AdamW) and name != "lr_ratio":
                raise UnknownName.among(
                    "hyperparameter of the companion", name, [*hyperparameters(AdamW), "lr_ratio"]
                )
            result.pop(other.get(name, ""), None)
        result |= values
    return result


def roles_merged(rule: type[Rule], *tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Hyperparameters by role, later tables over earlier ones key by key.

    Raises: UnknownName for a role or a hyperparameter that there is not.
    """
    result: dict[str, dict[str, Any]] = {}
    for table in tables:
        check_roles(table)
        for role, values in table.items():
            ratio = {k: v for k, v in values.items() if k == "lr_ratio"}
            own = known(rule, {k: v for k, v in values.items() if k != "lr_ratio"})
            before = {k: v for k, v in result.get(role, {}).items() if not {k, *values} >= {"lr", "lr_ratio"}}
            result[role] = before | own | ratio
    return result


def known(rule: type[Rule], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters as given, lists as tuples; UnknownName for one that the rule does not have."""
    for name in hyper:
        if name not in hyperparameters(rule):
            raise UnknownName.among(f"hyperparameter of {rule.name()}", name, hyperparameters(rule))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in hyper.items()}
