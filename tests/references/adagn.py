import numpy as np

OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, "variant": "adagn-bf16", "eps": 1e-3},
    {"lr": 0.01, "gamma1": -1.0, "gamma2": 0.5, "norm_eps": 0.1, "eps": 1e-3},
]


def walk(w, grads, lr, gamma1=0.7, gamma2=0.9, norm_eps=1e-8, eps=1e-8, variant=None):
    if variant == "adagn-bf16":
        gamma1, gamma2 = 0.85, 0.99999
    b1, b2 = 0.9, 0.999
    if gamma1 == -1:
        gamma1 = b1
    m, v, mu, nu = np.zeros_like(w), np.zeros_like(w), 0.0, 0.0
    for t, g in enumerate(grads, start=1):
        n = np.linalg.norm(g.ravel())
        mu, nu = gamma1 * mu + (1 - gamma1) * n, gamma2 * nu + (1 - gamma2) * n * n
        g = g / n * (mu / (1 - gamma1**t)) / (np.sqrt(nu / (1 - gamma2**t)) + norm_eps)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w * (1 - lr * 1e-2) - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        yield w
