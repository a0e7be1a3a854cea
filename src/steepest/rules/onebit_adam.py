from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.core.errors import BadInput
from steepest.core.rule import DENSE, Decay, Rule, Slot, Step, Wire, choice, number, run_length
from steepest.linalg.adam import adam_direction, bias_corrections, ema


@dataclass(frozen=True)
class OneBitAdam(Rule):
    """Adam whose variance freezes after a warm-up; from then on workers send each other the signs of their
    momentum, one bit a weight, and what that loses is sent later."""

    title = "1-bit Adam"
    paper = (
        "Tang et al., 1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed, "
        "ICML 2021, arXiv 2102.02888, Algorithm 1"
    )
    code = "deepspeedai/DeepSpeed@edaa722 runtime/fp16/onebit/adam.py, runtime/comm/compressed.py"
    pseudocode = """
        t <= freeze_step:  g <- mean of all workers' gradients
                           m <- beta1 * m + (1 - beta1) * g
                           v <- beta2 * v + (1 - beta2) * g^2
        later, worker i:   g_i <- g_i, at most sqrt(v / (1 - beta2))                             (bounded)
                           m_i <- beta1 * m + (1 - beta1) * g_i
                           m <- compressed mean of all m_i, the same everywhere
                           m <- m, at most sqrt(v / (1 - beta2))                                 (bounded)
        w <- w - lr * (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^min(t, freeze_step))) + eps) + weight_decay * w)

        compressed mean of W vectors m_i of N numbers, filled with zeros to a multiple of W * lcm(W, 8):
        worker i:  b <- m_i + e_i;  s_i <- |b| / sqrt(N);  q_i <- sign(b), sign(0) = 1;  e_i <- b - s_i * q_i
                   sends part j of q_i, and s_i, to server j
        server j:  c <- mean over i of s_i * part j of q_i, + E_j;  S_j <- |c| / sqrt(N / W);  Q_j <- sign(c)
                   E_j <- c - S_j * Q_j;  sends Q_j and S_j to all, to whom the mean is S_1 * Q_1, ..., S_W * Q_W
    """
    scope = "element"
    advice = (
        "For data parallel training over a slow network, where the gradients' all-reduce takes longer than the "
        "model: after the warm-up a step sends 1/32 of the bytes of float32 gradients; the authors report 3.3 "
        "times the throughput over Ethernet and BERT of the same quality. It needs group=, and no all-reduce by "
        "DistributedDataParallel. In a single process, as in a race, nothing is compressed: it is then Adam whose "
        "variance freezes, and no reason to use it. Over fast links dense AdamW is simpler and no slower; torch's "
        "PowerSGD hook compresses the gradients of any optimizer."
    )
    quirks = (
        "The code does nothing in its first call, whose gradient is lost: it only makes the error buffers. Here "
        "it is a step like others; first_call='nothing' is the code's.",
        "The code corrects no bias, whatever its bias_correction says: after a short warm-up the frozen v is too "
        "small by 1 - beta2^freeze_step for ever, and steps too long. Here both moments are corrected, v by the "
        "constant of the step at which it froze.",
        "The paper compresses all momenta as one vector (fusion='joined'), the code each weight's by itself.",
        "The padding is compressed too, and has errors: of small weights it changes the scale, so that numbers "
        "depend on how many workers there are.",
        "Where the momentum is always zero the code's signs still move the weight; its exp_avg_mask, given by the "
        "user, is for this. Here a weight that had no gradient in the warm-up has v = 0, and bounded=True holds "
        "its momentum at 0: it stays. Rows of an embedding that come first after the warm-up do not train; use "
        "compress=False for them, or a longer warm-up.",
        "bounded=True keeps gradient and momentum within what Adam's own v, which contains the gradient, allows: "
        "|g| <= sqrt(v / (1 - beta2)). Frozen, v bounds nothing: one bad batch would stay in the errors of all, "
        "and the signs give a rarely used weight the same momentum as the others, over a far smaller v.",
        "A spike just before the freeze stays in v for ever. Clip gradients in the warm-up.",
        "compress=False, for a group or a role, is the code's non_freeze: averaged in full, and Adam for ever.",
        "The code drops the errors when a checkpoint is loaded. Here each worker's state_dict has its own.",
        "-0.0 counts as positive, as in the code on CUDA; its XPU packer takes it as negative.",
        "max_grad_norm and eps_inside_sqrt of the code have no effect and are no options here.",
    )
    variants = {
        "mended": {},
        "official": {
            "bias_correction": False,
            "first_call": "nothing",
            "bounded": False,
            "freeze_step": 100000,
            "weight_decay": 0.0,
        },
        "paper": {"bias_correction": False, "bounded": False, "fusion": "joined"},
    }
    recipe = {"betas": [0.9, 0.999], "freeze_step": 0.2, "weight_decay": 0.1}
    recipe_source = (
        "the authors' betas; DeepSpeed's tutorial: freeze after 15 to 25 % of the steps; AdamW's decay in arXiv "
        "2509.02046"
    )

    lr: float = number(1e-3, "learning rate", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the first and the second moment",
        grid=((0.8, 0.9, 0.95), (0.95, 0.99, 0.999)),
        high=1.0,
    )
    eps: float = number(1e-8, "added to the root of the second moment", grid=(1e-15, 1e-10, 1e-8))
    weight_decay: float = number(0.0, "weight decay, which joins the direction", grid=(0.0, 0.01, 0.1))
    decay: Decay = choice("joined", "where the decay acts", options=("joined", "before", "after", "independent"))
    freeze_step: float = choice(
        0.2, "steps until v freezes; below 1, their share of total_steps", grid=(0.1, 0.15, 0.2, 0.25), low=0.0
    )
    total_steps: int | None = number(
        None, "steps of the run, where freeze_step is a share; None: those of the run", low=1
    )
    bias_correction: bool = choice(True, "undo the moments' start at zero", options=(True, False))
    first_call: str = choice("moves", "whether the first step only makes buffers", options=("moves", "nothing"))
    bounded: bool = choice(
        True, "keep gradient and momentum within what the frozen v allows", options=(True, False)
    )
    fusion: str = choice(
        "tensor", "what has a scale of its own: each weight, or all joined", options=("tensor", "joined")
    )
    compress: bool = choice(True, "freeze v and compress; else Adam for ever", options=(True, False))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_step == 0:
            raise BadInput(
                f"{self.name()}: freeze_step=0 would divide by a variance of nothing: give 1 or more steps"
            )

    @classmethod
    def name(cls) -> str:
        return "onebit_adam"

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}

    @property
    def last(self) -> int:
        """The last step of the warm-up; at least one has a gradient."""
        steps = self.freeze_step if self.freeze_step >= 1 else math.ceil(self.freeze_step * run_length(self))
        return max(int(steps), 1 if self.first_call == "moves" else 2)

    def phase(self, t: int, turn: int = 0) -> str:
        if t == 1 and self.first_call == "nothing":
            return "nothing"
        return "frozen" if self.compress and t > self.last else "warm"

    def wire(self, t: int) -> Wire:
        return Wire(onebit=True, joined=self.fusion == "joined") if self.phase(t) == "frozen" else DENSE

    def corrections(self, t: int) -> dict[str, float]:
        # 1 / sqrt(1 - beta2): in Adam v is at least (1 - beta2) * g^2.
        limit = {"limit": (1 - self.betas[1]) ** -0.5}
        if not self.bias_correction:
            return {"bias1": 1.0, "root_bias2": 1.0, **limit}
        frozen = bias_corrections(self.betas, min(t, self.last) if self.compress else t)
        return {**bias_corrections(self.betas, t), "root_bias2": frozen["root_bias2"], **limit}

    def message(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> Tensor:
        if step.phase != "frozen":
            return g
        return ema(state["exp_avg"], self.held(g, step, state), self.betas[0])

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        if step.phase == "nothing":
            return None, state
        if step.phase == "frozen":
            m, v = self.held(g, step, state), state["exp_avg_sq"]
        else:
            beta1, beta2 = self.betas
            m, v = ema(state["exp_avg"], g, beta1), ema(state["exp_avg_sq"], g * g, beta2)
        u = adam_direction(m, v, step.bias1, step.root_bias2, self.eps, "torch")
        return u, {"exp_avg": m, "exp_avg_sq": v}

    def held(self, x: Tensor, step: Step, state: dict[str, Tensor]) -> Tensor:
        """A gradient or momentum within what v allows."""
        if not self.bounded:
            return x
        most = state["exp_avg_sq"].sqrt() * (step.limit / step.root_bias2)
        return torch.minimum(torch.maximum(x, -most), most)

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h = dict(told["hyperparameters"])
        known = {name: h[name] for name in ("lr", "betas", "eps", "weight_decay", "freeze_step")}
        return {"variant": "official", **known}

    @classmethod
    def workers(cls, told: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(f"extra/grad_w{rank}" for rank in range(told["hyperparameters"]["workers"]))
