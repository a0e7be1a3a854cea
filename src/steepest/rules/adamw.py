from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core import lowbit
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import adam_direction, bias_corrections, ema


@dataclass(frozen=True)
class AdamW(Rule):
    """Adam with decoupled weight decay; Adam with ``decay="coupled"``; AMSGrad."""

    title = "AdamW"
    paper = (
        "Kingma & Ba, Adam, arXiv 1412.6980, Algorithm 1; Loshchilov & Hutter, Decoupled Weight Decay "
        "Regularization, arXiv 1711.05101, Algorithm 2; AMSGrad: Reddi, Kale, Kumar, ICLR 2018, Algorithm 2"
    )
    code = "torch.optim.AdamW, torch.optim.Adam (torch 2.13)"
    pseudocode = """
        w <- (1 - lr * weight_decay) * w
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g^2
        x <- max(x, v), used in place of v       (amsgrad; on the uncorrected v, as torch does)
        w <- w - lr * m / (1 - beta1^t) / (sqrt(v) / sqrt(1 - beta2^t) + eps)         (eps_form torch)
        w <- w - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps)         (eps_form hf)
    """
    recorded_as = ("adam8bit",)
    scope = "element"
    advice = (
        "The measure of all others, and the choice where nothing else is known: every framework has it, every "
        "study tunes it, and no rule that looks at single numbers alone has been shown to beat a tuned one by more"
        " than about 1.15 times in tokens (arXiv 2509.02046). Tune its learning rate first: at 130M weights the "
        "usual 6e-4 costs more than twice the tokens of 8e-3. Its two moments are 8 bytes per weight; where these "
        "do not fit, see Lion, Signum, or a rule with factored or shared moments."
    )
    quirks = (
        "The AdamW paper multiplies the decay by the schedule's factor only, not by the base lr; torch and "
        "nearly all others multiply by lr. The paper's form is decay='independent'.",
        "A coordinate whose gradient was always zero does not move; with eps=0 it becomes NaN.",
        "In eps_form hf the effective epsilon is eps / sqrt(1 - beta2^t): larger in the first steps.",
        "correct_bias=False, an option of the HF form, leaves out both 1 - beta^t: the first steps are then "
        "(1 - beta1) / sqrt(1 - beta2) times as long, 3 times by the default betas.",
    )
    variants = {
        "torch": {},
        "adam": {"decay": "coupled", "weight_decay": 0.0},
        "amsgrad": {"amsgrad": True},
        "hf": {"eps_form": "hf", "decay": "after", "eps": 1e-6, "weight_decay": 0.0},
    }
    recipe = {"betas": [0.9, 0.98], "eps": 1e-10, "weight_decay": 0.1}
    recipe_source = "arXiv 2509.02046, phase I optimum of AdamW at 130M (beta2 .98, eps 1e-10, decay .1)"

    lr: float = number(1e-3, "learning rate", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the first and the second moment",
        grid=((0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.99, 0.999)),
        high=1.0,
    )
    eps: float = number(1e-8, "added to the root of the second moment", grid=(1e-20, 1e-15, 1e-10, 1e-8, 1e-5))
    weight_decay: float = number(1e-2, "weight decay", grid=(0.0, 0.1, 0.2))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    amsgrad: bool = choice(False, "divide by the largest second moment so far", options=(False, True))
    eps_form: str = choice("torch", "where epsilon enters", options=("torch", "hf"))
    correct_bias: bool = choice(True, "undo the moments' start at zero", options=(True, False))

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if self.amsgrad else 2]
        return {name: Slot(shape, signed="_sq" not in name) for name in names}

    def corrections(self, t: int) -> dict[str, float]:
        return bias_corrections(self.betas, t) if self.correct_bias else {"bias1": 1.0, "root_bias2": 1.0}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        m = ema(state["exp_avg"], g, beta1)
        v = ema(state["exp_avg_sq"], g * g, beta2)
        new = {"exp_avg": m, "exp_avg_sq": v}
        if self.amsgrad:
            v = new["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], v)
        return adam_direction(m, v, step.bias1, step.root_bias2, self.eps, self.eps_form), new

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        if told["optimizer"] == "adam8bit":  # on a GPU the moved weight shrinks
            form = lowbit.of_trajectory(told)
            own = {name: h[name] for name in ("lr", "betas", "eps", "weight_decay")}
            return {**own, "decay": "after" if form.keep_sign else "before", "state": form}
        betas = (h.pop("beta1"), h.pop("beta2"))
        return {"betas": betas, "decay": "before" if h.pop("decoupled") else "coupled", **h}
