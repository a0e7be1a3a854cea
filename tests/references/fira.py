import numpy as np

MATRICES = True
OPTIONS = [
    {"lr": 0.01, "update_proj_gap": 3},
    {"lr": 0.01, "variant": "paper", "update_proj_gap": 3, "weight_decay": 0.1},
    {"lr": 0.01, "rank": 3, "update_proj_gap": 4, "limiter": "off", "scale": 0.5, "eps": 1e-2},
    {"lr": 0.01, "rank": 3, "update_proj_gap": 4, "limiter_floor": 0.999, "limiter_growth": 1.1},
    {"lr": 0.01, "rank": 3, "update_proj_gap": 4, "limiter": "official", "limiter_growth": 1.001},
    {"lr": 0.01, "rank": 3, "proj_type": "reverse_std", "update_proj_gap": 4},
    {"lr": 0.01, "rank": 3, "proj_type": "left", "update_proj_gap": 4, "correct_bias": False},
    {"lr": 0.01, "rank": 3, "proj_type": "right", "eps_form": "torch", "decay": "before", "weight_decay": 0.1},
]


def walk(
    w,
    grads,
    lr,
    variant=None,
    rank=0.25,
    update_proj_gap=200,
    scale=0.25,
    proj_type="std",
    limiter="mended",
    limiter_growth=1.01,
    limiter_floor=0.1,
    correct_bias=True,
    eps_form="hf",
    decay="after",
    weight_decay=0.0,
    betas=(0.9, 0.999),
    eps=1e-6,
):
    std = w.shape[0] >= w.shape[1]
    flip = {"std": not std, "reverse_std": std, "left": True, "right": False}[proj_type]
    if flip:
        w, grads = w.T, [g.T for g in grads]
    r = rank if rank >= 1 else round(rank * min(w.shape))
    m = v = 0.0
    last = None
    for k, g in enumerate(grads):
        if k % update_proj_gap == 0:
            q = np.stack([x * np.sign(x[np.argmax(abs(x))]) for x in np.linalg.svd(g)[2][:r]])
        low = g @ q.T
        m, v = betas[0] * m + (1 - betas[0]) * low, betas[1] * v + (1 - betas[1]) * low**2
        c1, c2 = (1 - betas[0] ** (k + 1), 1 - betas[1] ** (k + 1)) if correct_bias else (1.0, 1.0)
        psi, late = m / (np.sqrt(v) + eps), np.sqrt(c2) / c1
        if eps_form == "torch":
            psi, late = m / c1 / (np.sqrt(v / c2) + eps), 1.0
        phi = np.linalg.norm(psi, axis=1, keepdims=True) / (np.linalg.norm(low, axis=1, keepdims=True) + 1e-8)
        rest = phi * (g - (1.0 if variant == "paper" else scale) * low @ q)
        if limiter != "off":
            size = np.linalg.norm(rest)
            growth = 1.0 if last is None else max(size / (last + 1e-8), limiter_growth) / limiter_growth
            rest, kept = rest / growth, size / growth
            last = kept if last is None or limiter == "official" else max(kept, limiter_floor * last)
        step = lr * late * (scale * psi @ q + rest)
        shrink = 1 - lr * weight_decay
        w = (w - step) * shrink if decay == "after" else w * shrink - step
        yield w.T if flip else w
