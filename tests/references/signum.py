import numpy as np

OPTIONS = [
    {"lr": 0.01, "variant": "epfl"},
    {"lr": 0.01, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
]


def walk(w, grads, lr, momentum=0.9, nesterov=False, weight_decay=0.0, variant=None):
    if variant == "epfl":
        momentum, nesterov, weight_decay = 0.95, True, 0.1
    total = np.zeros_like(w)
    for g in grads:
        total = momentum * total + g
        w = w * (1 - lr * weight_decay) - lr * np.sign(g + momentum * total if nesterov else total)
        yield w
