import math

import numpy as np
import torch

from steepest.linalg.philox import draw

OPTIONS = [
    {"lr": 0.01, "momentum_into_precond_update": False, "weight_decay": 0.1},
    {"lr": 0.01, "memory_save_mode": "one_diag", "momentum": 0.5},
    {"lr": 0.01, "memory_save_mode": "smart_one_diag", "precond_lr": 0.3},
    {"lr": 0.01, "memory_save_mode": "all_diag", "clip_rms": 0.2},
    {"lr": 0.01, "min_ndim_triangular": 1, "precond_init_scale": 0.5},
    {"lr": 0.01, "min_ndim_triangular": 3, "precond_init_scale": 3.0},
    {"lr": 0.01, "max_size_triangular": 10, "keep_noise": True},
    {"lr": 0.01, "block_size": 5, "weight_decay": 0.1},
    {"lr": 0.01, "block_size": 8, "normalize_grads": True, "max_size_triangular": 20},
    {"lr": 0.01, "update_probability": 0.4},
    {"lr": 0.01, "flat": 2, "decay_rate": 0.5, "least_probability": 0.3},
    {"lr": 0.01, "balance_every": 2, "balance_at": (3,)},  # changes nothing: the text below knows nothing of it
]


def along(q, x, i):
    """The factor on dimension i alone: a matrix, or a vector for a diagonal one."""
    full = q if q.ndim == 2 else np.diag(q)
    return np.moveaxis(np.tensordot(full, x, (1, i)), 0, i)


def all_of(qs, x):
    for i, q in enumerate(qs):
        x = along(q, x, i)
    return x


def gram(x, i):
    flat = np.moveaxis(x, i, 0).reshape(x.shape[i], -1)
    return flat @ flat.T


def lower_bound(a):
    largest = abs(a).max()
    s = a / largest
    x = s[:, np.argmax((s**2).sum(0))] @ s
    return largest * np.linalg.norm(s @ (x / np.linalg.norm(x)))


def fitted(qs, x, v, lr):
    a = all_of(qs, x)
    b = all_of([1 / q if q.ndim == 1 else np.linalg.inv(q).T for q in qs], v)
    new = []
    for i, q in enumerate(qs):
        t1, t2 = gram(a, i), gram(b, i)
        if q.ndim == 1:
            d1, d2 = np.diag(t1), np.diag(t2)
            new.append(q - lr * (d1 - d2) * q / max(d1 + d2))
        else:
            new.append(q - lr / lower_bound(t1 + t2) * np.triu(t1 - t2) @ q)
    return new


def is_triangular(shape, i, mode, most, least_ndim):
    longest = max(range(len(shape)), key=lambda j: (shape[j], j))
    if mode == "all_diag" or len(shape) < least_ndim or shape[i] == 1 or shape[i] > most:
        return False
    if i != longest or mode is None:
        return True
    return mode == "smart_one_diag" and sorted(shape)[-1] == [0, *sorted(shape)][-2]


def walk(
    w,
    grads,
    lr,
    momentum=0.9,
    weight_decay=0.0,
    precond_lr=0.1,
    precond_init_scale=1.0,
    clip_rms=1.1,
    update_probability=None,
    least_probability=0.03,
    flat=500,
    decay_rate=0.001,
    momentum_into_precond_update=True,
    max_size_triangular=8192,
    min_ndim_triangular=2,
    memory_save_mode=None,
    block_size=0,
    normalize_grads=False,
    keep_noise=False,
    balance_every=100,
    balance_at=(),
):
    shape = w.shape
    cuts, factors = [], []
    for i, n in enumerate(shape):
        triangular = is_triangular(shape, i, memory_save_mode, max_size_triangular, min_ndim_triangular)
        size = block_size if block_size and triangular else n
        cuts.append([slice(j, min(j + size, n)) for j in range(0, n, size)])
        factors.append(np.eye if triangular else np.ones)
    places = [(s,) for s in cuts[0]] if len(shape) == 1 else [(r, c) for r in cuts[0] for c in cuts[1]]
    scale = precond_init_scale ** (1 / len(shape))
    qs = [[scale * make(s.stop - s.start) for make, s in zip(factors, place, strict=True)] for place in places]
    m, counter = np.zeros_like(w), 0
    for t, g in enumerate(grads, start=1):
        if normalize_grads:
            g = g / np.linalg.norm(g)
        m = momentum * m + (1 - momentum) * g
        x = m / (1 - momentum**t)
        p = min(1, max(least_probability, math.exp(-decay_rate * (t - 1 - flat))))
        counter += 1
        if counter >= 1 / (update_probability or p):
            counter = 0
            v = draw("normal", w.size, seed=0, t=t, dtype=torch.float64).numpy().reshape(shape)
            seen = x if momentum_into_precond_update else g
            noisy = seen + 2**-11.5 * abs(seen).mean() * v
            qs = [fitted(q, noisy[at], v[at], precond_lr) for at, q in zip(places, qs, strict=True)]
            x = noisy if keep_noise and momentum_into_precond_update else x
        u = np.empty_like(w)
        for at, q in zip(places, qs, strict=True):
            u[at] = all_of([f.T for f in q], all_of(q, x[at]))
        u = u * min(1, clip_rms / np.sqrt((u**2).mean()))
        w = w - lr * (u + (weight_decay * w if w.ndim > 1 else 0))
        yield w
