from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import ema_in_one_pass, ema_of_square
from steepest.linalg.blocks import block_shape, cut, join
from steepest.linalg.inverse_root import inverse_root, inverse_root_newton, inverse_root_of_diagonal
from steepest.linalg.norms import frobenius
from steepest.linalg.symmetric import ema_of_gram

SIDES = {"left": -2, "right": -1}
"""Rows have a left factor L = sum of g g^T, columns a right one, R = sum of g^T g."""


@dataclass(frozen=True)
class Shampoo(Rule):
    """Shampoo: the gradient between inverse roots of its two Kronecker factors, with grafting."""

    title = "Shampoo (Kronecker-factored full-matrix AdaGrad)"
    paper = (
        "Gupta, Koren, Singer, Shampoo: Preconditioned Stochastic Tensor Optimization, arXiv 1802.09568, "
        "Algorithm 1; Shi et al., A Distributed Data-Parallel PyTorch Implementation of the Distributed Shampoo "
        "Optimizer, arXiv 2309.06497, Algorithm 2"
    )
    code = "facebookresearch/optimizers@00b68ed distributed_shampoo; original: tf.contrib.opt.ShampooOptimizer"
    pseudocode = """
        in each block of at most max_precond_dim:
        L <- L + g g^T;  R <- R + g^T g               (average sum)
        L <- beta2 * L + (1 - beta2) * g g^T;  R likewise, both divided by 1 - beta2^t when used  (average ema)
        at start_step, then every precondition_frequency steps:
          P_L <- (L + ridge)^-exponent;  P_R <- (R + ridge)^-exponent
        m <- beta1 * m + (1 - beta1) * g;  m' <- m / (1 - beta1^t)            (m' = g if beta1 = 0)
        a <- what the grafted method would do: m' (sgd), m' / (sqrt(v) + grafting_eps) with v the sum
          (adagrad), average (rmsprop) or corrected average (adam) of g^2
        u <- a before start_step, then P_L m' P_R * |a| / |P_L m' P_R|        (grafting none: P_L m' P_R)
        u <- u + weight_decay * w, and no other decay                         (decay_in_momentum)
        b <- momentum * b + (1 - dampening) * u
        u <- (1 - dampening) * u + momentum * b if nesterov, else b           (if momentum > 0)
        w <- (1 - lr * weight_decay) * w - lr * u
    """
    scope = "matrix"
    advice = (
        "The parent of SOAP and Muon, and in its distributed form the winner of AlgoPerf's first competition "
        "with external tuning (arXiv 2502.15015). It keeps factors of both sides and their roots, three times "
        "AdamW's state for a square matrix, and takes its step sizes from another rule by grafting. Neither "
        "study of language models tuned it; where one would choose it, SOAP has fewer things to set and is "
        "tuned."
    )
    quirks = (
        "Without a grafted method nothing sets the step's length but the sum of all gradients: lr is not "
        "comparable to AdamW's. With grafting adam it is AdamW's, block by block.",
        "Grafted: before start_step the grafted method moves the weight alone. Not grafted: the first roots are "
        "taken at step 1; the authors' code leaves the weight in place until step precondition_frequency.",
        "exponent None is 1 / (2 * factors): 1/4 beside 1/4 of a matrix, 1/2 of a vector or of the one side "
        "that has a factor; the authors' code counts dimensions.",
        "Weight decay acts on the weight; in the authors' code it joins the direction before the momentum "
        "(decay_in_momentum), which is the same without momentum.",
        "Small dimensions are not merged: the authors' code makes a vector of a matrix of at most "
        "max_precond_dim elements.",
        "The authors' ridge is 1e-12 whatever the factor's size and type (eps_form absolute): in float32 the root "
        "of a rank-deficient factor then multiplies rounding by up to a million. Here it is eps and the rounding "
        "unit, times the factor's norm.",
        "The authors' code raises on a gradient that is not finite; here it reaches that weight's state alone.",
    )
    variants = {
        "distributed": {},
        "original": {
            "lr": 1.0,
            "betas": (0.0, 0.999),
            "eps": 1e-4,
            "eps_form": "absolute",
            "max_precond_dim": 768,
            "large": "diagonal",
        },
        "adam-grafted": {
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "average": "ema",
            "grafting": "adam",
            "precondition_frequency": 100,
        },
    }
    recipe = {
        "betas": [0.9, 0.98],
        "average": "ema",
        "grafting": "adam",
        "eps": 1e-6,
        "precondition_frequency": 10,
        "weight_decay": 0.1,
    }
    recipe_source = (
        "no study tuned it; grafted to Adam as in the README of facebookresearch/optimizers, so with AdamW's "
        "optimum of arXiv 2509.02046 at 130M (betas .9/.98, decay .1) and its learning rates; roots every 10 "
        "steps as SOAP's bases"
    )

    lr: float = number(1e-2, "learning rate", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the first moment (0: none) and of the factors",
        grid=((0.0, 0.9, 0.95), (0.9, 0.95, 0.98, 0.99, 0.999)),
        high=1.0,
    )
    average: str = choice("sum", "form of the factors; a sum forgets nothing", options=("sum", "ema"))
    correct_bias: bool = choice(True, "bias corrections of moment and factors", options=(True, False))
    eps: float = number(1e-12, "ridge under the roots", grid=(1e-12, 1e-9, 1e-6, 1e-4))
    eps_form: str = choice(
        "relative", "the ridge is eps, or eps in units of the factor's norm", options=("relative", "absolute")
    )
    exponent: float | None = choice(None, "power of the inverse roots; None: 1 / (2 * factors)", low=0.0)
    root: str = choice("eigh", "how roots are taken; newton: matrix products alone", options=("eigh", "newton"))
    precondition_frequency: int = choice(1, "steps between new roots", grid=(1, 10, 100), low=1)
    start_step: int | None = choice(
        None, "first step with roots; None: precondition_frequency if grafted, else 1", low=1
    )
    spread: bool = choice(False, "roots of different matrices fall on different steps", options=(False, True))
    max_precond_dim: int = choice(1024, "largest dimension of a factor", grid=(512, 1024, 8192), low=1)
    large: str = choice(
        "block",
        "a larger dimension is cut into blocks, has a diagonal factor, or none",
        options=("block", "diagonal", "identity"),
    )
    grafting: str = choice(
        "none", "method whose step length is taken", options=("none", "sgd", "adagrad", "rmsprop", "adam")
    )
    grafting_beta2: float | None = number(
        None, "decay rate of the grafted second moment; None: beta2", grid=(0.98, 0.99, 0.999), high=1.0
    )
    grafting_eps: float = number(1e-8, "added to the root of the grafted second moment", grid=(1e-10, 1e-8))
    momentum: float = number(0.0, "share of the last direction kept", grid=(0.0, 0.9), high=1.0)
    dampening: float = number(
        0.0, "share of each direction held back from the momentum", grid=(0.0, 0.9), high=1.0
    )
    nesterov: bool = choice(False, "look ahead along the momentum", options=(False, True))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1, 0.2))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    decay_in_momentum: bool = choice(
        False, "the decay joins the direction before the momentum instead", options=(False, True)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum <= 0:
            raise BadInput(f"shampoo: nesterov needs momentum > 0, not momentum={self.momentum:g}")
        if self.root == "newton" and self.eps_form != "relative":
            raise BadInput('shampoo: root="newton" needs a ridge that follows the factor: set eps_form="relative"')
        if self.root == "newton" and self.exponent is not None and (not self.exponent or 1 / self.exponent % 1):
            raise BadInput(f'shampoo: root="newton" takes exponents 1/1, 1/2, 1/3, ..., not {self.exponent:g}')

    @property
    def writes_weight(self) -> bool:
        return self.decay_in_momentum

    @property
    def block_size(self) -> int | None:
        return self.max_precond_dim if self.large == "block" else None

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        slots = {}
        if self.betas[0] != 0:
            slots["exp_avg"] = Slot(shape)
        if self.grafting in ("adagrad", "rmsprop", "adam"):
            slots["exp_avg_sq"] = Slot(shape, signed=False)
        if self.momentum != 0:
            slots["momentum_buffer"] = Slot(shape)
        n, *sizes = block_shape(shape if len(shape) > 1 else (1, *(shape or (1,))), self.block_size)
        for (side, dim), size in zip(SIDES.items(), sizes, strict=True):
            stack = (*shape[:-2], n)
            if len(shape) < 2 and dim == -2:  # a vector is one row: no left factor
                continue
            if size <= self.max_precond_dim:
                slots[f"factor_{side}"] = slots[f"root_{side}"] = Slot((*stack, size, size))
            elif self.large == "diagonal":
                slots[f"factor_{side}"] = Slot((*stack, size))
        return slots

    @property
    def start(self) -> int:
        """The first step with roots."""
        if self.start_step is not None:
            return self.start_step
        return 1 if self.grafting == "none" else self.precondition_frequency

    def phase(self, t: int, turn: int = 0) -> str:
        if t < self.start:
            return "wait"
        return "root" if t == self.start or (t + turn) % self.precondition_frequency == 0 else "keep"

    @property
    def turns(self) -> int:
        return self.precondition_frequency if self.spread else 1

    def corrections(self, t: int) -> dict[str, float]:
        beta1, beta2 = self.betas
        grafted = beta2 if self.grafting_beta2 is None else self.grafting_beta2
        return {
            "bias1": 1 - beta1**t if self.correct_bias else 1.0,
            "bias2": 1 - beta2**t if self.correct_bias and self.average == "ema" else 1.0,
            "root_grafting_bias": (1 - grafted**t) ** 0.5 if self.grafting == "adam" else 1.0,
        }

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        state = state | self.factors(cut(g, self.block_size), step, state)
        m = g
        if "exp_avg" in state:
            state["exp_avg"] = ema_in_one_pass(state["exp_avg"], g, self.betas[0])
            m = state["exp_avg"] / step.bias1
        grafted = m
        if "exp_avg_sq" in state:
            state["exp_avg_sq"] = v = self.second_moment(state["exp_avg_sq"], g)
            grafted = m / (v.sqrt() / step.root_grafting_bias + self.grafting_eps)
        if step.phase == "wait" and self.grafting != "none":
            u = grafted
        else:
            blocks = self.preconditioned(cut(m, self.block_size), step, state)
            if self.grafting != "none":
                blocks = blocks * (norm(cut(grafted, self.block_size)) / (norm(blocks) + 1e-16))
            u = join(blocks, g.shape)
        if self.decay_in_momentum:
            u = u + self.weight_decay * w
        if "momentum_buffer" in state:
            u = (1 - self.dampening) * u
            b = state["momentum_buffer"] = self.momentum * state["momentum_buffer"] + u
            u = u + self.momentum * b if self.nesterov else b
        return w - self.lr * u if self.decay_in_momentum else u, state

    def factors(self, g: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """L and R of the blocks with this gradient, and their inverse roots where they are due."""
        new = {}
        for side in SIDES:
            if f"factor_{side}" not in state:
                continue
            x, old, whole = g if side == "left" else g.mT, state[f"factor_{side}"], f"root_{side}" in state
            if self.average == "sum":
                factor = old + (x @ x.mT if whole else x.square().sum(dim=-1))
            elif whole:
                factor = ema_of_gram(old, x, self.betas[1])
            else:
                factor = ema_in_one_pass(old, x.square().sum(dim=-1), self.betas[1])
            new[f"factor_{side}"] = factor
            if whole and step.phase == "root":
                power, corrected = self.power(state), factor / step.bias2
                new[f"root_{side}"] = (
                    inverse_root(corrected, power, self.eps, self.eps_form)
                    if self.root == "eigh"
                    else inverse_root_newton(corrected, round(1 / power), self.eps)
                )
        return new

    def preconditioned(self, m: Tensor, step: Step, state: dict[str, Tensor]) -> Tensor:
        """P_L m P_R of the blocks, with what each side has: a root, a diagonal factor, or nothing."""
        for side in SIDES:
            if f"root_{side}" in state:
                root = state[f"root_{side}"]
                m = root @ m if side == "left" else m @ root
            elif f"factor_{side}" in state:
                diagonal = state[f"factor_{side}"] / step.bias2
                scale = inverse_root_of_diagonal(diagonal, self.power(state), self.eps, self.eps_form)
                m = m * scale.unsqueeze(-1 if side == "left" else -2)
        return m

    def power(self, state: dict[str, Tensor]) -> float:
        if self.exponent is not None:
            return self.exponent
        return 1 / (2 * max(1, sum(f"factor_{side}" in state for side in SIDES)))

    def second_moment(self, v: Tensor, g: Tensor) -> Tensor:
        """The grafted method's: a sum or an average of squares."""
        if self.grafting == "adagrad":
            return v + g * g
        return ema_of_square(v, g, self.betas[1] if self.grafting_beta2 is None else self.grafting_beta2)


def norm(blocks: Tensor) -> Tensor:
    return frobenius(blocks)
