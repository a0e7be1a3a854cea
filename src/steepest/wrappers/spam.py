from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steepest.core.naming import HIDDEN
from steepest.core.rule import Rule, Slot
from steepest.wrappers.low_rank import ADAM_OF_HF
from steepest.wrappers.made import made
from steepest.wrappers.reset import FORMS, resetting
from steepest.wrappers.sparse import MASK, sparse
from steepest.wrappers.spikeclip import CODE, UNSEEN, clipping

OVER = "adamw"


def for_hidden(**values: Any) -> dict[str, Any]:
    return {"by_role": {role: values for role in HIDDEN}}


def spam(rule: type[Rule]) -> type[Rule]:
    """The rule with spike-aware clipping and momentum reset, its state sparse if wanted."""
    adamw = rule.name() == OVER

    class SPAM(sparse(resetting(clipping(rule)))):  # type: ignore[misc]
        """Spike-aware Adam with momentum reset: spikes are clipped, moments forgotten, the first steps after it
        short."""

        title = "SPAM (spike-aware Adam with momentum reset)" if adamw else f"SPAM over {rule.title}"
        paper = (
            "Huang et al., SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training, arXiv 2501.06842. "
            f"Over: {rule.paper}"
        )
        code = f"{CODE} (class AdamW, exported as SPAM). Over: {rule.code}"
        pseudocode = f"""
        at steps k, 2k, ... (k = reset_every): first and second moments <- 0; steps are counted on
        j: steps since the last reset, or since the start
        where g^2 > threshold * v: g <- sign(g) * sqrt(threshold * v)                 (if j >= clip_after)
        u <- the direction of {rule.__name__}
        u <- (1 - 0.99 * (1 + cos(pi * j / (reset_warmup + 1))) / 2) * u     (after a reset, if j < reset_warmup)
        w <- w - lr * u;  w <- (1 - lr * weight_decay) * w                                     (decay after)
        density d: all this for entries in a mask alone; the others neither move nor have state
          mask: exactly d of the entries at random; at each reset each entry anew with probability d

        {rule.__name__}:{rule.pseudocode}"""
        advice = (
            "For runs whose loss spikes and whose clipping by the global norm does not help: entries far above "
            "their second moment are cut, and every 500 steps the moments start again. Its authors report lower "
            "perplexity than Adam and Adafactor from 60M to 1B weights, in 4-bit training (130M, INT4: 25.0 "
            "against 26.4) and, with sparse momentum, than GaLore and Adam-mini at equal memory; no study of "
            "tuned optimizers has it. Where nothing spikes a reset is a loss. Stable-SPAM is its successor."
        )
        quirks = (
            UNSEEN,
            "After a reset bias corrections are 1: the first step is (1 - beta1) / sqrt(1 - beta2) times as long, "
            "3.2 by the default betas, and the warm-up, which begins at 0.01, damps it.",
            "The clip waits clip_after steps after each reset, too, until the second moment has gathered.",
            "With a density, the entries in the mask are decayed; in the authors' code decay then acts on a copy "
            "and has no effect, at density 1 either, which they recommend for hidden layers (variant official).",
            "The first mask has exactly floor(d * entries), here at least one; later ones are of random count, "
            "for which there is room up to six standard deviations. The state is 2d of a weight's and the mask a "
            "byte an entry, as there.",
            "reset_every=0 is no reset, and with a density one mask for good; there it divides by zero.",
            "Weights that a companion moves are neither clipped nor reset.",
            "The authors' code writes the clipped gradient into p.grad and keeps its counters where state_dict "
            "does not find them again; its copy in the Stable-SPAM repository has a threshold of 2000.",
            *rule.quirks,
        )
        variants = {
            **({"spam": {}} if adamw else rule.variants),
            ("official" if adamw else "spam-official"): {"clip_unseen": True, **for_hidden(weight_decay=0.0)},
            **({"sparse": for_hidden(density=0.25)} if rule.scope == "element" else {}),
        }
        recipe = {"weight_decay": 0.0} if adamw else rule.recipe
        recipe_source = (
            "README of the authors' code: threshold 5000, a reset every 500 steps, 150 of warm-up, no decay"
            if adamw
            else f"{rule.recipe_source}; the paper on SPAM has none over this rule"
        )

        def clip_trusts(self, t: int) -> bool:
            """The clip waits after a reset as it does at first."""
            since = t % self.reset_every if self.reset_every and self.reset_form == "moments" else t
            return since >= self.clip_after

        def redraws(self, t: int) -> bool:
            return self.resets_at(t + 1)

        @classmethod
        def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
            h = told["hyperparameters"]
            masked = {key.split("/", 3)[3] for key in arrays if key.startswith("extra/mask/")}
            own = {"density": h["density"], "weight_decay": 0.0}  # on a copy: without effect
            return {
                "lr": h["lr"],
                "betas": tuple(h["betas"]),
                "eps": h["eps"],
                "weight_decay": h["weight_decay"],
                "threshold": float(h["threshold"]),
                "clip_after": int(h["grad_accu_steps"]),
                "clip_unseen": True,
                "reset_every": int(h["DeltaT"]),
                "reset_warmup": int(h["warmup_steps"]),
                "groups": {name: own if name in masked else {} for name in told["tensors"]},
            }

        def fed(self, t: int, name: str, shape: tuple[int, ...], slots: Mapping[str, Slot]) -> dict[str, str]:
            """The mask of the step after, which counts from 1: t + 2."""
            cycle = (t + 2) // self.reset_every if self.reset_every else 0
            return {MASK: f"extra/mask/{cycle}/{name}"} if MASK in slots else {}

    return made(SPAM, rule, OVER, {**FORMS["spam"], **(ADAM_OF_HF if adamw else {})})
