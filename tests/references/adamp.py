import numpy as np

OPTIONS = [
    {"lr": 0.01, "delta": 0.5, "weight_decay": 0.1},
    {"lr": 0.01, "delta": 2.0, "weight_decay": 0.1, "wd_ratio": 0.5, "betas": (0.8, 0.95)},
    {"lr": 0.01, "delta": 2.0, "variant": "nesterov", "weight_decay": 0.1},
    {"lr": 0.01, "delta": 0.5, "variant": "official", "eps": 1.0, "weight_decay": 0.1},
    {"lr": 0.01, "delta": 0.5, "eps": 1.0, "weight_decay": 0.1},
    {"lr": 0.01, "delta": 0.0, "weight_decay": 0.1},
]


def projected(u, g, w, delta, eps, official):
    """The projected step, and whether it was projected."""
    if w.ndim < 2:
        return u, False
    for shape in ((w.shape[0], -1), (1, -1)):
        a, b, c = (x.reshape(shape) for x in (g, w, u))
        of_a, of_b = (np.sqrt((x**2).sum(axis=1)) for x in (a, b))
        if official:
            cosines = (a * b).sum(axis=1) / np.maximum(of_a, eps) / np.maximum(of_b, eps)
        else:
            known = (of_a > 0) & (of_b > 0)
            cosines = (a * b).sum(axis=1)[known] / of_a[known] / of_b[known]
        if len(cosines) and np.abs(cosines).max() < delta / np.sqrt(a.shape[1]):
            unit = b / (of_b + eps)[:, None]
            return (c - unit * (unit * c).sum(axis=1)[:, None]).reshape(u.shape), True
    return u, False


def walk(
    w,
    grads,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    delta=0.1,
    wd_ratio=0.1,
    variant="mended",
):
    b1, b2 = betas
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        ahead = b1 * m + (1 - b1) * g if variant == "nesterov" else m
        u, was = projected(ahead / (np.sqrt(v / (1 - b2**t)) + eps), g, w, delta, eps, variant == "official")
        w = w * (1 - lr * weight_decay * (wd_ratio if was else 1)) - lr / (1 - b1**t) * u
        yield w
