from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from steepest.core.errors import RoutingError
from steepest.core.naming import ROLES
from steepest.core.rule import DECAYS, Decay, Rule, Slot, Step, choice, number
from steepest.linalg.adam import adam_direction, bias_corrections, ema, ema_in_one_pass, ema_of_square
from steepest.linalg.row_means import for_rows, mean_square

ROW, HEAD, TENSOR, ELEMENT = ({"blocks": blocks} for blocks in ("row", "head", "tensor", "element"))


@dataclass(frozen=True)
class AdamMini(Rule):
    """Adam-mini: Adam with one second moment for each block of weights: a head, an output neuron, a token."""

    title = "Adam-mini (Adam with one second moment per block)"
    paper = "Zhang et al., Adam-mini: Use Fewer Learning Rates To Gain More, arXiv 2406.16793, Algorithms 1 to 3"
    code = "zyushun/Adam-mini@402aadf adam_mini/adam_mini.py (version 1.1.1)"
    pseudocode = """
        w <- (1 - lr * weight_decay) * w                             (norms and biases are not decayed)
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * mean(g^2 over the block)      a number for each block
        w <- w - lr * m / (1 - beta1^t) / (sqrt(v) / sqrt(1 - beta2^t) + eps)
        blocks: each head of queries and keys; each row (output neuron, token) of values, attention output,
          MLP, embedding and head; each other tensor; each element of biases
    """
    scope = "matrix"
    advice = (
        "AdamW in half of its state, with AdamW's hyperparameters, and seldom quite its result: tuned as "
        "carefully it needed as many tokens or up to a seventh more (0.88 to 1.01 times its speed, 130M to "
        "520M weights, arXiv 2509.02046). It wants a warm-up of 2,000 steps or more and moderate learning "
        "rates (1.6e-2 diverged where 8e-3 was best), and lost more than any other rule at large batches. Its "
        "blocks follow heads and neurons, so give it the model rather than a list of parameters, and short "
        "runs one block for values: variant='short-run'."
    )
    quirks = (
        "The official code tells blocks by substrings of names, which a query_key_value or a layer with 'ln' in "
        "its name misleads; here roles tell. A matrix whose name tells no role, such as a fused qkv, has a block "
        "for each row, as the authors advise for fused qkv (issue 30), where their code takes all as one.",
        "The official code takes dim * dim / n_heads elements for a head, which is a head only if the weight has "
        "dim columns; here head_dim rows, so that with fewer heads of keys than of queries a head stays one.",
        "For runs of less than 10,000 to 20,000 steps the authors advise one block for the whole of the values "
        "(variant short-run).",
        "One block per tensor (pytorch-partition) is unstable on large models, the paper's section 2.",
        "levanter, with which arXiv 2509.02046 ran it, gives norms an element each, clips the gradients of norms "
        "and biases alone, together (so that the trainer's own clipping is off), and does not decay embeddings. "
        "It takes all queries that share a head of keys as one block: by_role.q.head_dim tells that size.",
        "Versions before 1.1 also decayed biases; the variant v1.0 does not.",
    )
    by_role = {
        "q": HEAD,
        "k": HEAD,
        **dict.fromkeys(("v", "o", "ffn_in", "ffn_gate", "ffn_out", "matrix", "embed", "head"), ROW),
        "norm": {"weight_decay": 0.0},
        "bias": ELEMENT | {"weight_decay": 0.0},
    }
    variants = {
        "v1.1": {},
        "short-run": {"by_role": {"v": TENSOR}},
        "v1.0": {
            "by_role": dict.fromkeys(("v", "o", "ffn_in", "ffn_gate", "ffn_out", "matrix", "bias"), TENSOR)
            | dict.fromkeys(("embed", "head"), ELEMENT)
        },
        "pytorch-partition": {"by_role": dict.fromkeys(ROLES, TENSOR)},
        "levanter": {
            "betas": (0.9, 0.95),
            "by_role": {
                **dict.fromkeys(("norm", "vector", "bias"), ELEMENT | {"clip": 1.0}),
                "embed": {"weight_decay": 0.0},
            },
        },
    }
    recipe = {"betas": [0.9, 0.98], "weight_decay": 0.1}
    recipe_source = (
        "arXiv 2509.02046, phase I optimum of Adam-mini at 130M (lr 8e-3, betas .9/.98, decay .1); it diverged "
        "at lr 1.6e-2, and needs 2,000 steps of warm-up or more there"
    )

    lr: float = number(1e-3, "learning rate", grid=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
    betas: tuple[float, float] = number(
        (0.9, 0.999),
        "decay rates of the first and the second moment",
        grid=((0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.999)),
        high=1.0,
    )
    eps: float = number(1e-8, "added to the root of the second moment", grid=(1e-20, 1e-15, 1e-10, 1e-8))
    weight_decay: float = number(0.0, "weight decay", grid=(0.0, 0.1, 0.2))
    decay: Decay = choice("before", "where the decay acts", options=DECAYS)
    blocks: str = choice("tensor", "what shares a second moment", options=("tensor", "row", "head", "element"))
    head_dim: int | None = choice(None, "rows of one head; None: read from the model", low=1)
    clip: float = choice(0.0, "largest norm of all gradients that are clipped, together; 0: none is", low=0.0)

    @classmethod
    def name(cls) -> str:
        return "adam_mini"

    def block_rows(self, shape: tuple[int, ...]) -> int:
        """How many rows of a weight of this shape share a second moment."""
        rows = max(1, shape[-2]) if len(shape) > 1 else 1
        if self.blocks == "row" or rows == 1:
            return 1
        if self.blocks == "tensor":
            return rows
        if self.head_dim is None or rows % self.head_dim:
            raise RoutingError(
                f"adam_mini: a weight of shape {shape} in heads of head_dim={self.head_dim} rows: pass the "
                "optimizer the model itself, or a head_dim that divides its rows"
            )
        return self.head_dim

    def slots(self, shape: tuple[int, ...]) -> dict[str, Slot]:
        if self.blocks == "element":
            return {"exp_avg": Slot(shape), "exp_avg_sq": Slot(shape, signed=False)}
        count = shape[-2] // self.block_rows(shape) if len(shape) > 1 else 1
        return {"exp_avg": Slot(shape), "exp_avg_sq": Slot((*shape[:-2], count, 1))}

    def corrections(self, t: int) -> dict[str, float]:
        return bias_corrections(self.betas, t)

    @property
    def totals(self) -> Mapping[str, Literal["sum", "max"]]:
        return {"squares": "sum"} if self.clip else {}

    def contribution(self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"squares": g.square().sum()}

    def update(
        self, g: Tensor, w: Tensor, step: Step, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        if self.clip:
            g = g * (self.clip / step.squares.sqrt()).clamp(max=1.0)
        m = ema_in_one_pass(state["exp_avg"], g, beta1)
        if self.blocks == "element":
            v = each = ema_of_square(state["exp_avg_sq"], g, beta2)
        else:
            rows = self.block_rows(tuple(g.shape))
            v = ema(state["exp_avg_sq"], mean_square(g, rows), beta2)
            each = for_rows(v, rows)
        u = adam_direction(m, each, step.bias1, step.root_bias2, self.eps, "torch")
        return u, {"exp_avg": m, "exp_avg_sq": v}

    @classmethod
    def of_trajectory(cls, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        h, groups = told["hyperparameters"], told.get("groups") or {}
        own: dict[str, dict[str, Any]] = {name: dict(TENSOR) for name in told["tensors"]}
        for group, blocks in (("elementwise", ELEMENT), ("per_row", ROW), ("per_head", HEAD)):
            for name in groups.get(group, ()):
                own[name] |= blocks
        for name in groups.get("per_head", ()):
            columns = arrays[f"param/{told['steps_kept'][0]:03d}/{name}"].shape[-1]
            own[name]["head_dim"] = h["dim"] * h["dim"] // h["n_heads"] // columns
        for name in told["tensors"]:
            own[name]["weight_decay"] = 0.0 if name in groups.get("no_decay", ()) else h["weight_decay"]
        given = {name: h[name] for name in ("lr", "eps", "weight_decay") if name in h}
        return {**given, "betas": (h["beta1"], h["beta2"]), "groups": own}
