import numpy as np

MATRICES = True
OPTIONS = [
    {"lr": 0.02, "nesterov": False},
    {"lr": 0.02, "variant": "kimi", "nesterov": False},
    {"lr": 0.02, "variant": "torch", "scale": "match_rms"},
    {"lr": 0.02, "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 0.1},
    {"lr": 0.02, "variant": "torch", "eps": 10.0, "decay": "after"},
]


def orthogonal(u, steps, coefficients, eps, clamp):
    a, b, c = coefficients
    size = np.sqrt((u**2).sum())
    x = u / (max(size, eps) if clamp else size + eps)
    for _ in range(steps):
        # The same polynomial of the singular values from either side, so no transposing here.
        x = a * x + (b * (x @ x.T) + c * (x @ x.T) @ (x @ x.T)) @ x
    return x


def walk(
    w,
    grads,
    lr,
    momentum=0.95,
    nesterov=True,
    weight_decay=0.0,
    variant="keller",
    scale=None,
    ns_steps=5,
    ns_coefficients=(3.4445, -4.7750, 2.0315),
    eps=1e-7,
    decay="before",
):
    weight_decay = {"keller": weight_decay, "kimi": 0.1, "torch": 0.1}[variant]
    scale = scale or ("match_rms" if variant == "kimi" else "spectral")
    rows, cols = w.shape
    m = np.zeros_like(w)
    for g in grads:
        if variant == "kimi":
            m = momentum * m + g
            u = g + momentum * m if nesterov else m
        else:
            m = momentum * m + (1 - momentum) * g
            u = (1 - momentum) * g + momentum * m if nesterov else m
        o = orthogonal(u, ns_steps, ns_coefficients, eps, variant == "torch")
        o = o * (0.2 * max(rows, cols) ** 0.5 if scale == "match_rms" else max(1, rows / cols) ** 0.5)
        shrink = 1 - lr * weight_decay
        w = w * shrink - lr * o if decay == "before" else (w - lr * o) * shrink
        yield w
