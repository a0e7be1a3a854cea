import numpy as np

OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.05, "weight_decay": 0.1, "decay_rate": 0.5},
    {"lr": 0.02, "clip_threshold": 0.3, "eps": (1e-2, 5.0), "weight_decay": 0.01},
    {"lr": 0.02, "clip_threshold": 3.0, "decay_rate": 1.0},
]


def walk(w, grads, lr, weight_decay=0.0, decay_rate=0.8, clip_threshold=1.0, eps=(1e-30, 1e-3)):
    r = c = v = 0.0
    for t, g in enumerate(grads, start=1):
        beta = 1 - t ** (-decay_rate)
        squares = g**2 + eps[0]
        if w.ndim == 2:
            r = beta * r + (1 - beta) * squares.mean(axis=1)
            c = beta * c + (1 - beta) * squares.mean(axis=0)
            u = g / np.sqrt(r / r.mean())[:, None] / np.sqrt(c)[None, :]
        else:
            v = beta * v + (1 - beta) * squares
            u = g / np.sqrt(v)
        u = u / max(1.0, np.sqrt((u**2).mean()) / clip_threshold)
        rate = lr * max(eps[1], np.sqrt((w**2).mean()))
        w = w * (1 - rate * weight_decay) - rate * u
        yield w
