"""The processes that train one model together, as an optimizer of one of them sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import Wire
from steepest.distributed.means import Errors, Say, T, Talk, compressed_mean, dense_mean
from steepest.linalg.onebit import padded


@dataclass(frozen=True)
class Parcel:
    """A message on its way. ``key``, "PLACE.PART" of its weight: what the wire loses is kept under it."""

    key: str
    tensor: Tensor
    wire: Wire


class Workers:
    """One worker among ``world``: how it reaches the others, what was lost in compression, and the bill.

    ``sent``: bytes sent so far, by what for: "dense" and "onebit" means, "check" whether all agree.
    """

    def __init__(self, world: int = 1, rank: int = 0) -> None:
        self.world, self.rank = world, rank
        self.sent: Counter[str] = Counter()
        self.errors: dict[str, Errors] = {}
        self.compared = False

    def answer(self, say: Say) -> Tensor:
        """What a request brings. Raises: BadInput where nobody is there to ask."""
        raise BadInput(
            f"worker {self.rank} of {self.world} is simulated and cannot step alone: "
            "steepest.distributed.simulated.step(optimizers) moves all of them"
        )

    def hold(self, talk: Talk[T]) -> T:
        """A conversation to its end."""
        try:
            say = next(talk)
            while True:
                self.sent[say.bill] += say.sent(self.world)
                say = talk.send(self.answer(say))
        except StopIteration as end:
            found: T = end.value
            return found

    # -- what an optimizer says --------------------------------------------------------------------------------

    def agree(self, names: Sequence[str], moving: Sequence[bool], state: Sequence[Sequence[Tensor]]) -> Talk[None]:
        """That all workers have gradients for the same weights, without which they would wait for each other for
        ever; and once, that they start from the same weights and state.

        Raises: BadInput at every worker.
        """
        if self.world == 1:
            return
        device = next((tensors[0].device for tensors in state), torch.device("cpu"))
        flags = torch.tensor(moving, dtype=torch.uint8, device=device)
        heard = yield Say("gather", flags, "check")
        if odd := (heard != heard[0]).any(0).nonzero().flatten().tolist():
            here = "one" if flags[odd[0]] else "none"
            raise BadInput(
                f"{names[odd[0]]} has a gradient at some of the {self.world} workers and not at others ({here} "
                "here): give it one of zeros where it has none"
            )
        if self.compared:
            return
        sums = torch.stack([fingerprint(tensors, device) for tensors in state])
        heard = yield Say("gather", sums.view(torch.uint8), "check")
        heard = heard.view(torch.int64)
        if odd := (heard != heard[0]).any(0).nonzero().flatten().tolist():
            raise BadInput(
                f"{names[odd[0]]}, or its optimizer state, differs between the {self.world} workers: seed alike "
                "before the model is made, or broadcast it from one of them"
            )
        self.compared = True

    def mean(self, parcels: Sequence[Parcel]) -> Talk[list[Tensor]]:
        """The mean of every message over workers; of a single worker, its messages."""
        if self.world == 1:
            return [parcel.tensor for parcel in parcels]
        found: dict[int, Tensor] = {}
        dense = [i for i, p in enumerate(parcels) if not p.wire.onebit]
        if dense:
            means = yield from dense_mean([parcels[i].tensor for i in dense], self.world)
            found |= zip(dense, means, strict=True)
        alone = [i for i, p in enumerate(parcels) if p.wire.onebit and not p.wire.joined]
        if alone:
            errors = [self._errors(parcels[i].key, parcels[i].tensor) for i in alone]
            means = yield from compressed_mean([parcels[i].tensor for i in alone], errors, self.world)
            found |= zip(alone, means, strict=True)
        joined = [i for i, p in enumerate(parcels) if p.wire.onebit and p.wire.joined]
        if joined:
            flat = torch.cat([parcels[i].tensor.reshape(-1) for i in joined])
            (mean,) = yield from compressed_mean([flat], [self._errors("joined", flat)], self.world)
            parts = mean.split([parcels[i].tensor.numel() for i in joined])
            found |= {i: x.view(parcels[i].tensor.shape) for i, x in zip(joined, parts, strict=True)}
        return [found[i] for i in range(len(parcels))]

    def _errors(self, key: str, x: Tensor) -> Errors:
        size = padded(x.numel(), self.world)
        if key not in self.errors:
            self.errors[key] = Errors(x.new_zeros(size), x.new_zeros(size // self.world))
        if (known := self.errors[key].worker.numel()) != size:
            raise BadInput(
                f"the joined message has {size} numbers, padded, and its compression error {known}: weights began "
                "or ceased to have gradients; compress each by itself (fusion='tensor')"
            )
        return self.errors[key]

    # -- checkpoints -------------------------------------------------------------------------------------------

    def told(self) -> dict[str, Any]:
        """This worker's errors for a checkpoint."""
        errors = {key: {"worker": e.worker, "server": e.server} for key, e in self.errors.items()}
        return {"world": self.world, "rank": self.rank, "errors": errors}

    def fitting(
        self, told: Mapping[str, Any] | None, places: Mapping[int, tuple[int, Tensor]]
    ) -> dict[str, Errors]:
        """Errors from a checkpoint, ``places`` telling where each of its weights is here, and which. Where it has
        none compression begins anew.

        Raises: BadInput for those of another worker, or of another number of workers.
        """
        if not told or not told["errors"]:
            return {}
        if (told["world"], told["rank"]) != (self.world, self.rank):
            raise BadInput(
                f"the checkpoint holds the compression errors of worker {told['rank']} of {told['world']}, this "
                f"is worker {self.rank} of {self.world}: load each worker's own file, or drop the errors with "
                "del state_dict['workers']"
            )
        found = {}
        for key, pair in told["errors"].items():
            place, dot, part = key.partition(".")
            here, weight = places[int(place)] if dot else (place, next(iter(places.values()))[1])
            copies = [pair[name].to(weight.device, copy=True) for name in ("worker", "server")]
            found[f"{here}{dot}{part}"] = Errors(*copies)
        return found

    def __reduce__(self) -> Any:
        if self.world > 1:
            raise BadInput(
                "an optimizer with group= is one of several workers and cannot be copied: save state_dict()"
            )
        return type(self), ()


