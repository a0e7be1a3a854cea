from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.core.naming import HIDDEN
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema_in_one_pass
from steepest.linalg.norms import length


@dataclass(frozen=True)
class SCALE(Rule):
    """SCALE: SGD with every output's gradient brought to RMS 1, and momentum in the output layer alone."""

    title = "SCALE (column-normalised SGD with last-layer momentum)"
    paper = "Glentis, Li, Han, Hong, A Minimalist Optimizer Design for LLM Pretraining, arXiv 2506.16659"
    code = (
        "OptimAI-Lab/Minimalist_LLM_Pretraining@f5bd4e7 mem_eff_pt/pt_scale/scale_optimizer.py, roles by "
        "mem_eff_pt/utils/train_utils.py"
    )
    pseudocode = """
        w <- (1 - lr * weight_decay) * w
        m <- momentum * m + (1 - momentum) * g;  x <- m                 (head)
        x <- g                                                          (hidden matrices, embedding)
        u <- each row of x / max(its RMS, eps)                          (along row: an output's inputs)
        u <- each column of x / max(its RMS, eps)                       (along column: embedding)
        w <- w - lr * u
        norms, biases: companion AdamW, at the same learning rate unless told otherwise
    """
    scope = "matrix"
    companion = {
        "lr_ratio": 1.0,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "eps_form": "hf",
        "weight_decay": 0.0,
    }
    by_role = {"embed": {"along": "column"}, "head": {"averaged": True}}
    advice = (
        "The least state with which a language model is known to train about as with Adam: one buffer for the "
        "head, nothing for hidden matrices and embedding, and one reduction of arithmetic. Its authors' runs on "
        "C4 end at 30.81, 22.57, 16.32 and 14.25 perplexity (60M, 130M, 350M, 1B) against 30.05, 23.13, 18.77 and "
        "16.52 of an Adam that is suspected to be tuned too little at the larger sizes, and 28.86, 22.20, 16.70 "
        "and 14.18 of Muon. They use batches of 131,072 tokens: without averages the direction of hidden matrices "
        "is one batch's. Tie head and embedding only with variant tied."
    )
    quirks = (
        "The paper's column is a row of the weight as torch stores it, (out, in).",
        "The paper's C(.) brings columns to length 1, the code to RMS 1, which is a step sqrt(inputs) times as "
        "long; norm='length' is the paper's.",
        "The averaged gradient of the head is not corrected for its start at zero: the normalisation makes up for "
        "it.",
        "The code finds the embedding by embed_tokens in its name and gives momentum to every matrix that is in "
        "neither attention nor MLP; here roles tell, and only the head has momentum. For what the code does with "
        "other matrices: by_role={'matrix': {'averaged': True}}.",
        "A head that is tied to the embedding is one weight with the embedding's role: columns, and no momentum "
        "where the paper wants it. Variant tied treats it as the head. On 82,000 weights, lr 8e-3, one seed: loss "
        "4.42 as an embedding, 4.15 averaged, 4.02 as the head; nothing is published.",
        "A row of zeros, of a weight that no gradient reached, stays.",
        "The code scales the rate of norms and biases by adam_lr / lr at every step of the schedule; here that "
        "ratio is the companion's lr_ratio.",
    )
    variants = {
        "official": {},
        "official-1b": {"lr": 2e-4, "companion": {"lr_ratio": 5.0}},
        "paper": {
            "norm": "length",
            "lr": 4e-2,
            "lr_grid": (4e-2, 8e-2, 0.16, 0.32, 0.64, 1.28),
            "companion": {"lr_ratio": 0.1},
        },
        "no-momentum": {"by_role": {"head": {"averaged": False}}},
        "tied": {"by_role": {"embed": {"averaged": True, "along": "row"}}},
    }
    recipe = {"momentum": 0.9, "weight_decay": 0.0}
    recipe_source = (
        "the authors' scripts: momentum .9, no decay, lr 1e-3 from 60M to 350M with warm-up over a tenth of the "
        "steps and a cosine"
    )

    lr: float = number(1e-3, "learning rate", grid=(2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2))
    momentum: float = number(0.9, "decay rate of the head's average", grid=(0.8, 0.9, 0.95), high=1.0)
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    averaged: bool = choice(False, "normalise the average of gradients, not the gradient", options=(False, True))
    along: str = choice("row", "what is normalised: inputs of an output, or columns", options=("row", "column"))
    norm: str = choice("rms", "what becomes 1: RMS, or length", options=("rms", "length"))
    eps: float = number(1e-8, "least RMS or length")

    def takes(self, role: str) -> bool:
        return role in (*HIDDEN, "embed", "head")

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"momentum_buffer": Slot(shape)} if self.averaged else {}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.averaged:
            g = ema_in_one_pass(state["momentum_buffer"], g, self.momentum)
        dim = -1 if self.along == "row" else -2
        size = length(g, dim) / (math.sqrt(g.shape[dim]) if self.norm == "rms" else 1)
        return g / size.clamp(min=self.eps), {"momentum_buffer": g} if self.averaged else {}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = told["hyperparameters"]
        own = h.get("adam_lr")
        return {
            "lr": h["lr"],
            "momentum": h["momentum"],
            "weight_decay": h["wd"],
            "companion": {
                "lr": h["lr"] if own is None else own,
                "betas": tuple(h["adamw_betas"]),
                "eps": h["adamw_eps"],
                "weight_decay": h["wd"],
            },
        }
