import numpy as np
import torch

from steepest.linalg.philox import draw

MATRICES = True
OPTIONS = [
    {"lr": 0.01, "update_proj_gap": 3, "seed": 5},
    {"lr": 0.1, "variant": "mini", "update_proj_gap": 4, "weight_decay": 0.1},
    {"lr": 0.1, "variant": "mini", "update_proj_gap": 4, "scale_front": True},
    {"lr": 0.1, "variant": "official-mini", "update_proj_gap": 4, "scale_front": True, "scale_type": "channel"},
    {"lr": 0.1, "rank": 3, "limiter": "off", "scale": 9.0, "scale_front": True},
    {"lr": 0.1, "rank": 3, "proj": "svd", "limiter": "off", "scale": 9.0, "update_proj_gap": 2},
    {"lr": 0.1, "rank": 3, "proj_type": "reverse_std"},
    {"lr": 0.1, "rank": 3, "proj_type": "left", "correct_bias": False},
    {"lr": 0.1, "rank": 30, "proj_type": "right"},
    {"lr": 0.1, "rank": 3, "eps_form": "torch", "decay": "before", "weight_decay": 0.1, "eps": 0.1},
    {"lr": 0.1, "rank": 3, "scale_type": "tensor", "limiter_floor": 0.999},
]
DEFAULTS = {
    "rank": 0.25, "update_proj_gap": 200, "proj": "random", "proj_type": "std", "scale_type": "channel",
    "scale": 1.0, "scale_front": False, "limiter": "mended", "limiter_floor": 0.1, "correct_bias": True,
    "eps_form": "hf",
    "decay": "after", "weight_decay": 0.0, "seed": 0, "betas": (0.9, 0.999), "eps": 1e-6,
}  # fmt: skip
MINI = {"rank": 1, "scale_type": "tensor", "scale": 128.0}
VARIANTS = {"mini": MINI, "official-mini": MINI | {"limiter": "official"}}


def projector(g, r, flip, k, o):
    """Rows that span the subspace; of a mirrored matrix the draw is the mirror image."""
    if o["proj"] == "svd":
        return np.stack([x * np.sign(x[np.argmax(abs(x))]) for x in np.linalg.svd(g)[2][:r]])
    n = g.shape[1]
    p = draw("normal", r * n, seed=o["seed"], t=k + 1, dtype=torch.float64).numpy() / np.sqrt(r)
    return p.reshape(n, r).T if flip else p.reshape(r, n)


def walk(w, grads, lr, variant=None, **own):
    o = DEFAULTS | VARIANTS.get(variant, {}) | own
    (rows, cols), (b1, b2) = w.shape, o["betas"]
    r = o["rank"] if o["rank"] >= 1 else round(o["rank"] * min(rows, cols))
    std = rows >= cols
    flip = {"std": not std, "reverse_std": std, "left": True, "right": False}[o["proj_type"]]
    if flip:
        w, grads = w.T, [g.T for g in grads]
    m = v = 0.0
    last = None
    for k, g in enumerate(grads):
        if k % o["update_proj_gap"] == 0:
            p = projector(g, r, flip, k, o)
        low = g @ p.T
        m, v = b1 * m + (1 - b1) * low, b2 * v + (1 - b2) * low**2
        c1, c2 = (1 - b1 ** (k + 1), 1 - b2 ** (k + 1)) if o["correct_bias"] else (1.0, 1.0)
        n, late = m / (np.sqrt(v) + o["eps"]), np.sqrt(c2) / c1
        if o["eps_form"] == "torch":
            n, late = m / c1 / (np.sqrt(v / c2) + o["eps"]), 1.0
        axis = 1 if o["scale_type"] == "channel" else None
        f = np.linalg.norm(n, axis=axis, keepdims=True) / (np.linalg.norm(low, axis=axis, keepdims=True) + 1e-8)
        u = f * g * (np.sqrt(o["scale"]) if o["scale_front"] else 1.0)
        if o["limiter"] != "off":
            size = np.linalg.norm(u)
            growth = 1.0 if last is None else max(size / (last + 1e-8), 1.01) / 1.01
            u, kept = u / growth, size / growth
            mended = o["limiter"] == "mended" and last is not None
            last = max(kept, o["limiter_floor"] * last) if mended else kept
        step = lr * late * u * (1.0 if o["scale_front"] else np.sqrt(o["scale"]))
        shrink = 1 - lr * o["weight_decay"]
        w = (w - step) * shrink if o["decay"] == "after" else w * shrink - step
        yield w.T if flip else w
