from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import Rule, Step, choice, number
from steepest.wrappers.made import made

OVER = "adamw"

AUTHORS: Mapping[str, Mapping[str, Any]] = {
    "adamw": {"eps": 1e-6, "weight_decay": 0.0},
    "lion": {"betas": (0.95, 0.98), "mask": "numel/(sum+1)"},
}
"""Defaults of C-AdamW and C-Lion where they differ from the base's; other rules keep their own."""

VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "adamw": {
        "c-adamw": {},
        "c-adamw-single": {"eps_form": "hf"},
        "original": {"eps_form": "hf", "mask": "numel/(sum+1)"},
        "paper-v4": {"eps_form": "hf", "mask": "mean+eps"},
        "levanter": {
            "betas": (0.95, 0.98),
            "eps": 1e-15,
            "weight_decay": 0.1,
            "mask": "mean+eps",
            "mask_eps": 1e-15,
        },
    },
    "lion": {"c-lion": {}, "head": {"mask": "mean-clamp"}},
}
C_ADAMW = (
    "C-AdamW's two code paths differ in epsilon: torch's form by default, hf with foreach=False, where alone "
    "correct_bias is read."
)
MASKS: Mapping[str, Mapping[str, Any]] = {
    "original": {"mask": "numel/(sum+1)"},
    "paper-v4": {"mask": "mean+eps"},
}


def over(told: Mapping[str, Any]) -> str:
    """The rule that a recorded trajectory wraps: Lion has no epsilon."""
    return "lion" if told["hyperparameters"].get("eps") is None else OVER


def cautious(rule: type[Rule]) -> type[Rule]:
    """The rule with every coordinate of its direction left out that would increase the loss to first order."""
    adamw = rule.name() == OVER

    @dataclass(frozen=True)
    class Cautious(rule):  # type: ignore[valid-type, misc]
        """Only coordinates that agree in sign with the gradient move, scaled up for the others."""

        title = f"Cautious {rule.title}"
        paper = f"Liang et al., Cautious Optimizers, arXiv 2411.16085, Algorithm 1. Over: {rule.paper}"
        code = f"kyleliang919/C-Optim@2c0517c c_adamw.py, c_lion.py; original mask: @3106e07. Over: {rule.code}"
        pseudocode = f"""
        u <- the direction of {rule.__name__}, its state as ever
        phi <- 1[u * g > 0]                                (0 where either is 0)
        phi <- phi / max(mean(phi), 1e-3)                  (mask mean-clamp)
        phi <- phi * numel / (sum(phi) + 1)                (mask numel/(sum+1))
        phi <- phi / (mean(phi) + mask_eps)                (mask mean+eps)
        u <- u * phi                                       (decay is never masked)

        {rule.__name__}:{rule.pseudocode}"""
        scope = "tensor" if rule.scope == "element" else rule.scope
        advice = (
            "One line over a rule that is in use already: neither state nor a hyperparameter to tune. Tuned "
            "against a tuned AdamW the gain is small: 0.95 to 1.09 times its speed in tokens at 130M weights, "
            "1.00 to 1.05 at 300M and 520M (arXiv 2509.02046, one seed). It wants a higher beta1 (.95 to .98) "
            "than AdamW; .8 diverged."
        )
        quirks = (
            "The mask acts on the direction alone: neither moments nor decay are masked (Cautious Weight Decay, "
            "arXiv 2510.12402, is another method).",
            "The share of ones is of one weight, or of one matrix under a rule for matrices; levanter, which "
            "stacks layers, takes one share over all layers.",
            "mask mean+eps scales without bound where few coordinates agree; mean-clamp stops at 1000.",
            "A companion is not masked. Over Muon the mask comes after the orthogonalisation, and the update is "
            "no longer orthogonal; C-Optim's c_muon.py masks before it.",
            *((C_ADAMW,) if adamw else ()),
            *rule.quirks,
        )
        variants = (
            {**VARIANTS[rule.name()], **{k: v for k, v in list(rule.variants.items())[1:]}}
            if rule.name() in VARIANTS
            else {**rule.variants, **MASKS}
        )
        recipe = {"betas": [0.95, 0.98], "eps": 1e-15, "weight_decay": 0.1} if adamw else rule.recipe
        recipe_source = (
            "arXiv 2509.02046, phase I optimum of Cautious AdamW at 130M (betas .95/.98, eps 1e-15, decay .1)"
            if adamw
            else f"{rule.recipe_source}; the paper on Cautious keeps the values of the rule below"
        )

        mask: str = choice(
            "mean-clamp",
            "what the kept coordinates are multiplied by",
            options=("mean-clamp", "numel/(sum+1)", "mean+eps"),
        )
        mask_eps: float = number(1e-8, "added to the share of kept coordinates (mask mean+eps)")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.writes_weight:
                raise BadInput(
                    f"cautious over {rule.name()}: this rule writes the weight itself, and there is no direction "
                    "to mask: wrap a rule that returns one, such as adamw"
                )

        def update(
            self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
        ) -> tuple[Tensor | None, dict[str, Tensor]]:
            u, new = super().update(g, w, step, state)
            if u is None:
                return None, new
            phi = (u * g > 0).to(u.dtype)
            whole = self.scope != "matrix"
            if self.mask == "numel/(sum+1)":
                numel = u.numel() if whole else u.shape[-2] * u.shape[-1]
                ones = phi.sum() if whole else phi.sum(dim=(-2, -1), keepdim=True)
                return u * (phi * (numel / (ones + 1))), new
            share = phi.mean() if whole else phi.mean(dim=(-2, -1), keepdim=True)
            share = share.clamp(min=1e-3) if self.mask == "mean-clamp" else share + self.mask_eps
            return u * (phi / share), new

        @classmethod
        def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
            h = dict(told["hyperparameters"])
            arguments = {name: h[name] for name in ("lr", "weight_decay", "mask")}
            arguments |= {"betas": (h["beta1"], h["beta2"]), "decay": "before"}
            if over(told) == "lion":
                return arguments
            foreach = "foreach=True" in told["source"] or "eps_placement" in h
            corrected = foreach or h.get("correct_bias", True)  # the path with foreach always corrects
            eps_form = "torch" if foreach else "hf"
            return arguments | {"eps": h["eps"], "eps_form": eps_form, "correct_bias": corrected}

    return made(Cautious, rule, OVER, AUTHORS.get(rule.name(), {}))
