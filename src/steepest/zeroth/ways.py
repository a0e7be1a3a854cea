"""The published zeroth-order methods by name: each a set of :class:`ZerothOrder`'s arguments.

>>> from steepest.zeroth.ways import way
>>> optimizer = way("zo-adam")(model, lr=1e-4)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from steepest.core.errors import UnknownName

if TYPE_CHECKING:
    from steepest.optimizer import Params
    from steepest.zeroth.optimizer import ZerothOrder

MEZO = "Malladi, Gao et al., Fine-Tuning Language Models with Just Forward Passes, arXiv 2305.17333"
BENCH = "Y. Zhang et al., Revisiting Zeroth-Order Optimization for LLM Fine-Tuning, arXiv 2402.11592"
BENCH_CODE = "ZO-Bench/ZO-LLM@bf210fa zo-bench/trainer.py"
CONSTANT = {"decay": "coupled", "weight_decay": 0.0}


@dataclass(frozen=True)
class Way:
    """One method: ``arguments`` of ZerothOrder, what it evaluates a step and keeps beside the weights."""

    title: str
    paper: str
    code: str
    update: str
    forwards: str
    kept: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    quirks: tuple[str, ...] = ()

    def __call__(self, params: Params, lr: float | None = None, **options: Any) -> ZerothOrder:
        """The optimizer; options go over the way's own."""
        from steepest.zeroth.optimizer import ZerothOrder

        return ZerothOrder(params, lr=lr, **{**self.arguments, **options})


WAYS: dict[str, Way] = {
    "mezo": Way(
        "MeZO",
        f"{MEZO}, Algorithm 1",
        "princeton-nlp/MeZO@552cb1b large_models/trainer.py (zo_step)",
        "c = (l(w + eps z) - l(w - eps z)) / (2 eps);  w <- w - lr (c z + weight_decay w)",
        "2",
        "a seed",
        {**CONSTANT, "undecayed": ("norm", "bias")},
        (
            "The authors leave the decay out where a name contains bias, layer_norm or layernorm, and decay a "
            "gain that is called norm; here the role decides.",
            "eps z is added in the weights' type there; here the sum is made in float32 and rounded once.",
            "There the weights walk back and drift by rounding in half precision; here they come from a copy, "
            "unless restore='in-place'.",
            "The authors' trainer for small models can weigh z by layer and change the number of queries on the "
            "way; neither is here.",
        ),
    ),
    "zo-sgd": Way(
        "ZO-SGD",
        BENCH,
        f"{BENCH_CODE} (zo_step, zo_step_v1)",
        "w <- w - lr c z, the mean of q of them; sides=1: c = (l(w + eps z) - l(w)) / eps",
        "2 q, one-sided q + 1",
        "a seed",
        CONSTANT,
        (
            "The authors add q estimates up in a gradient buffer; here each block's are made again and added up.",
            "One-sided, they measure l(w) again for every query.",
        ),
    ),
    "zo-sgd-mmt": Way(
        "ZO-SGD-MMT",
        BENCH,
        f"{BENCH_CODE} (zo_step)",
        "b <- c z at first, then momentum b + c z;  w <- w - lr b",
        "2",
        "a seed, momentum",
        {**CONSTANT, "momentum": 0.9},
    ),
    "zo-sgd-sign": Way(
        "ZO-SGD-Sign",
        BENCH,
        f"{BENCH_CODE} (zo_step, trainer zo_sign_opt)",
        "w <- w - lr sign(c) z;  with sign='elementwise', the literature's: w <- w - lr sign(c z)",
        "2",
        "a seed",
        {**CONSTANT, "sign": "projected"},
        ("The line with the literature's form is commented out in the authors' code.",),
    ),
    "zo-sgd-cons": Way(
        "ZO-SGD-Cons",
        BENCH,
        f"{BENCH_CODE} (zo_conserv_step)",
        "of w, w - lr c z and w + lr c z the one with the lowest loss",
        "5",
        "a seed",
        {**CONSTANT, "conservative": True},
        ("The authors go by +1, -2 and +1 or +2 steps of the rule, which with momentum is somewhere else.",),
    ),
    "zo-adam": Way(
        "ZO-Adam",
        BENCH,
        f"{BENCH_CODE} (zo_step, trainer zo_adam)",
        "Adam on c z",
        "2",
        "a seed, two moments",
        {**CONSTANT, "rule": "adamw"},
        ("The authors call the optimizer once for every tensor while the others have no gradient.",),
    ),
    "forward-gradient": Way(
        "Forward gradient",
        f"{BENCH}; Baydin et al., Gradients without Backpropagation, arXiv 2202.08587",
        f"{BENCH_CODE} (forward_grad_step)",
        "c = grad l(w) . z exactly, by forward-mode differentiation;  w <- w - lr (c z + weight_decay w)",
        "1, with tangents",
        "a seed; z during the pass",
        {**CONSTANT, "estimator": "forward-gradient", "undecayed": ("norm", "bias")},
    ),
    "zo-block": Way(
        "Block-wise descent",
        BENCH,
        f"{BENCH_CODE} (zo_step_with_module_wise_perturbation, ..._coordinate)",
        "each block of layers has its own c; sweep='gauss-seidel' moves it at once, 'jacobi' after all are probed",
        "2 a block",
        "a seed",
        {**CONSTANT, "blocks": "layers"},
        (
            "In the authors' code every block begins with the same random numbers (shared_noise=True), and the "
            "head matches no block and is never trained.",
        ),
    ),
    "zo-sparse": Way(
        "Gradient sparsity",
        BENCH,
        f"{BENCH_CODE} (zo_step, gradient_sparsity)",
        "z is zero on a random share of its numbers, in probing and update alike",
        "2",
        "two seeds",
        {**CONSTANT, "sparsity": 0.9},
        (
            "The authors zero a number where a normal one is below the ratio: .1 zeroes 54 %, .5 69 %, .9 82 % "
            "(Sparsity(law='below-ratio')); here the ratio is the share.",
            "Their update leaves the mask out with several queries and in the conservative form "
            "(Sparsity(in_update=False)).",
        ),
    ),
    "zo-fo": Way(
        "Hybrid of zeroth and first order",
        f"{BENCH}, which describes it; it is not in the authors' repository",
        "none: first_order=OPTIMIZER of the late weights",
        "early weights as ZO-SGD; late ones by backpropagation that ends where the early ones begin",
        "3, and a backward pass of the late layers",
        "a seed; the late weights' gradients and state",
        CONSTANT,
    ),
}


def way(name: str) -> Way:
    """The method of that name. Raises: UnknownName with the nearest one."""
    if name not in WAYS:
        raise UnknownName.among("zeroth-order method", name, WAYS)
    return WAYS[name]
