import numpy as np

MOMENTUM = {"variant": "deconstructing", "lr": 0.01}
OPTIONS = [
    {"lr": None},
    {"lr": 0.01, "weight_decay": 0.1, "beta1": 0.9},
    {"lr": 0.01, "second_moment": "full", "beta2": 0.9},
    {"lr": 0.01, "second_moment": "rows", "vectors": "scalar", "eps1": 1e-2},
    {"lr": None, "scale_parameter": False, "beta1": 0.5, "beta2": 0.99},
    {"lr": 0.01, "scale_parameter": False, "clip_threshold": None, "decay_rate": 0.5},
    {"lr": None, "variant": "hf", "weight_decay": 0.1, "beta1": 0.9, "eps2": 0.9},
    {"lr": None, "variant": "hf", "warmup_init": True, "scale_parameter": False, "clip_threshold": 0.5},
    {"lr": 0.01, "variant": "hf", "relative_step": False, "weight_decay": 0.1, "clip_threshold": 0.5},
    {"lr": 0.9, "variant": "torch", "weight_decay": 0.1, "clip_threshold": 2.0, "decay_rate": 0.5},
    {"lr": 0.01, "variant": "torch", "eps1": 0.3, "scale_parameter": False},
    {"lr": None, "variant": "torch"},
    MOMENTUM | {"eps": 1e-2, "weight_decay": 0.1},
    MOMENTUM | {"second_moment": "rows", "decay": "coupled", "weight_decay": 0.1},
    MOMENTUM | {"second_moment": "rows", "vectors": "scalar", "beta1": 0.0, "decay": "after", "weight_decay": 0.1},
    MOMENTUM | {"second_moment": "full", "beta2": 0.99},
    MOMENTUM | {"second_moment": "none", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "sgd-hybrid", "by_role": {"norm": {"lr": 0.02, "vectors": "scalar"}}},
]


def rms(x):
    return np.sqrt((x**2).mean())


def walk(w, grads, lr, variant="t2t", by_role=None, **options):
    if w.ndim < 2:
        options |= (by_role or {}).get("norm", {})
    h = options | {"lr": options.get("lr", lr), "variant": variant}
    if variant == "sgd-hybrid":
        h |= {"variant": "deconstructing", "second_moment": "factored" if w.ndim < 2 else "none"}
    return momentum_form(w, grads, **h) if h["variant"] == "deconstructing" else original(w, grads, **h)


def estimate(r, c, v, kind, vectors, beta, q):
    """(r, c, v) and V after one more q."""
    if q.ndim < 2:
        v = beta * v + (1 - beta) * (q if vectors == "elementwise" else q.mean())
        return r, c, v, v
    r = beta * r + (1 - beta) * q.mean(axis=1)
    c = beta * c + (1 - beta) * q.mean(axis=0)
    v = beta * v + (1 - beta) * q
    columns = np.full_like(c, c.mean()) if kind == "rows" else c
    return r, c, v, v if kind == "full" else np.outer(r, columns) / r.mean()


def original(
    w,
    grads,
    lr,
    variant,
    weight_decay=0.0,
    second_moment="factored",
    vectors="elementwise",
    beta1=0.0,
    beta2=None,
    decay_rate=0.8,
    relative_step=None,
    warmup_init=False,
    scale_parameter=True,
    clip_threshold=1.0,
    eps1=None,
    eps2=1e-3,
):
    if variant == "torch":
        lr, eps1 = lr or 0.01, eps1 or np.finfo(w.dtype).eps
    r = c = v = m = 0.0
    for t, g in enumerate(grads, start=1):
        b = 1 - t**-decay_rate if beta2 is None else beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
        if variant == "torch":
            rho = min(lr, 1 / np.sqrt(t))
        elif lr is not None:
            rho = lr
        else:
            rho = min(1e-6 * t if warmup_init else 1e-2, 1 / np.sqrt(t))
            rho *= 0.05 if variant == "t2t" and not scale_parameter else 1
        alpha = rho * max(eps2, rms(w)) if scale_parameter else rho
        q = g**2 if variant == "torch" else g**2 + (eps1 or 1e-30)
        r, c, v, big = estimate(r, c, v, second_moment, vectors, b, q)
        if variant == "torch":
            if w.ndim == 2:
                big = big * r.mean() / max(r.mean(), eps1)
            big = np.maximum(big, eps1**2)
        u = g / np.sqrt(big)
        if clip_threshold is not None:
            u = u / max(1, rms(u) / clip_threshold)
        u = alpha * u
        if beta1:
            u = m = beta1 * m + (1 - beta1) * u
        w = w - weight_decay * (lr if variant == "torch" else alpha) * w
        w = w - u
        yield w


def momentum_form(
    w,
    grads,
    lr,
    variant,
    weight_decay=0.0,
    decay="before",
    second_moment="factored",
    vectors="elementwise",
    beta1=0.9,
    beta2=0.95,
    eps=1e-15,
):
    r = c = v = 0.0
    m = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w * (1 - lr * weight_decay)
        m = beta1 * m + (1 - beta1) * g
        r, c, v, big = estimate(r, c, v, second_moment, vectors, beta2, g**2)
        if second_moment == "none":
            w = w - lr * m / (1 - beta1**t)
        else:
            w = w - lr * (m / (1 - beta1**t)) / (np.sqrt(big / (1 - beta2**t)) + eps)
        if decay == "after":
            w = w * (1 - lr * weight_decay)
        yield w
