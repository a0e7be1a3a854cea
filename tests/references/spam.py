import numpy as np

# A reset at every third or fourth of nine steps; a clip that cuts about half of all entries.
EARLY = {"reset_every": 4, "reset_warmup": 3, "clip_after": 1, "threshold": 2.0}
OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, **EARLY, "weight_decay": 0.1},
    {"lr": 0.01, **EARLY, "reset_warmup": 0, "decay": "before", "weight_decay": 0.1, "eps_form": "torch"},
    {"lr": 0.01, **EARLY, "reset_every": 3, "clip_after": 0, "betas": (0.5, 0.9)},
    {"lr": 0.01, **EARLY, "clip_unseen": True},
    {"lr": 0.01, **EARLY, "clip_unseen": True, "clip_after": 0},
    {"lr": 0.01, **EARLY, "threshold": 0.0},
    {"lr": 0.01, **EARLY, "reset_every": 0},
    {"lr": 0.01, **EARLY, "density": 1.0, "weight_decay": 0.1},
]


def warmth(j, n):
    """The scale j steps after a reset."""
    return 1 - 0.99 * (1 + np.cos(np.pi * j / (n + 1))) / 2 if j < n else 1.0


def walk(
    w,
    grads,
    lr,
    betas=(0.9, 0.999),
    eps=1e-6,
    weight_decay=0.0,
    threshold=5000.0,
    clip_after=20,
    clip_unseen=False,
    reset_every=500,
    reset_warmup=150,
    density=None,
    decay="after",
    eps_form="hf",
    masks=None,
):
    """``masks``: that of each cycle; entries outside neither move nor have moments."""
    b1, b2 = betas
    w, m, v = w.copy(), np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        cycle, j = divmod(t, reset_every) if reset_every else (0, t)
        inside = np.ones(w.shape, bool) if masks is None else masks[cycle]
        if cycle and j == 0:
            m, v = np.zeros_like(w), np.zeros_like(w)
        if threshold and j >= clip_after:
            spike = g**2 > threshold * v
            if not clip_unseen:
                spike &= v > 0
            g = np.where(spike, np.sign(g) * np.sqrt(threshold * v), g)
        m = np.where(inside, b1 * m + (1 - b1) * g, 0)
        v = np.where(inside, b2 * v + (1 - b2) * g**2, 0)
        c1, c2 = 1 - b1**t, np.sqrt(1 - b2**t)
        u = c2 / c1 * m / (np.sqrt(v) + eps) if eps_form == "hf" else m / c1 / (np.sqrt(v) / c2 + eps)
        s = warmth(j, reset_warmup) if cycle else 1.0
        new = w - lr * weight_decay * w if decay == "before" else w
        new = new - lr * s * u
        if decay == "after":
            new = new - lr * weight_decay * new
        w = np.where(inside, new, w)
        yield w
