from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steepest.core.rule import Rule, Step, number
from steepest.linalg.low_rank import out_of
from steepest.wrappers.low_rank import ADAM_OF_HF, RATES, low_rank
from steepest.wrappers.made import made

OVER = "adamw"


def galore(rule: type[Rule]) -> type[Rule]:
    """The rule run on the gradient's projection to a low-rank subspace, its direction projected back."""
    adamw = rule.name() == OVER

    @dataclass(frozen=True)
    class GaLore(low_rank(rule, "galore")):  # type: ignore[misc]
        """Gradient low-rank projection: the rule's state lives in a subspace that gradients now and then choose.

        A subspace of one's own: update_proj_gap=0, and ``optimizer.state[weight]["projector_right"].copy_(...)``,
        or ``projector_left``, before the first step and whenever it is to change.
        """

        title = "GaLore" if adamw else f"GaLore over {rule.title}"
        paper = f"Zhao et al., GaLore, arXiv 2403.03507, Algorithm 2. Over: {rule.paper}"
        code = (
            "jiaweizzhao/GaLore@2cc66f8 galore_torch/adamw.py, galore_projector.py (galore-torch 1.0). "
            f"Over: {rule.code}"
        )
        pseudocode = f"""
        every update_proj_gap steps, first step included: U S V^T <- SVD of g
          B <- first r rows of V^T (rows >= cols), else A <- first r columns of U               (proj_type std)
        R <- g B^T or A^T g
        u <- the direction of {rule.__name__} for the gradient R, its state in the subspace; kept at a refresh
        w <- w - lr * scale * (u B or A u)
        embeddings, head, norms, biases: companion AdamW

        {rule.__name__}:{rule.pseudocode}"""
        advice = (
            "Where state does not fit: at a rank of a quarter of the width it keeps 3 bytes a weight over AdamW "
            "instead of 8, and its paper reports perplexities within 3 % of Adam's from 60M to 1B weights "
            "(arXiv 2403.03507, table 2). Every update lies in the subspace of the last refresh, refreshes cost "
            "a singular value decomposition of every matrix, and moments are not carried over. APOLLO keeps "
            "less, needs no decomposition, and reports lower losses."
        )
        quirks = (
            "The rate of projected weights is lr * scale; decay and companion use lr.",
            "State is neither rotated nor reset when the subspace changes: its coordinates change their "
            "meaning, and so the signs of singular vectors matter. Here a vector's largest entry is positive, "
            "whatever the library and its threads; variant official takes LAPACK's signs.",
            "A rank beyond the shorter side is that side's: the projection is then a rotation. Of random "
            "directions there are as many as asked for.",
            "The official code with proj_type reverse_std, a wide matrix and a rank of at least its rows "
            "projects back on the wrong side and fails; here the side is that of the weight's shape.",
            "The official code decomposes in float32 whatever the type; here in the working type, which is "
            "float32 for weights of less than float64.",
            "A gradient of zeros at a refresh leaves the subspace as it is; the official code takes unit vectors.",
            "Filters of convolutions are flattened to (out, rest), where the official code decomposes them as "
            "tensors; its 8-bit and per-layer versions are not this rule.",
            "A random subspace (proj random) is Flora's (arXiv 2402.03293) without its moved momentum.",
            *rule.quirks,
        )
        variants = {
            "galore": {},
            "official": {"rank": 128, "signs": "lapack", "svd_dtype": "float32"},
            "official-7b": {
                "rank": 1024,
                "update_proj_gap": 500,
                "signs": "lapack",
                "svd_dtype": "float32",
                **({"lr": 5e-3} if adamw else {}),
            },
        }
        recipe = {"rank": 0.25, "update_proj_gap": 200, "scale": 0.25, **({} if adamw else rule.recipe)}
        recipe_source = (
            "README and table 2 of arXiv 2403.03507 (scale .25, a new subspace every 200 steps, no decay, rank a "
            f"quarter of the width from 350M on){'' if adamw else f'; {rule.recipe_source}'}"
        )

        scale: float = number(0.25, "factor of the projected direction", grid=(0.125, 0.25, 0.5, 1.0))

        def update(
            self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            subspace, _, u, new = self.within(g, step, state)
            return (None if u is None else out_of(self.scale * u, subspace)), new

    if adamw:
        return made(GaLore, rule, OVER, {**ADAM_OF_HF, "lr": 1e-2}, {"lr": RATES})
    return made(GaLore, rule, OVER, {})
