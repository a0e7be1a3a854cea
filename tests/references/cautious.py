import numpy as np

OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, "mask": "mean+eps", "mask_eps": 0.05, "weight_decay": 0.1},
    {"lr": 0.01, "variant": "paper-v4"},
    {"lr": 0.01, "variant": "levanter"},
    {"lr": 0.01, "variant": "c-adamw-single", "correct_bias": False, "decay": "after", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "original", "decay": "coupled", "weight_decay": 0.1},
]
VARIANTS = {
    "paper-v4": {"mask": "mean+eps", "hf": True},
    "original": {"mask": "numel/(sum+1)", "hf": True},
    "c-adamw-single": {"hf": True},
    "levanter": {"mask": "mean+eps", "mask_eps": 1e-15, "betas": (0.95, 0.98), "eps": 1e-15, "weight_decay": 0.1},
}


def walk(w, grads, lr, variant=None, **own):
    given = {
        "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "decay": "before", "mask": "mean-clamp",
        "mask_eps": 1e-8, "hf": False, "correct_bias": True,
    }  # fmt: skip
    o = {**given, **VARIANTS.get(variant, {}), **own}
    b1, b2 = o["betas"]
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if o["decay"] == "coupled":
            g = g + o["weight_decay"] * w
        c1, c2 = (1 - b1**t, 1 - b2**t) if o["correct_bias"] else (1.0, 1.0)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = (m / c1) / (np.sqrt(v / c2) + o["eps"])
        if o["hf"]:
            u = np.sqrt(c2) / c1 * m / (np.sqrt(v) + o["eps"])
        kept = m * g > 0  # an Adam step has the sign of its first moment
        scale = {
            "mean-clamp": 1 / max(kept.mean(), 1e-3),
            "numel/(sum+1)": kept.size / (kept.sum() + 1),
            "mean+eps": 1 / (kept.mean() + o["mask_eps"]),
        }[o["mask"]]
        shrink = 1 - lr * o["weight_decay"]
        if o["decay"] == "before":
            w = w * shrink
        w = w - lr * np.where(kept, u * scale, 0.0)
        if o["decay"] == "after":
            w = w * shrink
        yield w
