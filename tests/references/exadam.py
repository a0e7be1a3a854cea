import numpy as np

OPTIONS = [
    {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1},
    {"lr": 0.01, "eps": 1e-20, "decay": "coupled", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "v1", "betas": (0.9, 0.98), "eps": 1e-4, "decay": "after", "weight_decay": 0.1},
    {"lr": 0.01, "growth": "log", "betas": (0.0, 0.9), "decay": "independent", "weight_decay": 0.1},
]


def walk(
    w, grads, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decay="before", growth="none", variant="v2"
):
    b1, b2 = betas
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w - lr * weight_decay * w
        if decay == "independent":
            w = w - weight_decay * w
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        d1 = 1 + v / (v + eps) * b2**t
        d2 = 1 + m**2 / (m**2 + eps) * b1**t
        mean, gradient = m / (1 - b1**t) * d1, g / (1 - b1**t) * d1
        second = v / (1 - b2**t) * d2
        rate = lr * np.log(np.sqrt(2) * np.sqrt(t + 1)) if variant == "v1" or growth == "log" else lr
        w = w - rate * (mean + gradient) / (np.sqrt(second) + eps)
        if decay == "after":
            w = w - lr * weight_decay * w
        yield w
