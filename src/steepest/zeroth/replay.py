"""How a recorded zeroth-order trajectory is walked: its directions and its loss, the public class's own steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.losses import Loss
from steepest.zeroth.directions import Directions, Terms, blocks
from steepest.zeroth.optimizer import ZerothOrder
from steepest.zeroth.sparsity import Sparsity

UNDECAYED = ("bias", "layer_norm", "layernorm")
"""Words of names whose weights the authors do not decay; a weight called "norm" is decayed."""
SGD = {"decay": "coupled", "weight_decay": 0.0}
TRAINERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "zo": lambda h: {**SGD, "weight_decay": h["weight_decay"]},
    "forward_grad": lambda h: {
        **SGD,
        "weight_decay": h["weight_decay"],
        "estimator": "forward-gradient",
    },
    "zo_sgd": lambda h: {**SGD, "momentum": h["momentum"]},
    "zo_sign_opt": lambda h: {**SGD, "momentum": h["momentum"], "sign": "projected"},
    "zo_conserv": lambda h: {
        **SGD,
        "momentum": h["momentum"],
        "conservative": "official" if h["momentum"] else True,
    },
    "zo_adam": lambda h: {"rule": "adamw", "betas": (0.9, 0.999), "eps": 1e-8, **SGD},
}
"""What the authors' names of trainers mean; of these only the two first read the weight decay."""
SIDES = {"two_side": 2, "one_side": 1}
SWEEPS = {
    "zo_step_with_module_wise_perturbation": "jacobi",
    "zo_step_with_module_wise_perturbation_coordinate": "gauss-seidel",
}
READ = {
    "gradient_sparsity",
    "learning_rate",
    "momentum",
    "perturbation_mode",
    "q",
    "trainer",
    "weight_decay",
    "zo_eps",
    "method",
    "perturbed_module_level",
}


def replays(told: Mapping[str, Any]) -> bool:
    """Whether a trajectory's JSON is of zeroth order."""
    return told.get("hyperparameters", {}).get("trainer") in TRAINERS


def arguments(told: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments that a trajectory's hyperparameters mean."""
    h = told["hyperparameters"]
    if unknown := sorted(set(h) - READ):
        raise BadInput(f"zeroth order: nothing here is known as {unknown[0]}={h[unknown[0]]!r}")
    for name, known in (("perturbation_mode", SIDES), ("method", SWEEPS)):
        if name in h and h[name] not in known:
            raise BadInput(f"zeroth order: {name}={h[name]!r} is not one of {', '.join(known)}")
    found = TRAINERS[h["trainer"]](h)
    found |= {"lr": h["learning_rate"], "perturbation": h["zo_eps"], "queries": int(h["q"])}
    found["sides"] = SIDES[h["perturbation_mode"]]
    if h["gradient_sparsity"] is not None:
        masked = found["queries"] == 1 and "conservative" not in found
        found["sparsity"] = Sparsity(h["gradient_sparsity"], law="below-ratio", in_update=masked)
    if "method" in h:
        found |= {"sweep": SWEEPS[h["method"]], "blocks": blocks_of(told), "shared_noise": True}
    words = {name: any(word in name.lower() for word in UNDECAYED) for name in told["tensors"]}
    found["roles"] = {name: "bias" if word else "vector" for name, word in words.items()}
    return {**found, "undecayed": ("bias",)}


def blocks_of(told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The tensors of each block in the order in which they are visited."""
    note, order = told["groups_note"], told["extra"]["block_order"]
    where = {module: names.split(",") for names, module in re.findall(r"([\w,]+) in ([\w.]+)", note)}
    found = []
    for block in order:
        members = [name for module, names in where.items() if f".{block}".endswith(f".{module}") for name in names]
        found.append(tuple(name for name in members if name in told["tensors"]))
    if not all(found):
        raise BadInput(f"zeroth order: groups_note {note!r} does not tell every block of {order}")
    return found


class Recorded(Directions):
    """The directions that a trajectory holds, and without their mask those that its seeds give."""

    def __init__(
        self, weights: Sequence[Tensor], names: Mapping[Tensor, str], arrays: Mapping[str, np.ndarray], **kind: Any
    ) -> None:
        super().__init__(weights, **kind)
        self.names, self.arrays = names, arrays

    def move(self, key: Any, size: float) -> None:
        for p in self.weights:
            for start, part in blocks(p):
                part.add_(self.estimate(p, start, part.numel(), [(key, size)]).view(part.shape))

    def estimate(
        self, p: Tensor, start: int, n: int, terms: Terms, signs: bool = False, masked: bool = True
    ) -> Tensor:
        found = torch.zeros(n, dtype=p.dtype)
        for (step, query, _), size in terms:
            z = self._kept(p, step - 1, query) if masked else self._unmasked(p, step - 1, query)
            found += size * z.reshape(-1)[start : start + n]
        return found.sign_() if signs else found

    def _kept(self, p: Tensor, t: int, query: int) -> Tensor:
        return torch.tensor(self.arrays[f"extra/z/{t:03d}/{query}/{self.names[p]}"]).to(p.dtype)

    def _unmasked(self, p: Tensor, t: int, query: int) -> Tensor:
        draw = torch.Generator().manual_seed(int(self.arrays[f"extra/seed/{t:03d}"][query]))
        for w in self.weights:
            z = torch.normal(0.0, 1.0, tuple(w.shape), dtype=w.dtype, generator=draw)
            if w is p:
                return z
        raise KeyError(self.names[p])


class Walked(ZerothOrder):
    """Zeroth order in recorded directions."""

    def __init__(self, weights: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray], **given: Any) -> None:
        self._names, self._arrays = {p: name for name, p in weights.items()}, arrays
        super().__init__(list(weights.items()), **given)

    def _directions_of(self, members: list[Tensor], first: int, own: Sequence[float]) -> Directions:
        kind = {"first": first, "sparsity": self.sparsity, "ratios": own}
        return Recorded(members, self._names, self._arrays, **kind)


def begun(
    told: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    weights: Mapping[str, Tensor],
    loss: Loss | None,
    engine: str,
) -> Callable[[int], Sequence[float]]:
    """What makes step t and returns the losses that it measured. Raises: BadInput for what is not known here."""
    if loss is None:
        raise BadInput("zeroth order: the trajectory tells no loss")
    given = arguments(told)
    inside = {name for block in given.get("blocks", ()) for name in block}
    moved = {name: p for name, p in weights.items() if name in inside or "blocks" not in given}
    given["roles"] = {name: role for name, role in given["roles"].items() if name in moved}
    optimizer = Walked(moved, arrays, engine=engine, **given)
    rates = arrays["extra/lr"].tolist() if "extra/lr" in arrays else []

    def step(t: int) -> Sequence[float]:
        for group in optimizer.param_groups if rates else ():
            group["lr"] = rates[t]
        optimizer.step(lambda: loss(t, weights))
        if optimizer.sides == 1 and optimizer.queries > 1:  # where the loss at the weights is measured but once
            first, base, *others = optimizer.losses
            return [first, base, *(x for plus in others for x in (plus, base))]
        return optimizer.losses

    return step
