"""The losses of recorded trajectories whose gradients depend on the weights, by the form that their JSON tells.

All are functions of the step t, counted from 0, and of the weights P_n by name: something of P_n M_n, a vector P_n
being one row, plus <G_t,n, P_n>, summed over n. G are the shared gradients, M is the trajectory's ``extra/M/<n>``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.core.errors import BadInput

Each = Callable[[Tensor], Tensor]

LINEAR = r"L_t\(P\)=sum_n \[ (.*) \+ <G_\{t,n\},P_n> \], 1-D tensors are row vectors[;,] G ?= ?grad/<t>/<n>(.*)"
NUMBER = r"([-+.0-9e]+)"
WAVES = rf"{NUMBER}\*\({NUMBER}\*\|\|P_n\|\|\^2\+{NUMBER}\*sum cos\({NUMBER} P_n\)\)"
"""What may be added at the end, for every tensor: a bowl with waves in it."""
FORMS: dict[str, Each] = {
    "sum_ij log cosh((P_n M_n)_ij)": lambda x: x.cosh().log().sum(),
    "mean_ij log cosh((P_n M_n)_ij)": lambda x: x.cosh().log().mean(),
}
"""What stands in the brackets beside the linear term."""


@dataclass(frozen=True)
class Loss:
    """One trajectory's loss."""

    each: Each
    waves: tuple[float, ...]
    arrays: Mapping[str, np.ndarray]
    inputs: Mapping[str, np.ndarray]

    def __call__(self, t: int, weights: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self._of(t, name, w) for name, w in weights.items()]).sum()

    def _of(self, t: int, name: str, w: Tensor) -> Tensor:
        m = torch.tensor(self.arrays[f"extra/M/{name}"]).to(w)
        g = torch.tensor(self.inputs[f"grad/{t:03d}/{name}"]).to(w)
        found = self.each((w if w.ndim > 1 else w[None]) @ m) + (g * w).sum()
        if not self.waves:
            return found
        whole, bowl, wave, often = self.waves
        return found + whole * (bowl * (w * w).sum() + wave * (often * w).cos().sum())

    def gradient(self, t: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its gradient by tensor."""
        with torch.enable_grad():
            return self._derivatives([self(t, weights)], weights)

    def hutchinson(self, t: int, weights: Mapping[str, Tensor], z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """z times the Hessian's product with z, by tensor."""
        with torch.enable_grad():
            first = self._derivatives([self(t, weights)], weights, create_graph=True)
            along = [z[name].to(w) for name, w in weights.items()]
            found = self._derivatives(list(first.values()), weights, along)
        return {name: z[name].to(hz) * hz for name, hz in found.items()}

    def _derivatives(
        self,
        outputs: list[Tensor],
        weights: Mapping[str, Tensor],
        along: list[Tensor] | None = None,
        create_graph: bool = False,
    ) -> dict[str, Tensor]:
        found = torch.autograd.grad(outputs, list(weights.values()), along, create_graph=create_graph)
        return dict(zip(weights, found, strict=True))


def loss_of(
    told: Mapping[str, Any], arrays: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> Loss | None:
    """The loss of a trajectory whose JSON tells one; None where the shared gradients are the gradients.

    Raises: BadInput for a form that is not known here.
    """
    form = (told.get("extra") or {}).get("loss")
    if form is None:
        return None
    found = re.fullmatch(LINEAR, form)
    added = re.search(rf" \+ {WAVES}$", found[2]) if found else None
    more = found is not None and " + " in found[2]
    if found is None or found[1] not in FORMS or (more and added is None):
        raise BadInput(f"loss {form!r} is of no form that steepest/losses.py knows: add it there")
    return Loss(FORMS[found[1]], tuple(map(float, added.groups())) if added else (), arrays, inputs)
