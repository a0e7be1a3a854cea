from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.rule import Rule, Step, choice, number
from steepest.wrappers.channel_scaled import channel, channel_scaled, stretch
from steepest.wrappers.low_rank import ADAM_OF_HF, RATES
from steepest.wrappers.made import made

OVER = "adamw"
WHOLE = (-2, -1)

MINI: Mapping[str, Any] = {"rank": 1, "scale_type": "tensor", "scale": 128.0}


def apollo(rule: type[Rule]) -> type[Rule]:
    """The gradient itself, each channel scaled as the rule would scale it in a low-rank subspace."""
    adamw = rule.name() == OVER

    @dataclass(frozen=True)
    class APOLLO(channel_scaled(rule, "apollo")):  # type: ignore[misc]
        """Approximated gradient scaling: the rule runs in a random subspace, which tells how large steps are.

        A subspace of one's own: update_proj_gap=0, and ``optimizer.state[weight]["projector_right"].copy_(...)``,
        or ``projector_left``, before the first step and whenever it is to change.
        """

        title = "APOLLO" if adamw else f"APOLLO over {rule.title}"
        paper = f"Zhu et al., APOLLO, arXiv 2412.05270, Algorithm 1. Over: {rule.paper}"
        code = f"zhuhanqing/APOLLO@76b3472 apollo_torch/apollo.py (apollo-torch). Over: {rule.code}"
        pseudocode = f"""
        every update_proj_gap steps, first step included: P <- N(0, 1) / sqrt(r)
        R <- g P^T (rows >= cols), else P^T g
        N <- the direction of {rule.__name__} for the gradient R, its state in the subspace; kept at a refresh
        f <- |N_i| / (|R_i| + 1e-8) for each row i of g (columns if rows < cols)       (scale_type channel)
        f <- |N| / (|R| + 1e-8)                                                        (scale_type tensor)
        u <- f * g;  u <- sqrt(scale) * u                                              (scale_front)
        l <- max(|u| / ((s + 1e-8) * limiter_growth), 1);  u <- u / l;  s <- |u|       (s: the last |u|)
        u <- sqrt(scale) * u                                                           (not scale_front)
        w <- w - lr * u
        embeddings, head, norms, biases: companion AdamW

        {rule.__name__}, its bias corrections put on u at the end if eps_form is hf:{rule.pseudocode}"""
        advice = (
            "Where state does not fit: at a rank of a quarter of the width it keeps 3 bytes a weight over AdamW "
            "instead of 8, APOLLO-Mini (rank 1) next to none, and there is no decomposition to wait for. The "
            "paper reports perplexities below those of its AdamW baseline from 60M to 7B weights (arXiv "
            "2412.05270); neither study of tuned optimizers has it. Gradients are scaled and not averaged: "
            "batches must be large. Experts and embeddings whose gradient is sometimes zero need the mended "
            "limiter, which is the default."
        )
        quirks = (
            "scale enters by its square root: 128 multiplies updates by 11.3; the paper writes the factor itself.",
            "The raw gradient is scaled: there is no momentum over all coordinates.",
            "Trap: after one gradient of zeros the official limiter remembers a norm of 0, lets the next be "
            "1e-8 and every further one 1.01 times as large: some 1,400 steps without movement. Here a step of "
            "zeros leaves what is remembered, and another lowers it to limiter_floor of it at most (limiter "
            "official: as there).",
            "A rank beyond the shorter side: of random directions there are as many as asked for, as in the "
            "official code, which costs more state than AdamW's; of singular vectors as many as that side has.",
            "The official P comes from torch's generator, seeded by the weight's place; here from counters "
            "(seed, step, place), the same under every engine. It is kept: drawing it again at every step would "
            "save r x the shorter side and cost as many normal numbers a step.",
            "One third-party version projects back instead of scaling the raw gradient: another method.",
            *rule.quirks,
        )
        variants = {
            "apollo": {},
            "mini": MINI,
            "official": {"rank": 256, "limiter": "official", "signs": "lapack", "svd_dtype": "float32"},
            "official-mini": {**MINI, "limiter": "official", "signs": "lapack", "svd_dtype": "float32"},
        }
        recipe = {"rank": 0.25, "update_proj_gap": 200, **({} if adamw else rule.recipe)}
        recipe_source = (
            "README and section 5 of arXiv 2412.05270 (channel scaling, rank a quarter of the width, no decay, a "
            f"new subspace every 200 steps){'' if adamw else f'; {rule.recipe_source}'}"
        )

        scale_type: str = choice(
            "channel", "one factor for each row or column, or one in all", options=("channel", "tensor")
        )
        scale: float = number(1.0, "the square of the update's factor", grid=(1.0, 4.0, 16.0, 128.0))
        scale_front: bool = choice(False, "the factor comes before the limiter", options=(False, True))

        def update(
            self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            subspace, low, n, new = self.within(g, step, state)
            if n is None:
                return None, new
            u = stretch(n, low, channel(subspace) if self.scale_type == "channel" else WHOLE) * g
            root = self.scale**0.5
            if self.scale_front:
                u = root * u
            growth, kept = self.limited(u, step, state)
            factor = step.factor if self.scale_front else root * step.factor
            return u * (factor / growth), new | kept

        @classmethod
        def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
            h = told["hyperparameters"]
            own = {name: h[name] for name in ("scale_type", "scale_front") if name in h}
            own["limiter"] = "official" if h["norm_growth_limiter"] else "off"
            return super().of_trajectory(told, arrays) | own

    if adamw:
        return made(APOLLO, rule, OVER, {**ADAM_OF_HF, "lr": 1e-2, "proj": "random"}, {"lr": RATES})
    return made(APOLLO, rule, OVER, {"proj": "random"})
