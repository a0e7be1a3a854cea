from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import Ask, Rule, Step, choice
from steepest.wrappers.made import above, below, made

OVER = "adamw"

MOMENTS = re.compile(r"exp_avg|momentum|(^|_)var(iance)?$")
"""Slots that average gradients or their squares. A Hessian, a preconditioner, a previous gradient are none."""
FORMS: Mapping[str, Mapping[str, Any]] = {
    "spam": {"reset_form": "moments", "reset_every": 500, "reset_warmup": 150},
    "stable-spam-official": {"reset_form": "official"},
}


def resetting(rule: type[Rule]) -> type[Rule]:
    """A subclass of a rule that forgets its moments, or all its state, every so many steps."""
    calendar = rule.scope != "element"

    @dataclass(frozen=True)
    class Resetting(rule):  # type: ignore[valid-type, misc]
        """Momentum reset: every so many steps a rule begins anew, or forgets its moments alone."""

        reset_every: int = choice(1000, "steps from reset to reset; 0: never", grid=(500, 1000), low=0)
        reset_form: str = choice(
            "anew",
            "all state to zero and the step count at 1 again; the moments alone (SPAM); Stable-SPAM's code",
            options=("anew", "moments", "official"),
        )
        reset_warmup: int = choice(
            0, "steps after a reset over which the direction grows to its full length; 0: at once", low=0
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.reset_every:
                return
            if self.needs(1):
                raise BadInput(
                    f"{self.name()}: {self.needs(1)[0].kind}, measured before a step, is in state that a reset "
                    "empties: set reset_every=0, or wrap a rule without, such as adamw"
                )
            if self.reset_warmup and super().writes_weight:
                raise BadInput(
                    f"{self.name()}: the rule below writes the weight itself, and there is no direction to warm "
                    "up after a reset: set reset_warmup=0"
                )
            if self.reset_form == "official" and calendar:
                raise BadInput(
                    f"{self.name()}: reset_form='official' counts steps from 1 and keeps what the rule made of "
                    "its first one: set reset_form='anew', or 'moments'"
                )

        def resets_at(self, t: int) -> bool:
            return self.reset_every > 0 and t % self.reset_every == 0

        def local_step(self, t: int) -> int:
            """The step count of the rule below: 1 at each reset, unless moments alone are reset."""
            if self.reset_form == "moments" or not self.reset_every or t < self.reset_every:
                return t
            return t % self.reset_every + 1

        def reset_warmth(self, t: int) -> float:
            """The direction's factor: 0.01 at a reset, 1 from ``reset_warmup`` steps after it on."""
            since = t % self.reset_every if self.reset_every else t
            if not self.reset_every or t < self.reset_every or since >= self.reset_warmup:
                return 1.0
            return 1 - 0.99 * (1 + math.cos(math.pi * since / (self.reset_warmup + 1))) / 2

        def phase(self, t: int, turn: int = 0) -> str:
            word = "reset" if self.resets_at(t) else "warm" if self.reset_warmth(t) < 1 else "go"
            return above(word, super().phase(self.local_step(t), turn))

        def corrections(self, t: int) -> dict[str, float]:
            return {**super().corrections(self.local_step(t)), "reset_warmth": self.reset_warmth(t)}

        def randoms(self, shape: tuple[int, ...], phase: str) -> Any:
            return super().randoms(shape, phase.partition(" ")[2])

        def asks(self, t: int) -> tuple[Ask, ...]:
            return super().asks(self.local_step(t))

        def after_reset(self, step: Step, state: dict[str, Tensor]) -> tuple[str, Step, dict[str, Tensor]]:
            """The word, and the step and state that the rule sees."""
            word, step = below(step)
            if word == "reset" and self.reset_form != "official":
                anew = self.reset_form == "anew"
                state = {n: torch.zeros_like(x) if anew or MOMENTS.search(n) else x for n, x in state.items()}
            return word, step, state

        def contribution(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
            _, step, state = self.after_reset(step, state)
            return super().contribution(g, w, step, state)

        def update(
            self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            word, step, state = self.after_reset(step, state)
            u, new = super().update(g, w, step, state)
            if word == "reset" and self.reset_form == "official":
                new = {n: torch.zeros_like(x) if n in ("exp_avg", "exp_avg_sq") else x for n, x in new.items()}
            if word != "go" and self.reset_warmup and u is not None:
                u = step.reset_warmth * u
            return u, new

    return Resetting


def reset(rule: type[Rule]) -> type[Rule]:
    """The rule begun anew every so many steps."""

    class Reset(resetting(rule)):  # type: ignore[misc]
        """Momentum reset: every so many steps a rule begins anew, or forgets its moments alone."""

        title = f"{rule.title}, reset at intervals"
        paper = (
            "Huang et al., SPAM, arXiv 2501.06842 (form moments), and Stable-SPAM, arXiv 2502.17055 (forms anew "
            f"and official), the reset alone. Over: {rule.paper}"
        )
        code = (
            "TianjinYellow/SPAM-Optimizer@e8185fb galore_torch/SPAM.py; TianjinYellow/StableSPAM@6a66da1 "
            f"galore_torch/stablespam.py. Over: {rule.code}"
        )
        pseudocode = f"""
        at steps k, 2k, ... (k = reset_every), before the step:
          all state <- 0, and the step is step 1 of {rule.__name__}                          (form anew)
          first and second moments <- 0; steps are counted on                     (form moments: SPAM)
        after the step, which counts as step 1: moments <- 0; the next is step 2       (form official: Stable-SPAM)
        u <- the direction of {rule.__name__}; j: steps since the reset
        u <- (1 - 0.99 * (1 + cos(pi * j / (reset_warmup + 1))) / 2) * u          (j < reset_warmup)

        {rule.__name__}:{rule.pseudocode}"""
        advice = (
            "Against moments that a burst of bad gradients has spoilt for as long as they remember it: a second "
            "moment of decay rate .999 for thousands of steps. SPAM and Stable-SPAM reset Adam every 500 or 1000 "
            "steps; over other rules it is an experiment. Where the moments are good a reset costs what they had "
            "learnt, and a rule that begins anew takes its first steps at full length unless reset_warmup makes "
            "them short. Leave it off (reset_every=0) where nothing spikes."
        )
        quirks = (
            "In SPAM's form the step count goes on, so that bias corrections are 1 after a reset: the first step "
            "then is (1 - beta1) / sqrt(1 - beta2) times as long, 3.2 by the default betas, and the warm-up, "
            "which begins at 0.01, is there to damp it.",
            "Stable-SPAM's code zeroes the moments after the step instead of before it: the step of the reset "
            "uses the old moments with the bias corrections of step 1, its own gradient is lost, and the next "
            "step counts as the second. It is for rules that work entry by entry.",
            "A rule with a calendar begins that anew too (form anew): SOAP spends a step on new bases.",
            "Moments are slots called exp_avg, momentum, var; neither Sophia's Hessian nor bases nor the "
            "largest second moment in Stable-SPAM's code are. A companion's weights are not reset.",
            *rule.quirks,
        )
        variants = {"anew": {}, **FORMS} if rule.name() == OVER else {**rule.variants, "spam": FORMS["spam"]}

    return made(Reset, rule, OVER, {})
