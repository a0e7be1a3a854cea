import numpy as np


def of_matrices(**hyper):
    return {"by_role": {"matrix": hyper}}


OPTIONS = [
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.01, "betas": (0.8, 0.95), "head_dim": 4, **of_matrices(blocks="head")},
    {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, **of_matrices(blocks="tensor")},
    {"lr": 0.01, "decay": "after", "weight_decay": 0.1, **of_matrices(blocks="element")},
    {"lr": 0.01, "decay": "coupled", "weight_decay": 0.1, **of_matrices(blocks="head", head_dim=2)},
    {"lr": 0.01, "decay": "independent", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "short-run", "betas": (0.9, 0.95)},
    {"lr": 0.01, "variant": "v1.0", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "pytorch-partition", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "levanter", "weight_decay": 0.1},
]
PARTITIONS = {  # of the variants: matrices, norms
    "v1.0": ("tensor", "tensor"),
    "pytorch-partition": ("tensor", "tensor"),
    "levanter": ("row", "element"),
}


def walk(
    w,
    grads,
    lr,
    betas=None,
    eps=1e-8,
    weight_decay=0.0,
    decay="before",
    head_dim=None,
    by_role=None,
    variant=None,
):
    norm = w.ndim == 1
    betas = betas or ((0.9, 0.95) if variant == "levanter" else (0.9, 0.999))
    own = (by_role or {}).get("matrix", {})
    blocks = PARTITIONS.get(variant, (own.get("blocks", "row"), "tensor"))[norm]
    weight_decay = 0.0 if norm else weight_decay
    rows = len(w) if blocks == "tensor" else own.get("head_dim", head_dim) if blocks == "head" else 1
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if norm and variant == "levanter":
            g = g * min(1.0, 1 / np.linalg.norm(g))
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w - lr * weight_decay * w
        if decay == "independent":
            w = w - weight_decay * w
        square = g**2
        if blocks != "element":
            for start in range(0, len(w), rows):
                square[start : start + rows] = square[start : start + rows].mean()
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * square
        w = w - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        if decay == "after":
            w = w - lr * weight_decay * w
        yield w
