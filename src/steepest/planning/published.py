"""What papers print about memory, beside what this package counts under the paper's way of counting.

Printed numbers are as the paper or its repository prints them; which way of counting a paper used is mostly not
told, and is what comes nearest to its numbers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from steepest.planning.accounting import UNITS, accounting_of
from steepest.planning.models import Model
from steepest.planning.plan import Memory, memory, planned
from steepest.registry import built_in

SIZES = ("llama-60m", "llama-130m", "llama-350m", "llama-1b")
GALORE_RANKS = (128, 256, 256, 512)
TOLERANCE = 0.01


@dataclass(frozen=True)
class Claim:
    """A row of a published table: for each model a printed number, and the optimizer as a race names it.

    ``quantity``: ``saved`` is AdamW's state less the optimizer's. ``why``: what is known of numbers not met.
    """

    source: str
    method: str
    quantity: Literal["total", "weights", "state", "saved"]
    accounting: str
    models: tuple[str, ...]
    printed: tuple[str, ...]
    specs: tuple[str, ...]
    why: str = ""

    def __post_init__(self) -> None:
        assert len(self.models) == len(self.printed) == len(self.specs), self

    @property
    def unit(self) -> str:
        return accounting_of(self.accounting).unit


@dataclass(frozen=True)
class Compared:
    """One printed number beside the computed one, in the claim's unit; None where there is no such rule here."""

    claim: Claim
    model: str
    printed: str
    spec: str
    computed: float | None

    @property
    def met(self) -> bool:
        """Whether the computed number, with as many places as the printed one, is within .01 of it."""
        places = len(self.printed.partition(".")[2])
        if self.computed is None:
            return False
        return abs(round(self.computed, places) - float(self.printed)) <= TOLERANCE + 1e-9


def _same(spec: str, models: tuple[str, ...] = SIZES) -> tuple[str, ...]:
    return (spec,) * len(models)


def _ranked(name: str, ranks: tuple[int, ...] = GALORE_RANKS) -> tuple[str, ...]:
    return tuple(f"{name}:rank={rank}" for rank in ranks)


EVERY_MATRIX = ",roles.model.embed_tokens.weight=matrix,roles.lm_head.weight=matrix"
SCALE = "SCALE, README (arXiv 2506.16659)"
GALORE = "GaLore (arXiv 2403.03507)"
GALORE_7B = "GaLore, in 8 bits"
APOLLO = "APOLLO (arXiv 2412.05270)"
APOLLO_STATE = "APOLLO, state alone"
FIRA = "Fira (arXiv 2410.01623)"
ADAM_MINI = "Adam-mini (arXiv 2406.16793)"
SGD_SAI = "SGD-SaI (arXiv 2412.11768)"
MIXED = (
    "60M is nearest in GB, 350M is in GiB, and at 1B neither: the printed weights, 2.60, are neither 2.68 GB nor "
    "2.49 GiB"
)
UNKNOWN = "no way of counting that was tried gives these: mr + 2nr for matrices and AdamW for the rest are more"
FROM_GALORE = "sums of what GaLore's table prints, not counts of tensors"

