import numpy as np

OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, "variant": "hinton", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "graves"},
    {"lr": 0.01, "momentum": 0.8, "eps": 1e-2, "decay": "before", "weight_decay": 0.1},
    {"lr": 0.01, "centered": True, "alpha": 0.7, "decay": "after", "weight_decay": 0.1},
]
VARIANTS = {
    None: {},
    "hinton": {"alpha": 0.9},
    "graves": {"alpha": 0.95, "momentum": 0.9, "centered": True, "eps": 1e-4, "eps_inside": True},
}


def walk(w, grads, lr, variant=None, **own):
    defaults = {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False, "eps_inside": False}
    o = defaults | {"weight_decay": 0.0, "decay": "coupled"} | VARIANTS[variant] | own
    seen, b = [], 0.0
    for t, g in enumerate(grads):
        if o["decay"] == "coupled":
            g = g + o["weight_decay"] * w
        if o["decay"] == "before":
            w = w - lr * o["weight_decay"] * w
        seen.append(g)
        share = [(1 - o["alpha"]) * o["alpha"] ** (t - k) for k in range(t + 1)]
        spread = sum(s * x**2 for s, x in zip(share, seen, strict=True))
        if o["centered"]:
            spread = spread - sum(s * x for s, x in zip(share, seen, strict=True)) ** 2
        b = o["momentum"] * b + g / (np.sqrt(spread + o["eps"]) if o["eps_inside"] else np.sqrt(spread) + o["eps"])
        w = w - lr * b
        if o["decay"] == "after":
            w = w - lr * o["weight_decay"] * w
        yield w
