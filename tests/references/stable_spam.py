import numpy as np

FAST = {"gamma3": 0.5, "reset_every": 4}  # clips and resets within nine steps
OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, **FAST},
    {"lr": 0.01, **FAST, "reset_form": "official"},
    {"lr": 0.01, **FAST, "reset_form": "official", "reset_every": 3, "amsgrad": True, "weight_decay": 0.1},
    {"lr": 0.01, **FAST, "reset_form": "official", "gamma1": -1.0, "total_T": 7, "eta_min": 0.2},
    {"lr": 0.01, **FAST, "reset_form": "official", "reset_every": 0, "total_T": 20},
    {"lr": 0.01, **FAST, "total_T": 20, "eta_min": 0.1},
    {"lr": 0.01, **FAST, "total_T": 5, "gamma1": -1.0, "betas": (0.8, 0.95)},
    {"lr": 0.01, "variant": "bf16", "gamma3": 0.9, "amsgrad": True},
]


def walk(
    w,
    grads,
    lr,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    gamma1=0.7,
    gamma2=0.9,
    gamma3=0.999,
    reset_every=1000,
    reset_form="anew",
    total_T=None,
    eta_min=0.5,
    amsgrad=False,
    variant=None,
):
    if variant == "bf16":
        gamma1, gamma2 = 0.85, 0.99999
    official = reset_form == "official"
    eps = 1e-8
    m = v = most = np.zeros_like(w)
    limit = mean = square = 0.0
    s = own = 0  # Adam's counter, and that of the two averages, which the official code does not have
    for t, g in enumerate(grads, start=1):
        c = 1.0
        if total_T is not None:
            at = t if official else min(t, total_T)
            c = eta_min + (1 - eta_min) * (1 + np.cos(np.pi * at / (total_T + 1))) / 2
        w = w * (1 - lr * weight_decay)
        s, own = s + 1, own + 1
        k = s if official else own
        limit = gamma3 * limit + (1 - gamma3) * abs(g).max()
        bound = limit / (1 - gamma3**k)
        g = np.where(abs(g) > bound, g / abs(g).max() * bound, g)
        c1 = c * (betas[0] if gamma1 == -1 else gamma1)
        n = np.sqrt((g**2).sum())
        mean, square = c1 * mean + (1 - c1) * n, gamma2 * square + (1 - gamma2) * n**2
        g = g / n * (mean / (1 - c1**k)) / (np.sqrt(square / (1 - gamma2**k)) + eps)
        now = reset_every and t % reset_every == 0
        if now:
            s = 1
        if now and not official:
            m = v = most = np.zeros_like(w)
        b1, b2 = c * betas[0], betas[1]
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        most = np.maximum(most, v)
        d = np.sqrt(most if amsgrad else v) / np.sqrt(1 - b2**s) + eps
        w = w - lr / (1 - b1**s) * m / d
        if now and official:
            m = v = np.zeros_like(w)
        yield w
