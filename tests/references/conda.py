import numpy as np

MATRICES = True
OPTIONS = [
    {"lr": 0.01, "update_proj_gap": 3},
    {"lr": 0.01, "update_proj_gap": 1, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1},
    {"lr": 0.01, "update_proj_gap": 4, "correct_bias": False, "scale": 0.3},
    {"lr": 0.01, "update_proj_gap": 4, "decay": "before", "weight_decay": 0.1},
]


def walk(
    w,
    grads,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decay="after",
    scale=1.0,
    update_proj_gap=2000,
    correct_bias=True,
):
    flip = w.shape[0] < w.shape[1]  # a wide matrix is a tall one, mirrored
    if flip:
        w, grads = w.T, [g.T for g in grads]
    m = v = np.zeros_like(w)
    for k, g in enumerate(grads):
        m = betas[0] * m + (1 - betas[0]) * g
        if k % update_proj_gap == 0:
            q = np.linalg.svd(m, full_matrices=False)[2].T
        v = betas[1] * v + (1 - betas[1]) * (g @ q) ** 2
        c1, c2 = (1 - betas[0] ** (k + 1), 1 - betas[1] ** (k + 1)) if correct_bias else (1.0, 1.0)
        step = lr * scale * np.sqrt(c2) / c1 * (m @ q / (np.sqrt(v) + eps)) @ q.T
        shrink = 1 - lr * weight_decay
        w = (w - step) * shrink if decay == "after" else w * shrink - step
        yield w.T if flip else w
