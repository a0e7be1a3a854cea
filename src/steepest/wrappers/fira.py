from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.rule import Rule, Step, choice, number
from steepest.linalg.low_rank import out_of
from steepest.wrappers.channel_scaled import channel, channel_scaled, stretch
from steepest.wrappers.low_rank import ADAM_OF_HF, RATES
from steepest.wrappers.made import made

OVER = "adamw"

AUTHORS: Mapping[str, Mapping[str, Any]] = {
    "adamw": {**ADAM_OF_HF, "lr": 1e-2},
    "rmsprop": {"alpha": 0.9, "lr": 1e-2},
}
"""Defaults of the two bases that the official code has where they differ from the base's own."""
COMPANIONS: Mapping[str, Mapping[str, Any]] = {
    "rmsprop": {"lr_ratio": 1.0, "betas": (0.0, 0.9), "correct_bias": False, "eps": 1e-8},
}
"""RMSprop as an AdamW."""
OFFICIAL: Mapping[str, Any] = {"limiter": "official", "signs": "lapack", "svd_dtype": "float32"}


def over(told: Mapping[str, Any]) -> str:
    """The rule that a recorded trajectory wraps."""
    return str(told["hyperparameters"].get("base", OVER))


def fira(rule: type[Rule]) -> type[Rule]:
    """The rule in a low-rank subspace, and the gradient outside of it, scaled as the rule scales inside."""
    adamw = rule.name() == OVER
    scaled = channel_scaled(rule, "fira")

    @dataclass(frozen=True)
    class Fira(scaled):  # type: ignore[valid-type, misc]
        """Full-rank steps from low-rank state: GaLore, and the rest of the gradient beside it.

        A subspace of one's own: update_proj_gap=0, and ``optimizer.state[weight]["projector_right"].copy_(...)``,
        or ``projector_left``, before the first step and whenever it is to change.
        """

        title = "Fira" if adamw else f"Fira over {rule.title}"
        paper = f"Chen et al., Fira, arXiv 2410.01623, Algorithm 1. Over: {rule.paper}"
        code = f"xichen-fy/Fira@5c28b13 optimizer_torch/ (fira 1.0.2). Over: {rule.code}"
        pseudocode = f"""
        every update_proj_gap steps, first step included: U S V^T <- SVD of g
          B <- first r rows of V^T (rows >= cols), else A <- first r columns of U               (proj_type std)
        R <- g B^T or A^T g
        N <- the direction of {rule.__name__} for the gradient R, its state in the subspace; kept at a refresh
        f <- |N_i| / (|R_i| + 1e-8) for each row i (columns if rows < cols)
        S <- f * (g - scale * (R B or A R))                                    (residual scaled: the code)
        S <- f * (g - (R B or A R))                                            (residual orthogonal: the paper)
        l <- max(|S| / ((s + 1e-8) * limiter_growth), 1);  S <- S / l;  s <- |S|         (s: the last |S|)
        w <- w - lr * (scale * (N B or A N) + S)
        embeddings, head, norms, biases: companion AdamW

        {rule.__name__}, its bias corrections put on the whole step if eps_form is hf:{rule.pseudocode}"""
        advice = (
            "Where GaLore would be used: one number more of state, one product more a step, and no direction is "
            "left out. Its paper reports perplexities of 31.06, 22.73, 16.85 and 14.31 from 60M to 1B weights, "
            "below GaLore and below its full-rank AdamW (34.06 to 15.56, not tuned far: the authors of SCALE get "
            "30.05 and 23.13 from Adam at 60M and 130M, and 30.34 and 22.96 from Fira). Refreshes cost a singular "
            "value decomposition of every matrix; APOLLO needs none and ends within 2 % of it. "
            "Try variant paper too: over AdamW, in a run of 400 steps at 50k weights (one seed, lr .08, the best "
            "of the code's form), it ended at a loss of 3.84 and the code's at 3.91."
        )
        quirks = (
            "scale in the residual: the code takes scale * P P^T g out of the gradient, so that at .25 three "
            "quarters of what lies in the subspace go both ways; the paper takes out all. The default is the "
            "code's, which its figures are of; variant paper the other; at scale=1 they are the same.",
            "The rate of the step in the subspace is lr * scale, of the rest lr; decay and companion use lr.",
            "Trap: after one gradient of zeros the official limiter remembers a norm of 0 and holds the residual "
            "at 1e-8 and 1.01 times as much every further step. Here a step of zeros leaves what is remembered, "
            "and another lowers it to limiter_floor of it at most (limiter official: as there).",
            "State is neither rotated nor reset when the subspace changes, and so the signs of singular vectors "
            "matter over a rule with momentum. Here a vector's largest entry is positive; variant official takes "
            "LAPACK's signs. Over RMSprop without momentum they do not matter.",
            "The official code decomposes in float32 whatever the type; here in the working type, which is "
            "float32 for weights of less than float64.",
            "A gradient of zeros at a refresh leaves the subspace as it is; the official code takes unit vectors.",
            "A random subspace (proj random) is no projection: with it the residual holds parts of the subspace.",
            "Over RMSprop the official code has no decay and a second moment without correction, its companion "
            "too: an AdamW with beta1=0 and no corrections.",
            *rule.quirks,
        )
        variants = {
            "fira": {},
            "paper": {"residual": "orthogonal"},
            "official": {"rank": 128, **OFFICIAL},
            "official-350m": {"rank": 256, **OFFICIAL},
            "official-1b": {"rank": 512, "scale": 0.0625, **OFFICIAL},
            "official-divide-params": {"rank": 8, "scale": 1.0, **OFFICIAL},
        }
        recipe = {
            "rank": 0.25,
            "update_proj_gap": 200,
            "scale": 0.25,
            **({} if rule.name() in AUTHORS else rule.recipe),
        }
        recipe_source = (
            "scripts of xichen-fy/Fira for LLaMA 60M and 350M (scale .25, a new subspace every 200 steps, no "
            f"decay, rank a quarter of the width){'' if rule.name() in AUTHORS else f'; {rule.recipe_source}'}"
        )
        companion = {**(scaled.companion or {}), **COMPANIONS.get(rule.name(), {})}
        recorded = "extra/projector/"

        scale: float = number(
            0.25, "factor of the step in the subspace (alpha)", grid=(0.0625, 0.125, 0.25, 0.5, 1.0)
        )
        residual: str = choice(
            "scaled", "what is taken out of the gradient: its projection times scale, or all of it",
            options=("scaled", "orthogonal"),
        )  # fmt: skip

        def update(
            self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            subspace, low, n, new = self.within(g, step, state)
            if n is None:
                return None, new
            inside = out_of(low, subspace)
            rest = g - (self.scale * inside if self.residual == "scaled" else inside)
            rest = stretch(n, low, channel(subspace)) * rest
            growth, kept = self.limited(rest, step, state)
            return step.factor * (self.scale * out_of(n, subspace) + rest / growth), new | kept

        @classmethod
        def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
            h = dict(told["hyperparameters"])
            if not adamw:  # told as the AdamW that the companion is
                h |= {"betas": (0.0, h.get("beta", 0.9)), "correct_bias": False}
            growth = h.get("limiter")
            limiter = {"limiter": "official", "limiter_growth": growth} if growth else {"limiter": "off"}
            h["scale"] = h["alpha"]
            found = {**super().of_trajectory({**told, "hyperparameters": h}, arrays), **limiter}
            if adamw:
                return found
            adams = ("betas", "correct_bias", "eps_form")
            return {"alpha": h["betas"][1], **{name: found[name] for name in found if name not in adams}}

    return made(Fira, rule, OVER, AUTHORS.get(rule.name(), {}), {"lr": RATES} if adamw else {})
