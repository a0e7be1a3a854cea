import numpy as np

OPTIONS = [
    {"lr": 0.01, "clip_after": 1, "threshold": 2.0},
    {"lr": 0.01, "clip_after": 4, "threshold": 0.5, "betas": (0.5, 0.9), "weight_decay": 0.1},
    {"lr": 0.01, "clip_after": 0, "threshold": 2.0, "clip_unseen": True},
]


def walk(w, grads, lr, clip_after, threshold, betas=(0.9, 0.999), weight_decay=1e-2, clip_unseen=False):
    b1, b2 = betas
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        w = w - lr * weight_decay * w
        if t >= clip_after:
            bound = np.sqrt(threshold * v)
            g = np.where((abs(g) > bound) & ((v > 0) | clip_unseen), np.sign(g) * bound, g)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        yield w
