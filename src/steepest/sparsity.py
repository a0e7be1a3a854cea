"""The end of a run with N:M masks (AdamS, AST): how much of the weights the masks would take, and the cut."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from steepest.arrangement import pieces_of
from steepest.core.errors import BadInput
from steepest.optimizer import Optimizer

MASK = "mask"
"""The slot of a rule's state that says which weights are kept."""


@torch.no_grad()
def masked_shares(optimizer: Optimizer) -> dict[str, float]:
    """For each weight with a mask, the share of its absolute sum that the mask does not keep: what pruning takes.

    Watch it while training: it must fall to next to nothing before the cut.
    Raises: BadInput where there is no mask, or none yet.
    """
    found: dict[str, list[Tensor]] = {}
    for name, weight, mask in _masked(optimizer):
        sizes = weight.abs().double()
        found.setdefault(name, []).append(torch.stack([(sizes * ~mask).sum(), sizes.sum()]))
    sums = {name: torch.stack(parts).sum(dim=0).tolist() for name, parts in found.items()}
    return {name: lost / whole if whole else 0.0 for name, (lost, whole) in sums.items()}


@torch.no_grad()
def prune(optimizer: Optimizer) -> dict[str, float]:
    """Set every weight to 0 that the last masks do not keep, in place; the shares that this took, by weight.

    Afterwards n of every m consecutive inputs are left. A further step of the optimizer would move the others
    again.
    Raises: BadInput where there is no mask, or none yet; nothing is changed then.
    """
    taken = masked_shares(optimizer)
    for _, weight, mask in _masked(optimizer):
        weight.copy_(torch.where(mask, weight, torch.zeros_like(weight)))
    return taken


def _masked(optimizer: Optimizer) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, matrix and mask of every weight that has one, part by part where it is fused."""
    some = False
    for group in optimizer.param_groups:
        rule = optimizer.rule_of(group)
        for p in group["params"]:
            state = optimizer.state[p]
            if not any(key.partition(".")[0] == MASK for key in state):
                continue
            some, name = True, optimizer.routes_of(p)[0].parameter.partition("[")[0]
            if not state["step"]:
                raise BadInput(f"{name} has no mask yet: its first step, with a gradient, makes one")
            for piece, _ in pieces_of(p, p, rule, state, optimizer.layout_of(p)):
                yield name, piece.weight, piece.state[MASK]
    if not some:
        raise BadInput(
            f"{optimizer.rule.name()} has masked no weight: pruning is for rules with N:M masks, such as adams"
        )
