import numpy as np

OPTIONS = [
    {"lr": 0.01, "betas": (0.9, 0.999), "amsgrad": True, "weight_decay": 0.1},
    {"lr": 0.01, "betas": (0.9, 0.5), "amsgrad": True, "decay": "coupled", "weight_decay": 0.1},
    {"lr": 0.01, "betas": (0.8, 0.98), "eps": 1e-2, "eps_form": "hf", "weight_decay": 0.0},
    {"lr": 0.01, "betas": (0.8, 0.98), "eps": 1e-2, "eps_form": "hf", "decay": "after", "weight_decay": 0.1},
    {"lr": 0.01, "betas": (0.8, 0.98), "eps": 1e-2, "decay": "independent", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "hf", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "hf", "correct_bias": False},
    {"lr": 0.01, "betas": (0.8, 0.98), "eps": 1e-2, "correct_bias": False},
]


def walk(
    w,
    grads,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    amsgrad=False,
    eps_form="torch",
    correct_bias=True,
    weight_decay=None,
    decay="before",
    variant=None,
):
    if variant == "hf":
        eps, eps_form, decay = 1e-6, "hf", "after"
    if weight_decay is None:
        weight_decay = 0.0 if variant == "hf" else 0.01
    m = v = x = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w - lr * weight_decay * w
        if decay == "independent":
            w = w - weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        x = np.maximum(x, v)
        top = x if amsgrad else v
        if not correct_bias:
            w = w - lr * m / (np.sqrt(top) + eps)
        elif eps_form == "torch":
            m_hat = m / (1 - betas[0] ** t)
            w = w - lr * m_hat / (np.sqrt(top / (1 - betas[1] ** t)) + eps)
        else:
            w = w - lr * np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) * m / (np.sqrt(top) + eps)
        if decay == "after":
            w = w - lr * weight_decay * w
        yield w