CLAIMS: tuple[Claim, ...] = (
    Claim(SCALE, "Adam", "total", "scale", SIZES, ("0.35", "0.81", "2.21", "8.04"), _same("adamw")),
    Claim(
        SCALE, "Muon, as one momentum everywhere", "total", "scale", SIZES, ("0.23", "0.54", "1.47", "5.36"),
        _same("sgd:momentum=0.9"),
    ),
    Claim(
        SCALE, "GaLore", "total", "scale", SIZES, ("0.28", "0.61", "1.59", "4.76"), _ranked("galore"),
        "at 350M the others' formula gives 1.39: a misprint, it seems",
    ),
    Claim(SCALE, "SWAN", "total", "scale", SIZES, ("0.25", "0.46", "1.00", "3.20"), _same("swan")),
    Claim(
        SCALE, "APOLLO-Mini", "total", "scale", SIZES, ("0.25", "0.46", "1.00", "3.20"),
        _same("apollo:variant=mini"),
    ),
    Claim(SCALE, "SCALE", "total", "scale", SIZES, ("0.15", "0.32", "0.80", "2.81"), _same("scale")),
    Claim(SCALE, "APOLLO, rank 256", "total", "scale", ("llama-7b",), ("16.14",), ("apollo:rank=256",)),
    Claim(SCALE, "APOLLO-Mini", "total", "scale", ("llama-7b",), ("14.53",), ("apollo:variant=mini",)),
    Claim(SCALE, "SCALE", "total", "scale", ("llama-7b",), ("13.74",), ("scale",)),
    Claim(GALORE, "weights", "weights", "galore", SIZES, ("0.12", "0.25", "0.68", "2.60"), _same("adamw"), MIXED),
    Claim(GALORE, "full rank", "state", "galore", SIZES, ("0.23", "0.51", "1.37", "5.20"), _same("adamw"), MIXED),
    Claim(GALORE, "full rank", "total", "galore", SIZES, ("0.36", "0.76", "2.06", "7.80"), _same("adamw"), MIXED),
    Claim(
        GALORE, "GaLore", "state", "galore", SIZES, ("0.13", "0.28", "0.54", "1.78"), _ranked("galore"), UNKNOWN
    ),
    Claim(
        GALORE, "GaLore", "total", "galore", SIZES, ("0.24", "0.52", "1.22", "4.38"), _ranked("galore"), UNKNOWN
    ),
    Claim(
        GALORE_7B, "8-bit Adam", "state", "galore:unit=GB,state_dtype=int8", ("llama-7b",), ("13",), ("adamw",)
    ),
    Claim(
        GALORE_7B, "8-bit Adam", "total", "galore:unit=GB,state_dtype=int8", ("llama-7b",), ("26",), ("adamw",),
        "13 + 13: a sum of rounded numbers, 13.48 GB of weights and as much of state",
    ),
    Claim(
        GALORE_7B, "8-bit GaLore", "total", "galore:unit=GB,state_dtype=int8", ("llama-7b",), ("18",),
        ("galore:rank=1024",),
    ),
    Claim(
        GALORE_7B, "8-bit GaLore", "state", "galore:unit=GB,state_dtype=int8", ("llama-7b",), ("4.9",),
        ("galore:rank=1024",), "without the scales of its blocks; which types the projectors have is not told",
    ),
    Claim(
        APOLLO, "APOLLO, half rank", "total", "apollo", SIZES, ("0.18", "0.39", "0.95", "3.49"),
        _ranked("apollo", (64, 128, 128, 256)), FROM_GALORE,
    ),
    Claim(
        APOLLO, "APOLLO", "total", "apollo", SIZES, ("0.24", "0.52", "1.22", "4.38"), _ranked("apollo"),
        FROM_GALORE,
    ),
    Claim(
        APOLLO, "APOLLO-Mini", "total", "apollo", SIZES, ("0.12", "0.25", "0.69", "2.60"),
        _same("apollo:variant=mini"), "weights as GaLore's table prints them, and next to no state",
    ),
    Claim(
        APOLLO_STATE, "APOLLO, rank 256", "state", "apollo:unit=GB", ("llama-350m", "llama-7b"),
        ("0.34", "1.6"), _same("apollo:rank=256", ("", "")),
        "at 350M the paper seems to count embeddings as if they were projected, next row",
    ),
    Claim(
        APOLLO_STATE, "APOLLO, rank 256, embeddings projected, too", "state", "galore:seeded=False",
        ("llama-350m", "llama-7b"), ("0.34", "1.6"), _same("apollo:rank=256" + EVERY_MATRIX, ("", "")),
    ),
    Claim(APOLLO_STATE, "APOLLO-Mini", "state", "apollo", ("llama-7b",), ("0.0",), ("apollo:variant=mini",)),
    Claim(
        FIRA, "full rank", "total", "fira", SIZES, ("0.48", "1.01", "2.74", "10.40"), _same("adamw"),
        "at 60M and 1B four times the weights as GaLore's table prints them",
    ),
    Claim(
        FIRA, "GaLore", "total", "fira", SIZES, ("0.36", "0.77", "1.90", "6.98"), _ranked("galore"), FROM_GALORE
    ),
    Claim(FIRA, "Fira", "total", "fira", SIZES, ("0.36", "0.77", "1.90", "6.98"), _ranked("fira"), FROM_GALORE),
    Claim(ADAM_MINI, "AdamW, float32", "state", "adam-mini", ("llama-2-7b",), ("53.92",), ("adamw",)),
    Claim(ADAM_MINI, "Adam-mini, float32", "state", "adam-mini", ("llama-2-7b",), ("26.97",), ("adam_mini",)),
    Claim(
        SGD_SAI, "SGD-SaI, float32", "saved", "sgd-sai", ("llama-2-7b", "gpt2-xl"), ("25.15", "5.93"),
        _same("sgd_sai", ("", "")), "a second moment in float32; what else was measured is not told",
    ),
)  # fmt: skip
"""Every total that was looked at. Not among them: peaks that were measured with activations (LOMO, AdaLomo, MeZO)
and LoRA's, whose factors are weights of another model: pass that as a module."""


@functools.cache
def compared() -> tuple[Compared, ...]:
    """Each printed number with the computed one."""
    return tuple(
        Compared(claim, model, printed, spec, computed(claim, model, spec))
        for claim in CLAIMS
        for model, printed, spec in zip(claim.models, claim.printed, claim.specs, strict=True)
    )


def computed(claim: Claim, model: str, spec: str) -> float | None:
    """The claim's quantity for one model, in its unit; None for a rule that is not here."""
    if built_in(spec.partition(":")[0]) is None:
        return None
    plan = _plan(model, spec).counted(claim.accounting)
    if claim.quantity == "saved":
        size = _plan(model, "adamw").counted(claim.accounting).state - plan.state
    else:
        size = getattr(plan, claim.quantity)
    return float(size) / UNITS[claim.unit]


@functools.cache
def _plan(model: str, spec: str) -> Memory:
    return memory(_model(model), spec)


@functools.cache
def _model(name: str) -> Model:
    return planned(name)


HEAD = ("source", "what", "models", "printed", "computed", "met to .01", "how it is counted")


def rows() -> list[tuple[str, ...]]:
    """A line for each claim: its numbers side by side."""
    found: list[tuple[str, ...]] = []
    grouped: dict[int, list[Compared]] = {}
    for one in compared():
        grouped.setdefault(CLAIMS.index(one.claim), []).append(one)
    for place, ones in grouped.items():
        claim = CLAIMS[place]
        missed = [one.model.rpartition("-")[2] for one in ones if not one.met]
        absent = all(one.computed is None for one in ones)
        verdict = "not in this version" if absent else f"not {', '.join(missed)}" if missed else "yes"
        how = f"{claim.unit}, {accounting_of(claim.accounting).told()}"
        found.append(
            (
                claim.source,
                f"{claim.method}: {claim.quantity}",
                " ".join(model.removeprefix("llama-") for model in claim.models),
                " ".join(claim.printed),
                " ".join(_shown(one) for one in ones),
                verdict,
                how + (f". {claim.why[0].upper()}{claim.why[1:]}" if missed and claim.why and not absent else ""),
            )
        )
    return found


def _shown(one: Compared) -> str:
    return "–" if one.computed is None else f"{one.computed:.2f}"
