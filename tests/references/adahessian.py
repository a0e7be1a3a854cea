import numpy as np

OPTIONS = [{"lr": 0.01, "floor": 0.0, "eps": 0.5}]  # without an estimate eps alone divides
ESTIMATED = [
    {"lr": 0.01},
    {"lr": 0.01, "floor": 0.7, "hessian_interval": 3, "eps": 0.1},
    {"lr": 0.01, "variant": "instruction", "block_1d": 3, "weight_decay": 0.2},
    {"lr": 0.01, "variant": "instruction-blocks", "block_2d": 7, "block_1d": -1},
    {"lr": 0.01, "variant": "image", "hessian_power": 0.5, "decay": "after", "weight_decay": 0.2},
    {"lr": 0.01, "variant": "image", "hessian_power": 0.0},
    {"lr": 0.01, "variant": "fairseq", "hessian_interval": 4},
    {"lr": 0.01, "variant": "paper", "hessian_power": 0.7, "betas": (0.8, 0.9)},
    {"lr": 0.01, "absolute": False, "decay": "coupled", "weight_decay": 0.2},
]
NUMBERS = {
    "rows": {"block_2d": -1, "floor": 0.01},
    "instruction": {"block_2d": -1, "floor": 0.0},
    "instruction-blocks": {"block_2d": 32, "floor": 0.0},
    "image": {"block_2d": None, "floor": 0.0},
    "fairseq": {"block_2d": 32, "floor": 0.0, "betas": (0.9, 0.98), "weight_decay": 1e-4},
    "paper": {"block_2d": 32, "floor": 0.0, "absolute": False},
}


def neighbours(d, block_2d, block_1d):
    out = d.flatten().copy()
    size = block_2d if d.ndim == 2 else block_1d
    if size == -1:
        size = d.shape[-1] if d.ndim == 2 else None
    for start in range(0, d.size, size) if size else ():
        out[start : start + size] = out[start : start + size].sum() / len(out[start : start + size])
    return out.reshape(d.shape)


def walk(
    w,
    grads,
    lr,
    variant="rows",
    estimates=(),
    hessian_interval=1,
    hessian_power=1.0,
    decay="before",
    eps=1e-4,
    block_1d=None,
    **other,
):
    o = {"betas": (0.9, 0.999), "weight_decay": 0.0, "absolute": True} | NUMBERS[variant] | other
    (beta1, beta2), decayed, seen = o["betas"], o["weight_decay"], 0
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if t % hessian_interval == 1 or hessian_interval == 1:
            seen += 1
            if len(estimates):
                d = np.abs(estimates[t - 1]) if o["absolute"] else estimates[t - 1]
                d = np.abs(neighbours(d, o["block_2d"], block_1d))
                least = o["floor"] * d.sum() / d.size
                d = np.where(d < least, least, d)
                v = beta2 * v + (1 - beta2) * d**2
        if decay == "coupled":
            g = g + decayed * w
        m = beta1 * m + (1 - beta1) * g
        below = (v / (1 - beta2**seen)) ** (hessian_power / 2) + eps
        u = m / (1 - beta1**t) / below
        if decay == "after":
            w = (w - lr * u) * (1 - lr * decayed)
        else:
            w = w - lr * (u if decay == "coupled" else u + decayed * w)
        yield w
