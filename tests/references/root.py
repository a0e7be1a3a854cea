import numpy as np

MATRICES = True
MINE = (3.0, -3.7, 1.6)
OPTIONS = [
    {"lr": 0.01, "coefficients": "muon"},
    {"lr": 0.01, "coefficients": MINE, "quantile": 0.5, "momentum": 0.8, "ns_steps": 3},
    {"lr": 0.01, "variant": "paper", "coefficients": "official", "weight_decay": 0.0},
    {"lr": 0.01, "coefficients": {"9x9": MINE, "others": (2.0, -1.5, 0.5)}, "eps": 10.0, "decay": "after"},
    {"lr": 0.01, "variant": "official", "nesterov": False, "quantile": 0.8, "eps": 0.1},
    {"lr": 0.01, "coefficients": "muon", "quantile": 1.0, "ns_steps": 9, "ns_dtype": "working"},
]


def walk(
    w,
    grads,
    lr,
    coefficients="fitted",
    quantile=0.9,
    momentum=0.95,
    nesterov=None,
    ns_steps=5,
    variant="fitted",
    weight_decay=0.1,
    eps=1e-7,
    decay="before",
    ns_dtype=None,
):
    nesterov = variant != "paper" if nesterov is None else nesterov
    a, b, c = (3.4445, -4.7750, 2.0315)
    if isinstance(coefficients, tuple):
        a, b, c = coefficients
    if isinstance(coefficients, dict):
        a, b, c = coefficients["9x9" if w.shape == (9, 9) else "others"]
    m = np.zeros_like(w)
    for g in grads:
        m = momentum * m + g
        u = g + momentum * m if nesterov else m
        size = np.abs(u).ravel()
        if variant == "official":
            size = np.sort(size.astype(np.float32))
            place = np.float32(quantile) * np.float32(len(size) - 1)
            low = int(place)
            t = size[low] + (size[low + 1] - size[low]) * (place - np.float32(low)) + np.float32(1e-9)
        else:
            t = np.quantile(size[size > 0], quantile)
        x = np.clip(u, -float(t), float(t))
        x = x / (np.sqrt((x**2).sum()) + eps)
        for _ in range(ns_steps):
            x = a * x + (b * (x @ x.T) + c * (x @ x.T) @ (x @ x.T)) @ x
        if variant != "paper":
            x = x * 0.2 * max(w.shape) ** 0.5
        shrink = 1 - lr * weight_decay
        w = w * shrink - lr * x if decay == "before" else (w - lr * x) * shrink
        yield w
