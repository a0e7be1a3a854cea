import numpy as np

OPTIONS = [
    {"lr": 0.01, "eps": 0.5},
    {"lr": 0.01, "variant": "h", "eps": 0.3, "clip": 0.7, "weight_decay": 0.2},
    {"lr": 0.01, "variant": "paper-g", "eps": 0.4},
    {"lr": 0.01, "variant": "paper-h", "eps": 0.2, "correct_bias": True, "betas": (0.9, 0.95)},
    {"lr": 0.01, "floor": "max", "eps": 0.1, "decay": "after"},
]
ESTIMATED = [
    {"lr": 0.01, "hessian_interval": 2},
    {"lr": 0.01, "hessian_interval": 3, "floor": "max", "eps": 0.05},
    {"lr": 0.01, "hessian_interval": 1, "batch_tokens": 240.0, "gamma": 0.004},
    {"lr": 0.01, "hessian_interval": 2, "variant": "h", "gamma": 2.0, "clip": 0.6},
    {"lr": 0.01, "hessian_interval": 2, "variant": "h", "floor": "add", "eps": 0.1},
    {"lr": 0.01, "hessian_interval": 4, "variant": "paper-g", "gamma": 0.5},
    {"lr": 0.01, "hessian_interval": 2, "variant": "paper-h", "gamma": 0.5},
]
NUMBERS = {
    "g": {"betas": (0.965, 0.99), "gamma": 0.04, "eps": 1e-15, "floor": "add", "weight_decay": 0.1},
    "h": {"betas": (0.96, 0.99), "gamma": 0.01, "eps": 1e-12, "floor": "max", "weight_decay": 0.1},
    "paper-g": {"betas": (0.96, 0.99), "gamma": 0.05, "eps": 1e-12, "floor": "max", "weight_decay": 0.2},
    "paper-h": {"betas": (0.96, 0.99), "gamma": 0.01, "eps": 1e-12, "floor": "max", "weight_decay": 0.2},
}


def walk(
    w,
    grads,
    lr,
    variant="g",
    clip=1.0,
    batch_tokens=1.0,
    correct_bias=None,
    hessian_interval=10,
    decay="before",
    estimates=(),
    **other,
):
    o = NUMBERS[variant] | other
    beta1, beta2 = o["betas"]
    correct = variant == "h" if correct_bias is None else correct_bias
    signed, first = variant in ("h", "paper-h"), "paper" in variant
    m, h = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if first and (t - 1) % hessian_interval == 0 and len(estimates):
            e = estimates[t - 1]
            h = beta2 * h + (1 - beta2) * (e if signed else e**2)
        m = beta1 * m + (1 - beta1) * g
        top = m / (1 - beta1**t) if correct else m
        u = np.empty_like(w)
        for at in np.ndindex(w.shape):  # coordinate by coordinate, as the paper says it
            if o["floor"] == "add":
                below = max(o["gamma"] * batch_tokens * h[at], 0.0) + o["eps"]
            else:
                below = max(o["gamma"] * batch_tokens * h[at], o["eps"])
            u[at] = np.sign(top[at]) * min(abs(top[at]) / below, clip)
        shrink = 1 - lr * o["weight_decay"]
        w = (w - lr * u) * shrink if decay == "after" else w * shrink - lr * u
        yield w
        if not first and t % hessian_interval == 0 and len(estimates):
            e = estimates[t - 1]
            h = beta2 * h + (1 - beta2) * (e if signed else e**2)
