import numpy as np

OPTIONS = [
    {"lr": 0.01, "variant": "torch", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "torch", "momentum_decay": 0.5, "betas": (0.8, 0.95), "eps": 1e-2},
    {"lr": 0.01, "variant": "optax", "betas": (0.0, 0.98), "eps": 1e-2},
    {"lr": 0.01, "betas": (0.0, 0.98), "eps": 1e-2, "decay": "after"},
    {"lr": 0.01, "formulation": "optax", "betas": (0.95, 0.98), "decay": "coupled", "weight_decay": 0.1},
]


def walk(
    w,
    grads,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=None,
    decay=None,
    formulation=None,
    momentum_decay=4e-3,
    variant="algoperf",
):
    formulation = formulation or {"torch": "dozat-schedule"}.get(variant, variant)
    if weight_decay is None:
        weight_decay = {"algoperf": 1e-2, "torch": 0.0, "optax": 1e-4}[variant]
    decay = decay or ("coupled" if variant == "torch" else "before")
    beta1, beta2 = betas
    m = v = np.zeros_like(w)
    mu = [None, *(beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in range(1, len(grads) + 2))]
    for t, g in enumerate(grads, start=1):
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w - lr * weight_decay * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        d = np.sqrt(v / (1 - beta2**t)) + eps
        if formulation == "algoperf":  # one more step of the average with the same gradient
            w = w - lr * (beta1 * m + (1 - beta1) * g) / (1 - beta1**t) / d
        elif formulation == "optax":
            w = w - lr * (beta1 * m / (1 - beta1 ** (t + 1)) + (1 - beta1) * g / (1 - beta1**t)) / d
        else:
            done = np.prod(mu[1 : t + 1])
            w = w - lr * (1 - mu[t]) / (1 - done) * g / d - lr * mu[t + 1] / (1 - done * mu[t + 1]) * m / d
        if decay == "after":
            w = w - lr * weight_decay * w
        yield w