class Group(Workers):
    """The workers of a torch process group: gloo, nccl, or another that knows the three collectives."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__(dist.get_world_size(group), dist.get_rank(group))
        self.group = group

    def answer(self, say: Say) -> Tensor:
        x = say.tensor
        if say.how == "sum":
            dist.all_reduce(x, group=self.group)
            return x
        if say.how == "swap":
            heard = torch.empty_like(x)
            dist.all_to_all_single(heard, x, group=self.group)
            return heard
        heard = x.new_empty((self.world, x.numel()))
        # torch 2.13's name of all_gather_into_tensor, whose own warns there.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        gather(heard.view(-1), x.contiguous(), group=self.group)
        return heard

    def __reduce__(self) -> Any:
        raise BadInput("an optimizer with group= holds a connection and cannot be copied: save its state_dict()")


def workers_of(group: Any) -> Workers:
    """The workers that ``group=`` means: None is a single one.

    Raises: BadInput where no process group is.
    """
    if group is None:
        return Workers()
    if isinstance(group, Workers):
        return group
    if group == "world":
        if not (dist.is_available() and dist.is_initialized()):
            raise BadInput(
                "group='world': there is no process group: call torch.distributed.init_process_group first"
            )
        group = dist.group.WORLD
    if not isinstance(group, dist.ProcessGroup):
        raise BadInput(
            f"group={group!r} is no process group: give 'world', or what torch.distributed.new_group made"
        )
    return Group(group)


def fingerprint(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The bits of some tensors added up as whole numbers, 0-d: equal for equal tensors wherever they lie."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    total = torch.zeros((), dtype=torch.int64, device=device)
    for x in tensors:
        bits = x.detach().contiguous().view(-1).view(kinds.get(x.element_size(), torch.int8))
        total = 31 * total + bits.sum(dtype=torch.int64).to(device)
    return total
