import numpy as np

OPTIONS = [
    {"lr": 0.01, "betas": (0.9, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    {"lr": 0.01, "betas": (0.8, 0.95), "degenerated_to_sgd": False, "weight_decay": 0.1},
    {"lr": 0.01, "betas": (0.9, 0.6)},
    {"lr": 0.01, "variant": "transformer", "decay": "fixed"},
    {"lr": 0.01, "variant": "lstm", "betas": (0.7, 0.9), "decay": "after", "weight_decay": 0.1},
    {
        "lr": 0.01,
        "variant": "amsgrad",
        "betas": (0.5, 0.5),
        "eps": 1e-4,
        "decay": "independent",
        "weight_decay": 0.1,
    },
    {"lr": 0.01, "variant": "v0.0.5", "betas": (0.9, 0.98), "weight_decay": 0.1},
    {"lr": 0.01, "variant": "paper", "betas": (0.0, 0.9)},
]
VARIANTS = {
    "package": {},
    "paper": {"rectify": False},
    "amsgrad": {"rectify": False, "amsgrad": True},
    "v0.0.5": {"rectify": False, "eps": 1e-8, "decay": "coupled"},
    "transformer": {"weight_decay": 1e-4},
    "lstm": {"rectify": False, "eps": 1e-12, "decay": "coupled", "weight_decay": 1.2e-6},
}


def walk(w, grads, variant="package", **given):
    yield from belief(w, grads, **(VARIANTS[variant] | given))


def belief(
    w,
    grads,
    lr,
    betas=(0.9, 0.999),
    eps=1e-16,
    weight_decay=0.0,
    decay="before",
    rectify=True,
    degenerated_to_sgd=True,
    amsgrad=False,
):
    b1, b2 = betas
    m = s = largest = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w - lr * weight_decay * w
        if decay in ("fixed", "independent"):  # the same at a constant rate
            w = w - weight_decay * w
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps
        largest = np.maximum(largest, s)
        mean = m / (1 - b1**t)
        if rectify:
            top = 2 / (1 - b2) - 1
            rho = top - 2 * t * b2**t / (1 - b2**t)
            if rho >= 5:
                r = np.sqrt((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho))
                w = w - lr * r * np.sqrt(1 - b2**t) * mean / (np.sqrt(s) + eps)
            elif degenerated_to_sgd:
                w = w - lr * mean
        else:
            w = w - lr * mean / (np.sqrt((largest if amsgrad else s) / (1 - b2**t)) + eps)
        if decay == "after":
            w = w - lr * weight_decay * w
        yield w
