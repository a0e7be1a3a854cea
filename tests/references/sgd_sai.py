import numpy as np

OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.1},
    {"lr": 0.01, "momentum": 0.5, "eps": 0.5, "decay": "after"},
    {"lr": 0.01, "most": 1.0, "decay": "coupled", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "official", "eps": 0.1},
    {"lr": 0.01, "variant": "official", "momentum": 0.0},
]


def walk(w, grads, lr, variant="mended", momentum=0.9, eps=1e-8, weight_decay=1e-2, decay="before", most=10.0):
    gain = None
    for g in grads:
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w - lr * weight_decay * w
        if gain is None:
            std = np.std(g, ddof=1)
            if variant == "mended":
                std = max(std, np.sqrt((g**2).mean()) / most)
            gain = np.sqrt((g**2).sum()) / (std + eps)
            b = g
        else:
            b = momentum * b + (1 - momentum) * g
        w = w - lr * gain * b
        if decay == "after":
            w = w - lr * weight_decay * w
        yield w
