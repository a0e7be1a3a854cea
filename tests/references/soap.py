import numpy as np

SQUARE = True  # of other shapes the first basis is not unique
OPTIONS = [
    {"lr": 0.01, "correct_bias": False},
    {"lr": 0.01, "normalize_grads": True, "precondition_frequency": 2},
    {"lr": 0.01, "shampoo_beta": 0.7, "betas": (0.9, 0.99), "precondition_frequency": 3, "weight_decay": 0.1},
    {"lr": 0.01, "max_precond_dim": 1, "eps": 1e-3},
    {"lr": 0.01, "decay": "before", "weight_decay": 0.1, "precondition_frequency": 1},
]


def sorted_basis(a):
    values, vectors = np.linalg.eigh(a)
    return vectors[:, np.argsort(values)[::-1]]


def walk(
    w,
    grads,
    lr,
    betas=(0.95, 0.95),
    eps=1e-8,
    correct_bias=True,
    normalize_grads=False,
    shampoo_beta=None,
    precondition_frequency=10,
    max_precond_dim=10000,
    weight_decay=0.01,
    decay="after",
):
    bs = betas[1] if shampoo_beta is None else shampoo_beta
    n = len(w)
    rotated = n <= max_precond_dim
    left, right = np.zeros((n, n)), np.zeros((n, n))
    ql = qr = np.eye(n)
    m, v = np.zeros_like(w), np.zeros_like(w)  # m in the weight's own coordinates (Algorithm 3 of the paper)
    for k, g in enumerate(grads):
        if k > 0:
            if decay == "before":
                w = w * (1 - lr * weight_decay)
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * (ql.T @ g @ qr) ** 2
            step = np.sqrt(1 - betas[1] ** k) / (1 - betas[0] ** k) if correct_bias else 1.0
            u = step * ql @ ((ql.T @ m @ qr) / (np.sqrt(v) + eps)) @ qr.T
            if normalize_grads:
                u = u / np.sqrt((u**2).mean())
            w = w - lr * u
            if decay == "after":
                w = w * (1 - lr * weight_decay)
        left, right = bs * left + (1 - bs) * g @ g.T, bs * right + (1 - bs) * g.T @ g
        if rotated and k == 0:
            ql, qr = sorted_basis(left), sorted_basis(right)
        elif rotated and k % precondition_frequency == 0:
            rows = np.argsort(-np.diag(ql.T @ left @ ql))
            cols = np.argsort(-np.diag(qr.T @ right @ qr))
            v = v[rows][:, cols]
            ql, qr = np.linalg.qr(left @ ql[:, rows])[0], np.linalg.qr(right @ qr[:, cols])[0]
        yield w
