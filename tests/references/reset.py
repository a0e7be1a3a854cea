import numpy as np

from references.spam import warmth

OPTIONS = [
    {"lr": 0.01, "reset_every": 4},
    {"lr": 0.01, "reset_every": 3, "reset_warmup": 2},
    {"lr": 0.01, "reset_every": 4, "reset_warmup": 3, "reset_form": "moments"},
    {"lr": 0.01, "reset_every": 4, "reset_form": "official"},
    {"lr": 0.01, "reset_every": 1, "reset_form": "official"},
    {"lr": 0.01, "reset_every": 3, "amsgrad": True},
    {"lr": 0.01, "reset_every": 3, "reset_form": "moments", "amsgrad": True},
    {"lr": 0.01, "reset_every": 3, "reset_form": "official", "amsgrad": True},
]


def walk(w, grads, lr, reset_every, reset_form="anew", reset_warmup=0, amsgrad=False):
    b1, b2 = 0.9, 0.999
    m = v = most = np.zeros_like(w)
    s = 0
    for t, g in enumerate(grads, start=1):
        now = t % reset_every == 0
        s = 1 if now and reset_form != "moments" else s + 1
        if now and reset_form != "official":
            m = v = most = np.zeros_like(w)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        most = np.maximum(most, v)
        d = np.sqrt((most if amsgrad else v) / (1 - b2**s)) + 1e-8
        scale = warmth(t % reset_every, reset_warmup) if t >= reset_every else 1
        w = w - lr * 1e-2 * w - lr * scale * m / (1 - b1**s) / d
        if now and reset_form == "official":
            m = v = np.zeros_like(w)
        yield w
