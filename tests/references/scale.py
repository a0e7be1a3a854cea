import numpy as np

HEAD, EMBED = {"*": "head"}, {"*": "embed"}
OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, "variant": "official-1b", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "paper", "eps": 0.5, "decay": "after", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "paper", "roles": EMBED},
    {"lr": 0.01, "variant": "paper", "roles": HEAD, "momentum": 0.5},
    {"lr": 0.01, "variant": "no-momentum", "roles": HEAD},
    {"lr": 0.01, "variant": "tied", "roles": EMBED, "decay": "coupled", "weight_decay": 0.1},
    {"lr": 0.01, "roles": HEAD, "momentum": 0.8, "weight_decay": 0.1},
    {"lr": 0.01, "along": "column", "averaged": True, "companion": {"lr_ratio": 2.0, "weight_decay": 0.1}},
]


def walk(w, grads, lr, variant="official", roles=None, decay="before", weight_decay=0.0, **given):
    role = (roles or {}).get("*", "matrix" if w.ndim > 1 else "norm")
    if role == "norm":
        ratio = {"lr_ratio": {"official-1b": 5.0, "paper": 0.1}.get(variant, 1.0)}
        yield from adamw(w, grads, lr, **(ratio | given.get("companion", {})))
        return
    averaged = given.get("averaged", (role, variant) in [("head", v) for v in ("official", "paper")])
    averaged = averaged or (role, variant) == ("embed", "tied")
    axis = 0 if (role == "embed" and variant != "tied") or given.get("along") == "column" else 1
    beta, m = given.get("momentum", 0.9), np.zeros_like(w)
    for g in grads:
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w - lr * weight_decay * w
        m = beta * m + (1 - beta) * g
        x = m if averaged else g
        x = x if w.ndim > 1 else x[None, :]
        size = np.sqrt((x**2).sum(axis) if variant == "paper" else (x**2).mean(axis))
        u = x / np.expand_dims(np.maximum(size, given.get("eps", 1e-8)), axis)
        w = w - lr * u.reshape(w.shape)
        if decay == "after":
            w = w - lr * weight_decay * w
        yield w


def adamw(w, grads, lr, lr_ratio, weight_decay=0.0):
    lr = lr_ratio * lr
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        w = w * (1 - lr * weight_decay)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (1e-8 + np.sqrt(v))
        yield w
