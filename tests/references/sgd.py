OPTIONS = [
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.9, "decay": "before", "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "decay": "before", "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "decay": "after", "weight_decay": 0.1},
]


def walk(w, grads, lr, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0, decay="coupled"):
    b = None
    for g in grads:
        if decay == "coupled":
            g = g + weight_decay * w
        if decay == "before":
            w = w * (1 - lr * weight_decay)
        b = g.copy() if b is None else momentum * b + (1 - dampening) * g
        w = w - lr * (g + momentum * b if nesterov else b)
        if decay == "after":
            w = w * (1 - lr * weight_decay)
        yield w
