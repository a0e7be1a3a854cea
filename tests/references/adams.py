import numpy as np

MATRICES = True
OPTIONS = [
    {"lr": 0.01, "total_steps": 5, "l1_lambda": 0.1, "mask_every": 2},
    {"lr": 0.01, "total_steps": 12, "l1_lambda": 0.5, "n": 1, "m": 2, "alpha_from": 1, "betas": (0.8, 0.95)},
    {"lr": 0.01, "total_steps": 4, "l1_lambda": 0.02, "n": 3, "m": 5, "eps": 1e-2, "weight_decay": 0.3},
    {"lr": 0.01, "total_steps": 4, "masked": False, "weight_decay": 0.3, "decay": "after"},
    {"lr": 0.01, "total_steps": 1, "l1_lambda": 2.0, "n": 4, "m": 4},
    {"lr": 0.01, "total_steps": 3, "l1_lambda": 0.3, "weight_decay": 0.3, "decay": "coupled"},
]


def kept(w, n, m):
    """Row by row, group by group; of equals the first; a last group that is not full is a group like others."""
    mask = np.zeros(w.shape, dtype=bool)
    for row, size in zip(mask, np.abs(w), strict=True):
        for start in range(0, len(row), m):
            order = sorted(range(start, min(start + m, len(row))), key=lambda i: (-size[i], i))
            row[order[:n]] = True
    return mask


def walk(
    w,
    grads,
    lr,
    total_steps,
    l1_lambda=4e-7,
    mask_every=10,
    n=2,
    m=4,
    alpha_from=0,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decay="before",
    masked=True,
):
    beta1, beta2 = betas
    mu = v = np.zeros_like(w)
    for k, g in enumerate(grads):
        if masked and k % mask_every == 0:
            mask = kept(w, n, m)
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w - lr * weight_decay * w
        mu = beta1 * mu + (1 - beta1) * g
        a = min(1, (k + alpha_from) / total_steps)
        u = np.where(mask, mu, (1 - a) * mu + a * l1_lambda * np.sign(w)) if masked else mu
        v = beta2 * v + (1 - beta2) * u * u
        t = k + 1
        w = w - lr * (u / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        if decay == "after":
            w = w - lr * weight_decay * w
        yield w
