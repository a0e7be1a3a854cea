import numpy as np

OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, "variant": "v1-exact", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "v1-exact-unscaled", "decay": "after", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "icml", "companion": {"lr_ratio": 3.0, "weight_decay": 0.1}},
    {"lr": 0.01, "variant": "icml", "rescale": False, "ns_steps": 2, "decay": "coupled", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "icml-exact", "eps": 10.0},
    {"lr": 0.01, "gradnorm": "std", "ns_steps": 4, "ns_beta": 0.8, "eps": 10.0},
]

VARIANTS = {
    "v1": ("std", "newton-schulz", True, 10),
    "v1-exact": ("std", "exact", True, 10),
    "v1-exact-unscaled": ("std", "exact", False, 10),
    "icml": ("rms", "newton-schulz", True, 6),
    "icml-exact": ("rms", "exact", True, 10),
}


def gradnorm(g, kind, eps):
    rows = []
    for row in g:
        if kind == "std":
            row = row - row.mean()
        rows.append(row / max(eps, np.sqrt((row**2).mean())))
    return np.array(rows)


def exact(x):
    # By the inverse root of the Gram matrix on the smaller side; the null space is left out.
    tall = x.shape[0] > x.shape[1]
    a = x.T if tall else x
    values, vectors = np.linalg.eigh(a @ a.T)
    kept = values > 1e-13 * values[-1]
    root = vectors[:, kept] @ np.diag(values[kept] ** -0.5) @ vectors[:, kept].T
    return (root @ a).T if tall else root @ a


def coupled(x, steps, beta):
    # The papers' own iteration, on Y and Z.
    tall = x.shape[0] > x.shape[1]
    a = (x.T if tall else x) / np.sqrt((x**2).sum())
    identity = np.eye(len(a))
    y, z = a @ a.T, identity
    for _ in range(steps):
        t = identity - z @ y
        y, z = y + beta * y @ t, z + beta * t @ z
    return (z @ a).T if tall else z @ a


def walk(w, grads, lr, variant="v1", decay="before", weight_decay=0.0, eps=1e-8, companion=None, **given):
    kind, whitening, rescale, steps = VARIANTS[variant]
    kind, steps, rescale = (
        given.get("gradnorm", kind),
        given.get("ns_steps", steps),
        given.get("rescale", rescale),
    )
    if w.ndim < 2:
        ratio = 3.0 if "unscaled" in variant else 20.0
        yield from adamw(w, grads, lr, **({"lr_ratio": ratio} | (companion or {})))
        return
    for g in grads:
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w * (1 - lr * weight_decay)
        x = gradnorm(g, kind, eps)
        u = exact(x) if whitening == "exact" else coupled(x, steps, given.get("ns_beta", 0.5))
        if rescale:
            u = u * np.sqrt((x**2).sum() / (u**2).sum())
        w = w - lr * u
        if decay == "after":
            w = w * (1 - lr * weight_decay)
        yield w


def adamw(w, grads, lr, lr_ratio=20.0, weight_decay=0.0):
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        w = w * (1 - lr_ratio * lr * weight_decay)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - lr_ratio * lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield w
