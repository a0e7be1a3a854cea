"""What a ``state_dict`` may hold and what may be loaded from one: groups, weights and slots that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steepest.arrangement import is_dtensor
from steepest.core.errors import BadInput


def matched(index: int, group: Mapping[str, Any], saved: Mapping[str, Any]) -> list[tuple[Tensor, Any]]:
    """The weights of a group with their keys in a checkpoint, by name where both sides have names.

    Raises: BadInput naming the group or the weight that has no match.
    """
    names, theirs = group.get("param_names"), saved.get("param_names")
    if len(group["params"]) != len(saved["params"]):
        raise BadInput(
            f"group {index} of the checkpoint has {len(saved['params'])} weights, here {len(group['params'])}"
        )
    if not names or not theirs:
        return list(zip(group["params"], saved["params"], strict=True))
    keys = dict(zip(theirs, saved["params"], strict=True))
    if missing := [name for name in names if name not in keys]:
        raise BadInput(f"group {index} of the checkpoint has no weight {missing[0]!r}")
    return [(p, keys[name]) for p, name in zip(group["params"], names, strict=True)]


def fitting(label: str, p: Tensor, mine: Mapping[str, Tensor], saved: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of a weight's saved state, on its device, in the types in which they were saved.

    Raises: BadInput naming the slot that is missing, unknown or of another shape.
    """
    if mine and set(saved) != set(mine):
        odd = sorted(set(saved) ^ set(mine))[0]
        where = "the checkpoint lacks" if odd in mine else "this optimizer does not keep"
        raise BadInput(f"{label}: {where} state {odd!r}: build the optimizer with the same options")
    state = {}
    for name, value in saved.items():
        tensor = torch.as_tensor(value, dtype=torch.float32 if name == "step" else None)
        if name in mine and tensor.shape != mine[name].shape:
            raise BadInput(
                f"{label}: state {name!r} has shape {tuple(tensor.shape)} in the checkpoint, "
                f"{tuple(mine[name].shape)} here"
            )
        # A copy: two optimizers that load one dictionary must not share their state.
        state[name] = tensor.detach().clone() if name == "step" else tensor.detach().to(p.device, copy=True)
    return state


def owned(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy if it shares its memory with others."""
    alone = is_dtensor(tensor) or tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if alone else tensor.clone()
