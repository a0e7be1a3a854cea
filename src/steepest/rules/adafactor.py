from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import adam_direction, bias_corrections, ema
from steepest.linalg.factored import averaged, rms, second_moment

FORMULATIONS = ("t2t", "hf", "torch", "deconstructing")
MOMENTUM_FORM = {"formulation": "deconstructing", "lr": 3.16e-3, "beta1": 0.9, "beta2": 0.95}


@dataclass(frozen=True)
class Adafactor(Rule):
    """Adafactor: a second moment of rank one, of which only row and column means are kept."""

    title = "Adafactor (second moment of rank one)"
    paper = (
        "Shazeer & Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, arXiv 1804.04235, "
        "Algorithms 4 to 6; with momentum (formulation deconstructing): Zhao et al., Deconstructing What Makes a "
        "Good Optimizer for Language Models, arXiv 2407.07972"
    )
    code = (
        "t2t: tensorflow/tensor2tensor@bafdc1b tensor2tensor/utils/adafactor.py (Shazeer's own); hf: transformers "
        "5.23 optimization.py; torch: torch.optim.Adafactor (torch 2.13); deconstructing: "
        "rosieyzh/optimizers-llm@a1f8a3f olmo/optim.py AdafactorW, AdafactorWLast"
    )
    pseudocode = """
        factored(q, beta), for a tensor of two dimensions or more; a vector keeps its whole V:
            R <- beta * R + (1 - beta) * mean of each row of q;  C likewise of each column
            V = R C / mean(R)
        Shazeer & Stern (t2t, hf, torch):
            rho   <- lr, or without one min(1 / sqrt(t), 1e-2);  min(lr, 1 / sqrt(t))  (torch)
            alpha <- rho * max(eps2, rms(w))                     (scale_parameter; else rho)
            V <- factored(g^2 + eps1, 1 - t^-decay_rate)         (torch: eps1 is a floor instead)
            u <- g / sqrt(V);  u <- u / max(1, rms(u) / clip_threshold)
            m <- beta1 * m + (1 - beta1) * alpha * u             (beta1 > 0; else m = alpha * u)
            w <- (1 - alpha * weight_decay) * w - m              (torch: lr * weight_decay)
        with momentum (deconstructing):
            w <- (1 - lr * weight_decay) * w
            m <- beta1 * m + (1 - beta1) * g;  V <- factored(g^2, beta2)
            w <- w - lr * m / (1 - beta1^t) / (sqrt(V) / sqrt(1 - beta2^t) + eps)
    """
    scope = "tensor"
    advice = (
        "Where Adam's second moment does not fit. With momentum (variant deconstructing) it keeps 4 bytes per "
        "weight instead of AdamW's 8, and one study found loss and tolerance of the learning rate comparable to "
        "Adam's from 150M to 1.2B weights (arXiv 2407.07972, one seed). Without momentum it keeps next to "
        "nothing: T5 was trained so, by the relative step and without a learning rate to tune. Say which of the "
        "four forms is meant: the same name and learning rate mean other steps in each."
    )
    quirks = (
        "Without lr the step is the relative one: at most 1 % of the weight's own size until step 10,000, then "
        "1 / sqrt(t) of it. A schedule then moves a factor that starts at 1.",
        "In torch's form lr is a cap on 1 / sqrt(t), and the decay is by lr alone.",
        "T2T's code multiplies the relative step by 0.05 where the weight's size is not a factor; HF's does not.",
        "T2T's code has no weight decay: here it is HF's, scaled by the whole step size, weight's size included.",
        "The momentum of the first three forms averages steps that are already scaled, without bias correction.",
        "The study's code averages g^2 of a vector to one number (a mean over an empty list of dimensions): norm "
        "gains and biases get one second moment each. Here elementwise, as in the paper; variant "
        "deconstructing-official has theirs.",
        "Of a tensor of more than two dimensions the last two are factored, as in T2T, HF and torch; the study's "
        "code makes one factor of every dimension.",
        "A fused weight (query, key and value in one) is one matrix, as it is stored: rows are the first of the "
        "last two dimensions, which second_moment='rows' takes for neurons.",
        "torch's code resolves eps1=None by a group's first weight; here by each weight's working type, which is "
        "float32 for bfloat16 weights.",
        "A matrix whose gradient was always zero does not move; the study's code makes it nan.",
        "sgd-hybrid is the study's hybrid: last layer and norms adapt at a rate of their own, other weights "
        "follow their bias-corrected momentum. The study swept its lr from 0.1 to 3160 and tells no best one.",
    )
    variants = {
        "t2t": {},
        "hf": {"formulation": "hf", "lr": None, "relative_step": True},
        "torch": {"formulation": "torch", "lr": 1e-2},
        "deconstructing": MOMENTUM_FORM,
        "deconstructing-official": {**MOMENTUM_FORM, "vectors": "scalar"},
        "sgd-hybrid": {
            **MOMENTUM_FORM,
            "lr": 10.0,
            "lr_grid": (0.316, 1.0, 3.16, 10.0, 31.6, 100.0),
            "second_moment": "none",
            "by_role": {role: {"second_moment": "factored", "lr": 3.16e-3} for role in ("head", "norm")},
        },
    }
    recipe = {"variant": "deconstructing"}
    recipe_source = "arXiv 2407.07972, Adafactor with momentum (lr 3.16e-3, betas .9/.95, eps 1e-15, no decay)"

    lr: Any = number(  # None, or a number once it is resolved
        None, "step size; None: the relative step", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
    )
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 1e-3, 1e-2, 0.1))
    decay: Decay = choice("before", "where the decay acts (deconstructing)", options=DECAYS)
    formulation: str = choice("t2t", "which of the four rules", options=FORMULATIONS)
    second_moment: str = choice(
        "factored",
        "of a matrix: rows and columns, rows only, every element, or none (deconstructing: plain momentum)",
        options=("factored", "rows", "full", "none"),
    )
    vectors: str = choice(
        "elementwise", "second moment of a vector: each element's or one", options=("elementwise", "scalar")
    )
    beta1: float = number(0.0, "decay rate of the momentum; 0: none", grid=(0.0, 0.8, 0.9, 0.95, 0.98), high=1.0)
    beta2: float | None = number(
        None, "decay rate of the second moment; None: 1 - t^-decay_rate", grid=(0.9, 0.95, 0.98, 0.99), high=1.0
    )
    decay_rate: float = number(0.8, "exponent of the second moment's decay rate")
    relative_step: bool | None = choice(
        None, "the step size is 1 / sqrt(t), at most 1e-2; None: where no lr is given", options=(None, False, True)
    )
    warmup_init: bool = choice(False, "the relative step starts from 1e-6 * t", options=(False, True))
    scale_parameter: bool = choice(True, "the weight's own size is a factor of the step", options=(True, False))
    clip_threshold: float | None = choice(1.0, "largest rms of g / sqrt(V); None: no limit", low=0, optional=True)
    eps1: float | None = number(None, "added to g^2; None: 1e-30, in torch's form the type's epsilon as a floor")
    eps2: float = number(1e-3, "least size of a weight for scale_parameter")
    eps: float = number(1e-15, "added to the root of V (deconstructing)", grid=(1e-15, 1e-12, 1e-8, 1e-5))

    def __post_init__(self) -> None:
        super().__post_init__()
        momentum_form = self.formulation == "deconstructing"
        if momentum_form and (self.lr is None or self.beta2 is None):
            raise BadInput(
                f"adafactor: formulation='deconstructing' needs lr and beta2, here lr={self.lr}, "
                f"beta2={self.beta2}: variant='deconstructing' has them"
            )
        if not momentum_form and self.second_moment == "none":
            raise BadInput(
                f"adafactor: second_moment='none' with formulation={self.formulation!r} leaves no Adafactor: only "
                f"formulation='deconstructing' has it"
            )
        if not momentum_form and self.decay != "before":
            raise BadInput(
                f"adafactor: formulation={self.formulation!r} decays in a way of its own: "
                f"decay={self.decay!r} is for formulation='deconstructing'"
            )
        for name in ("relative_step", "warmup_init"):
            if getattr(self, name) and self.formulation in ("torch", "deconstructing"):
                raise BadInput(
                    f"adafactor: {name}=True is for formulation='t2t' or 'hf', not {self.formulation!r}: "
                    f"leave it out"
                )
        if self.relative_step is False and self.lr is None:
            raise BadInput("adafactor: relative_step=False without lr leaves no step size: give lr")
        if self.warmup_init and self.relative_step is False:
            raise BadInput("adafactor: warmup_init=True starts the relative step: give no lr")
        if self.clip_threshold == 0:
            raise BadInput("adafactor: clip_threshold=0 stops every weight: None is no limit")

    @classmethod
    def resolved(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        lr, relative, formulation = (values[name] for name in ("lr", "relative_step", "formulation"))
        if formulation == "torch":
            return {**values, "lr": 1e-2 if lr is None else lr}
        if formulation == "deconstructing" or (lr is None and relative is False):
            return dict(values)
        if lr is not None and relative:
            raise BadInput(
                f"adafactor: lr={lr} with relative_step=True: the relative step is the learning rate, so leave lr "
                f"out, or give relative_step=False"
            )
        return {**values, "lr": 1.0 if lr is None else lr, "relative_step": lr is None}

    @property
    def writes_weight(self) -> bool:
        return self.formulation != "deconstructing"

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        slots = {}
        if self.formulation == "deconstructing" or self.beta1 > 0:
            slots["exp_avg"] = Slot(shape)
        if self.second_moment == "none":
            return slots
        if len(shape) < 2 or self.second_moment == "full":
            one = len(shape) == 1 and self.vectors == "scalar"
            return slots | {"variance": Slot((1,) if one else shape, signed=False)}
        slots["row_var"] = Slot((*shape[:-1], 1))
        if self.second_moment == "factored":
            slots["col_var"] = Slot((*shape[:-2], 1, shape[-1]))
        return slots

    def corrections(self, t: int) -> dict[str, float]:
        if self.formulation == "deconstructing":
            assert self.beta2 is not None
            return bias_corrections((self.beta1, self.beta2), t)
        beta2 = 1 - t**-self.decay_rate
        if self.beta2 is not None:  # Adam's average with its bias correction in the rate
            beta2 = self.beta2 * (1 - self.beta2 ** (t - 1)) / (1 - self.beta2**t)
        rho = 1 / math.sqrt(t)
        if self.formulation != "torch":
            rho = min(1e-6 * t if self.warmup_init else 1e-2, rho)
        if self.formulation == "t2t" and not self.scale_parameter:
            rho *= 0.05
        return {"rho": rho, "beta2": beta2}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.formulation == "deconstructing":
            return self._with_momentum(g, step, state)
        torchs = self.formulation == "torch"
        eps1 = self.eps1 if self.eps1 is not None else torch.finfo(g.dtype).eps if torchs else 1e-30
        new = averaged(state, g * g if torchs else g * g + eps1, step.beta2)
        least = torch.finfo(g.dtype).tiny  # eps1^2, of a row and a column without gradient, is 0 in float32
        u = g * second_moment(new, floor=eps1).clamp(min=eps1 * eps1).clamp(min=least).rsqrt()
        if self.clip_threshold is not None:
            u = u / (rms(u) / self.clip_threshold).clamp(min=1.0)
        alpha = self._step_size(w, step)
        u = alpha * u
        if "exp_avg" in state:
            u = new["exp_avg"] = ema(state["exp_avg"], u, self.beta1)
        return (1 - (self.lr if torchs else alpha) * self.weight_decay) * w - u, new

    def _step_size(self, w: Tensor, step: Step) -> Tensor:
        size = rms(w).clamp(min=self.eps2) if self.scale_parameter else w.new_ones(())
        if self.formulation == "torch":
            return torch.minimum(self.lr * size, step.rho * size)
        if self.lr is None:
            return step.rho * size
        return (self.lr if self.relative_step is False else self.lr * step.rho) * size

    def _with_momentum(self, g: Tensor, step: Step, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        m = ema(state["exp_avg"], g, self.beta1)
        if self.second_moment == "none":
            return m / step.bias1, {"exp_avg": m}
        new = averaged(state, g * g, self.beta2)
        v = second_moment(new, floor=torch.finfo(g.dtype).tiny)
        return adam_direction(m, v, step.bias1, step.root_bias2, self.eps, "torch"), {**new, "exp_avg": m}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        h, source = dict(told["hyperparameters"]), told["source"]
        if "rosieyzh" in source:
            rows = h.pop("neuron_only", False)
            h |= {"formulation": "deconstructing", "vectors": "scalar"}
            h["second_moment"] = "rows" if rows else "factored"
            return cls._hybrid(h, told) if "WLast" in source else h
        h["beta1"] = h.pop("beta1", None) or 0.0
        if "transformers" in source:
            h |= {"formulation": "hf", "decay_rate": -h["decay_rate"]}
        elif "torch/optim" in source:
            h |= {"formulation": "torch", "decay_rate": -h.pop("beta2_decay"), "clip_threshold": h.pop("d")}
        elif "tensor2tensor" in source:
            h["second_moment"] = "factored" if h.pop("factored") else "full"
            h["scale_parameter"] = h.pop("multiply_by_parameter_scale")
            h["clip_threshold"], h["beta2"] = h.pop("clipping_threshold"), h.pop("decay_adam_beta2")
            exponent = h.pop("decay_exponent")
            h |= {} if exponent is None else {"decay_rate": exponent}
        else:
            known = "rosieyzh/optimizers-llm, transformers, torch/optim, tensor2tensor"
            raise BadInput(f"adafactor: source {source!r} is none of {known}")
        return h

    @classmethod
    def _hybrid(cls, h: dict[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
        """Adafactor with a rate of its own for last layer and norms, plain momentum for all others."""
        adaptive = {"second_moment": h["second_moment"], "lr": h.pop("lr_last")}
        named = told["groups"].get("lr_last", ("head", "norm"))
        groups = {name: adaptive for name in told["tensors"] if name in named}
        plain = {name: value for name, value in h.items() if name not in ("update_last", "update_norm")}
        return {**plain, "second_moment": "none", "groups": groups}
