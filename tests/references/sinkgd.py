import numpy as np

OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, "variant": "one-round", "weight_decay": 0.1, "companion": {"lr_ratio": 0.5}},
    {"lr": 0.01, "L": 3, "eps": 1.0, "decay": "after", "weight_decay": 0.1},
    {"lr": 0.01, "L": 2, "eps": 1.0, "eps_form": "add", "decay": "coupled", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "naubull2", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "naubull2", "L": 2, "eps": 0.3},
    {"lr": 0.01, "variant": "forgather"},
    {"lr": 0.01, "vectors": "length", "eps": 5.0},
]

PORT = {"size": "column", "eps": 1e-6, "eps_form": "add", "vectors": "length", "companion": {"lr_ratio": 3.0}}
VARIANTS = {
    "paper": {},
    "one-round": {"L": 1},
    "naubull2": PORT,
    "forgather": {"size": "matrix", "companion": {"lr_ratio": 0.5}},
}


def walk(w, grads, lr, variant="paper", decay="before", weight_decay=0.0, **given):
    usual = {"L": 5, "size": "rms", "eps": 1e-8, "eps_form": "clamp", "vectors": "companion"}
    h = usual | {"companion": {"lr_ratio": 20.0}} | VARIANTS[variant] | given
    if w.ndim < 2 and h["vectors"] == "companion":
        yield from adamw(w, grads, lr * h["companion"]["lr_ratio"])
        return

    def floored(norm):
        return norm + h["eps"] if h["eps_form"] == "add" else max(norm, h["eps"])

    for g in grads:
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w * (1 - lr * weight_decay)
        x = np.array(g)
        if w.ndim < 2:
            x = x / floored(np.sqrt((x**2).sum()))
        else:
            m, n = x.shape
            for _ in range(h["L"]):
                for i in range(m):
                    x[i] = x[i] / floored(np.sqrt((x[i] ** 2).sum())) * (1 if h["size"] == "column" else n**0.5)
                for j in range(n):
                    x[:, j] = x[:, j] / floored(np.sqrt((x[:, j] ** 2).sum()))
                    x[:, j] *= 1 if h["size"] == "column" else m**0.5
            x = x / (m * n) ** 0.5 if h["size"] == "matrix" else x
        w = w - lr * x
        if decay == "after":
            w = w * (1 - lr * weight_decay)
        yield w


def adamw(w, grads, lr):
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield w
