import numpy as np

OPTIONS = [
    {"lr": 0.01, "amsgrad": True, "betas": (0.9, 0.5), "weight_decay": 0.1},
    {"lr": 0.01, "gamma": 0.1, "clip": "none", "eps": 1e-3, "decay": "after", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "levanter"},
    {"lr": 0.01, "variant": "paper", "betas": (0.8, 0.98), "companion": {"lr_ratio": 0.3, "weight_decay": 0.0}},
    {"lr": 0.01, "optimize_1d": True, "amsgrad": True, "first_previous": "same"},
    {"lr": 0.01, "variant": "lion", "optimize_1d": True, "gamma": 0.05, "clip": "global"},
    {"lr": 0.01, "variant": "lion", "clip": "none"},
    {"lr": 0.01, "variant": "lion", "clip": "none", "first_previous": "same"},
    {"lr": 0.01, "variant": "shampoo", "optimize_1d": True, "eps": 0.1, "weight_decay": 0.1},
    {"lr": 0.01, "variant": "shampoo", "ns_steps": 3, "clip": "none", "gamma": 0.1},
    {"lr": 0.01, "variant": "m", "ns_steps": 4, "clip": "global"},
    {"lr": 0.01, "variant": "m-efficient", "gamma": 0.1, "eps": 1e-3, "betas": (0.8, 0.99)},
]


def orthogonal(x, steps, eps):
    x = x / (np.sqrt((x**2).sum()) + eps)
    for _ in range(steps):
        x = 3.4445 * x + (-4.7750 * (x @ x.T) + 2.0315 * (x @ x.T) @ (x @ x.T)) @ x
    return x


def adam(m, v, betas, t, eps):
    return m / ((np.sqrt(v) / np.sqrt(1 - betas[1] ** t) + eps) * (1 - betas[0] ** t))


def companion(w, grads, lr, instance, amsgrad, lr_ratio=1.0, weight_decay=0.1):
    betas, eps, lr = (0.9, 0.95), 1e-8, lr * lr_ratio
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        if instance == "m":  # the other place of epsilon
            u = np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) * m / (np.sqrt(v) + eps)
        else:
            u = adam(m, v, betas, t, eps)
        w = w * (1 - lr * weight_decay) - lr * u
        yield w


def walk(
    w,
    grads,
    lr,
    variant="official",
    betas=(0.95, 0.99),
    gamma=0.025,
    eps=None,
    clip=None,
    weight_decay=None,
    decay="before",
    first_previous=None,
    optimize_1d=False,
    amsgrad=False,
    ns_steps=5,
    **others,
):
    instance = {"lion": "lion", "shampoo": "shampoo", "m": "m", "m-efficient": "m"}.get(variant, "adamw")
    clip = clip or {"levanter": "global", "paper": "global", "m-efficient": "none"}.get(variant, "tensor")
    first_previous = first_previous or ("same" if variant == "paper" else "zero")
    vector = w.ndim < 2
    if vector and (instance == "m" or not (optimize_1d or variant == "levanter")):
        yield from companion(w, grads, lr, instance, amsgrad, **others.get("companion", {}))
        return
    if weight_decay is None:
        weight_decay = 0.1 if instance == "m" or (variant == "levanter" and not vector) else 0.0
    if eps is None:
        eps = 1e-7 if instance == "m" else 1e-8
    beta1, beta2 = betas
    m, v, top = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    previous = grads[0] if first_previous == "same" else np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        c = g + gamma * beta1 / (1 - beta1) * (g - previous)
        previous = g
        size = np.sqrt((c**2).sum())
        if clip == "tensor" and size > 1:
            c = c / size
        if clip == "global":
            c = c * min(1, 1 / (size + 1e-6))
        m = beta1 * m + (1 - beta1) * c
        v = beta2 * v + (1 - beta2) * c**2
        top = np.maximum(top, v)
        if instance == "lion":
            u = np.sign(m)
        elif instance == "adamw" or (instance == "shampoo" and vector):
            u = adam(m, top if amsgrad else v, betas, t, eps)
        else:
            rows, cols = w.shape
            if instance == "shampoo":
                u = max(1, rows / cols) ** 0.5 * orthogonal(m / (1 - beta1), ns_steps, eps)
            else:
                u = 0.2 * max(rows, cols) ** 0.5 * orthogonal(m, ns_steps, eps)
        shrink = 1 - lr * weight_decay
        w = w * shrink - lr * u if decay == "before" else (w - lr * u) * shrink
        yield w
