import numpy as np

from references.adamp import projected

OPTIONS = [
    {"lr": 0.1, "momentum": 0.9, "delta": 2.0, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.5, "dampening": 0.3, "delta": 0.5, "weight_decay": 0.1, "wd_ratio": 0.5},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "delta": 2.0, "variant": "official", "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "delta": 0.5, "eps": 1.0, "variant": "official", "nesterov": True},
    {"lr": 0.1, "momentum": 0.9, "delta": 2.0, "write_back": True},
    {"lr": 0.1, "delta": 2.0, "dampening": 0.5, "nesterov": True, "weight_decay": 0.1},
    {"lr": 0.1, "variant": "readme", "delta": 2.0},
]


def walk(
    w,
    grads,
    lr,
    momentum=None,
    dampening=0.0,
    nesterov=None,
    eps=1e-8,
    weight_decay=None,
    delta=0.1,
    wd_ratio=0.1,
    write_back=False,
    variant="paper",
):
    readme, official = variant == "readme", variant == "official"
    momentum = (0.9 if readme else 0.0) if momentum is None else momentum
    nesterov = readme if nesterov is None else nesterov
    weight_decay = (1e-5 if readme else 0.0) if weight_decay is None else weight_decay
    b = np.zeros_like(w)
    for g in grads:
        b = momentum * b + (1 - dampening) * g
        u, was = projected(g + momentum * b if nesterov else b, g, w, delta, eps, official)
        if (write_back or official) and not nesterov:
            b = u
        w = w * (1 - lr * weight_decay * (wd_ratio if was else 1) / (1 - momentum)) - lr * u
        yield w
