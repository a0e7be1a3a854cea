import numpy as np

MATRICES = True
OPTIONS = [
    {"lr": 0.01, "update_proj_gap": 3},
    {"lr": 0.01, "rank": 5, "update_proj_gap": 1, "scale": 1.0, "weight_decay": 0.1},
    {"lr": 0.01, "rank": 3, "proj_type": "reverse_std", "update_proj_gap": 4},
    {"lr": 0.01, "rank": 8, "proj_type": "reverse_std", "update_proj_gap": 4},
    {"lr": 0.01, "rank": 3, "proj_type": "left", "update_proj_gap": 4},
    {"lr": 0.01, "rank": 0.4, "proj_type": "right", "update_proj_gap": 4},
    {"lr": 0.01, "rank": 3, "proj_type": "full", "update_proj_gap": 4},
    {"lr": 0.01, "rank": 100, "update_proj_gap": 4, "correct_bias": False},
    {"lr": 0.01, "rank": 4, "eps_form": "torch", "decay": "before", "weight_decay": 0.1},
]


def turned(vectors):
    """Rows with their entries of largest size positive."""
    return np.stack([x * np.sign(x[np.argmax(abs(x))]) for x in vectors])


def walk(
    w,
    grads,
    lr,
    rank=0.25,
    update_proj_gap=200,
    scale=0.25,
    proj_type="std",
    correct_bias=True,
    eps_form="hf",
    decay="after",
    weight_decay=0.0,
    betas=(0.9, 0.999),
    eps=1e-6,
):
    rows, cols = w.shape
    r = min(rows, cols, rank) if rank >= 1 else round(rank * min(rows, cols))
    short = "right" if rows >= cols else "left"
    longer = "left" if rows >= cols else "right"
    side = {"std": short, "reverse_std": longer}.get(proj_type, proj_type)
    m = v = 0.0
    for k, g in enumerate(grads):
        if k % update_proj_gap == 0:
            u, _, vt = np.linalg.svd(g)
            left = turned(u.T[:r]).T if side in ("left", "full") else np.eye(rows)
            right = turned(vt[:r]) if side in ("right", "full") else np.eye(cols)
        low = left.T @ g @ right.T
        m, v = betas[0] * m + (1 - betas[0]) * low, betas[1] * v + (1 - betas[1]) * low**2
        c1, c2 = (1 - betas[0] ** (k + 1), 1 - betas[1] ** (k + 1)) if correct_bias else (1.0, 1.0)
        n = np.sqrt(c2) / c1 * m / (np.sqrt(v) + eps)
        if eps_form == "torch":
            n = m / c1 / (np.sqrt(v / c2) + eps)
        step = lr * scale * left @ n @ right
        shrink = 1 - lr * weight_decay
        w = (w - step) * shrink if decay == "after" else w * shrink - step
        yield w
