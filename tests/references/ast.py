import numpy as np

from .adams import kept

MATRICES = True
OPTIONS = [
    {"lr": 0.01, "total_steps": 9, "srste_decay": 0.5, "mask_every": 2},
    {"lr": 0.01, "increase_step": 3, "srste_decay": 2.0, "n": 1, "m": 2, "betas": (0.8, 0.99), "eps": 1e-2},
    {"lr": 0.01, "increase_step": 1, "srste_decay": 0.1, "n": 3, "m": 5, "weight_decay": 0.3, "decay": "after"},
    {"lr": 0.01, "total_steps": 2, "srste_decay": 0.1, "weight_decay": 0.3, "decay": "coupled"},
]


def walk(
    w,
    grads,
    lr,
    total_steps=None,
    increase_step=None,
    srste_decay=1e-4,
    mask_every=10,
    n=2,
    m=4,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
    decay="before",
):
    beta1, beta2 = betas
    ramp = total_steps / 4 if increase_step is None else increase_step
    mu = v = np.zeros_like(w)
    for k, g in enumerate(grads):
        if k % mask_every == 0:
            mask = kept(w, n, m)
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w * (1 - lr * weight_decay)
        mu = beta1 * mu + (1 - beta1) * g
        u = mu + srste_decay * min(1, k / ramp) * w * ~mask
        v = beta2 * v + (1 - beta2) * u * u
        t = k + 1
        w = w - lr / (1 - beta1**t) * u / (np.sqrt(v / (1 - beta2**t)) + eps)
        if decay == "after":
            w = w * (1 - lr * weight_decay)
        yield w
