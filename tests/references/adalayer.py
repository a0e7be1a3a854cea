import numpy as np

OPTIONS = [
    {"lr": 0.01, "blocks": "row", "betas": (0.9, 0.95), "weight_decay": 0.1},
    {"lr": 0.01, "blocks": "none", "betas": (0.8, 0.95), "weight_decay": 0.1},
    {"lr": 0.01, "t_freeze": 4, "eps": 1e-3},
    {"lr": 0.01, "t_freeze": 4, "after_freeze": "ema", "blocks": "row", "betas": (0.9, 0.8)},
    {"lr": 0.01, "decay": "independent", "weight_decay": 0.1, "betas": (0.0, 0.9)},
    {"lr": 0.01, "decay": "after", "weight_decay": 0.1},
    {"lr": 0.01, "decay": "coupled", "weight_decay": 0.1},
    {"lr": 0.5, "variant": "sgd-hybrid", "weight_decay": 0.1, "betas": (0.9, 0.95)},
    {"lr": 0.01, "variant": "frozen", "t_freeze": 3, "betas": (0.9, 0.95)},
    {"lr": 0.01, "variant": "no-norm-training", "weight_decay": 0.1},
]


def walk(
    w,
    grads,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.01,
    decay="before",
    blocks="tensor",
    t_freeze=0,
    after_freeze="hold",
    variant=None,
):
    norm = w.ndim == 1
    if variant == "sgd-hybrid":
        lr, blocks = (3.16e-3, "tensor") if norm else (lr, "none")
    if variant == "frozen" and norm:
        after_freeze = "ema"
    if variant == "no-norm-training" and norm:
        lr = 0.0
    m, squares, v = np.zeros_like(w), [], 0.0
    for t, g in enumerate(grads, start=1):
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w * (1 - lr * weight_decay)
        if decay == "independent":
            w = w * (1 - weight_decay)
        m = betas[0] * m + (1 - betas[0]) * g
        squares.append((g**2).mean(axis=-1, keepdims=True) if blocks == "row" else (g**2).mean())
        if not t_freeze:  # the average of all squares, the newest weighing most
            ages = np.arange(t)[::-1]
            v = sum((1 - betas[1]) * betas[1] ** age * s for age, s in zip(ages, squares, strict=True))
            scale = np.sqrt(v / (1 - betas[1] ** t))
        else:
            if t <= t_freeze:
                v = sum(squares) / (t + 1)
            elif after_freeze == "ema":
                v = betas[1] * v + (1 - betas[1]) * squares[-1]
            scale = np.sqrt(v)
        m_hat = m / (1 - betas[0] ** t)
        w = w - lr * (m_hat if blocks == "none" else m_hat / (scale + eps))
        if decay == "after":
            w = w * (1 - lr * weight_decay)
        yield w
