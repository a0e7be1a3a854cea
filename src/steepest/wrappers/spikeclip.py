from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.rule import Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema
from steepest.wrappers.averages import same_gradient
from steepest.wrappers.made import above, below, made

OVER = "adamw"
OWN = "spike_exp_avg_sq"

CODE = "TianjinYellow/SPAM-Optimizer@e8185fb galore_torch/SPAM.py"
UNSEEN = (
    "An entry whose second moment is 0 is not clipped: the authors' code clips it to 0, so that its second moment "
    "stays 0 and the entry never moves, the row of a rare token among others (clip_unseen)."
)


def clipping(rule: type[Rule]) -> type[Rule]:
    """A subclass of a rule that sees each entry of the gradient no larger than its second moment lets expect."""
    lends = rule.scope == "element"  # of others it may lie in another basis

    @dataclass(frozen=True)
    class Clipping(rule):  # type: ignore[valid-type, misc]
        """Spike-aware clipping: entries whose square is above a multiple of their second moment are cut to it."""

        threshold: float = choice(
            5000.0,
            "square of an entry, in units of its second moment, above which it is clipped; 0: none is",
            grid=(2000.0, 5000.0, 10000.0),
            low=0.0,
        )
        clip_after: int = choice(20, "steps that the second moment gathers before it clips", low=0)
        clip_beta2: float = number(
            0.999, "decay rate of the clip's own second moment, over a rule that has none it can use", high=1.0
        )
        clip_unseen: bool = choice(
            False, "entries whose second moment is 0 are clipped to 0", options=(False, True)
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            same_gradient(self)

        def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
            slots = super().slots(shape)
            if not self.threshold or (lends and "exp_avg_sq" in slots):
                return slots
            return slots | {OWN: Slot(shape)}

        def clip_trusts(self, t: int) -> bool:
            """Whether the second moment has gathered enough before step t."""
            return t >= self.clip_after

        def phase(self, t: int, turn: int = 0) -> str:
            clips = self.threshold > 0 and self.clip_trusts(t)
            return above("clip" if clips else "pass", super().phase(t, turn))

        def randoms(self, shape: tuple[int, ...], phase: str) -> Any:
            return super().randoms(shape, phase.partition(" ")[2])

        def spikes_clipped(
            self, g: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor, Step, dict[str, Tensor]]:
            """The gradient and step that the rule sees, and the clip's own slot if it has one."""
            word, step = below(step)
            if word == "clip":
                v = state[OWN] if OWN in state else state["exp_avg_sq"]
                bound = torch.sqrt(self.threshold * v)
                clipped = torch.minimum(torch.maximum(g, -bound), bound)
                g = clipped if self.clip_unseen else torch.where(v > 0, clipped, g)
            own = {OWN: ema(state[OWN], g * g, self.clip_beta2)} if OWN in state else {}
            return g, step, own

        def contribution(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
            g, step, _ = self.spikes_clipped(g, step, state)
            return super().contribution(g, w, step, state)

        def update(
            self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            g, step, own = self.spikes_clipped(g, step, state)
            u, new = super().update(g, w, step, {name: x for name, x in state.items() if name != OWN})
            return u, new | own

    return Clipping


def spikeclip(rule: type[Rule]) -> type[Rule]:
    """The rule with every entry of its gradient clipped that its second moment does not let expect."""

    class SpikeClip(clipping(rule)):  # type: ignore[misc]
        """Spike-aware clipping: entries whose square is above a multiple of their second moment are cut to it."""

        title = f"Spike-aware clipping of {rule.title}"
        paper = f"Huang et al., SPAM, arXiv 2501.06842, the clipping alone. Over: {rule.paper}"
        code = f"{CODE}. Over: {rule.code}"
        pseudocode = f"""
        where g^2 > threshold * v: g <- sign(g) * sqrt(threshold * v)          (from step clip_after on)
        v is the second moment of {rule.__name__} before the step, not bias-corrected, or, where it has none
        entry by entry:  v <- clip_beta2 * v + (1 - clip_beta2) * g^2          (of the clipped g)

        {rule.__name__}:{rule.pseudocode}"""
        advice = (
            "Against single entries of the gradient that are orders of magnitude above their usual size, as the "
            "paper on SPAM finds them around loss spikes; clipping by the global norm scales all entries for the "
            "sake of a few. At the default threshold an entry must be some 70 times the root of its second "
            "moment, so that a calm run is not touched. It costs nothing over a rule with Adam's second moment "
            "and 4 bytes per weight over others. No study of tuned optimizers has it."
        )
        quirks = (
            UNSEEN,
            "The second moment is used as it is, without bias correction: after 20 steps it is a fiftieth of the "
            "squares that it averages, and the default threshold clips at 10 times the usual size.",
            "A rule's own exp_avg_sq is used where the rule works entry by entry; elsewhere it may be of a "
            "rotated gradient (SOAP, GaLore), and the clip keeps one of its own.",
            "The authors' code writes the clipped gradient into p.grad; here gradients stay as they are.",
            "With decay='coupled' the decay is part of the gradient that is clipped.",
            *rule.quirks,
        )
        variants = {
            **({"spikeclip": {}} if rule.name() == OVER else rule.variants),
            "spikeclip-official": {"clip_unseen": True},
        }

    return made(SpikeClip, rule, OVER, {})
