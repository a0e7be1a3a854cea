import numpy as np

OPTIONS = [
    {"lr": 0.01, "freeze_step": 4},
    {"lr": 0.01, "freeze_step": 0.3, "total_steps": 9, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.3},
    {"lr": 0.01, "freeze_step": 3, "bias_correction": False, "first_call": "nothing", "bounded": False},
    {"lr": 0.01, "freeze_step": 2, "bounded": False, "weight_decay": 0.3, "decay": "after"},
    {"lr": 0.01, "freeze_step": 1, "betas": (0.9, 0.1), "weight_decay": 0.3, "decay": "before"},
    {"lr": 0.01, "freeze_step": 2, "compress": False},
]


def walk(
    w,
    grads,
    lr,
    freeze_step,
    total_steps=None,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decay="joined",
    bias_correction=True,
    first_call="moves",
    bounded=True,
    compress=True,
):
    """One worker, where nothing is compressed."""
    beta1, beta2 = betas
    last = freeze_step if freeze_step >= 1 else int(np.ceil(freeze_step * total_steps))
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if t == 1 and first_call == "nothing":
            yield w
            continue
        if t <= last or not compress:
            v = beta2 * v + (1 - beta2) * g**2
            n = t
        elif bounded:
            seen = np.sqrt(v / (1 - beta2**n)) if bias_correction else np.sqrt(v)
            most = seen / np.sqrt(1 - beta2)
            g = np.clip(g, -most, most)
        m = beta1 * m + (1 - beta1) * g
        if t > last and compress and bounded:
            m = np.clip(m, -most, most)
        c1, c2 = (1 - beta1**t, 1 - beta2**n) if bias_correction else (1, 1)
        u = (m / c1) / (np.sqrt(v / c2) + eps)
        if decay == "before":
            w = w - lr * weight_decay * w
        if decay == "joined":
            u = u + weight_decay * w
        w = w - lr * u
        if decay == "after":
            w = w - lr * weight_decay * w
        yield w
