import numpy as np

OPTIONS = [
    {"lr": 0.01, "variant": "paper-lm"},
    {"lr": 0.01, "betas": (0.8, 0.9), "decay": "after", "weight_decay": 0.1},
    {"lr": 0.01, "betas": (0.8, 0.9), "decay": "coupled", "weight_decay": 0.1},
]


def walk(w, grads, lr, betas=(0.9, 0.99), weight_decay=0.0, decay="before", variant=None):
    if variant == "paper-lm":
        betas = (0.95, 0.98)
    m = np.zeros_like(w)
    for g in grads:
        g = g + weight_decay * w if decay == "coupled" else g
        w = w - lr * np.sign(betas[0] * m + (1 - betas[0]) * g)
        m = betas[1] * m + (1 - betas[1]) * g
        w = w * (1 - lr * weight_decay) if decay == "after" else w
        yield w
