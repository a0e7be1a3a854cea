import numpy as np
import torch

from references.kron import all_of, gram
from steepest.linalg.philox import draw

OPTIONS = [
    {"lr": 0.01, "dQ": "QUAD", "momentum": 0.9},
    {"lr": 0.01, "dQ": "QUAD", "max_skew": 0.9, "precond_lr": 0.5},
    {"lr": 0.01, "dQ": "QEQ", "max_skew": 1e9, "init_scale": 0.7},
    {"lr": 0.01, "dQ": "PRO4P", "max_skew": 1e9, "precond_lr": 0.7},
    {"lr": 0.01, "dQ": "PRO4P", "init_scale": 0.3, "momentum": 0.9, "whiten_grad": False},
    {"lr": 0.01, "dQ": "PRO4P", "least_rotations": 1},
    {"lr": 0.01, "dQ": "EQ", "max_skew": 0.5, "momentum": 0.5},
    {"lr": 0.01, "dQ": "EQ", "max_skew": 1e9, "precond_lr": 0.3, "max_size": 20},
    {"lr": 0.01, "max_skew": 1e9, "betaL": 0.5, "damping": 0.1},
    {"lr": 0.01, "max_skew": 0.0, "clip": (0.5, 1.0)},
    {"lr": 0.01, "update_preconditioner_first": False, "weight_decay": 0.1},
    {"lr": 0.01, "decay": "coupled", "weight_decay": 0.1, "momentum": 0.9},
    {"lr": 0.01, "update_probability": 0.0, "update_at": (1, 2, 5, 6)},
    {"lr": 0.01, "balance_every": 2},  # changes nothing: the text below knows nothing of it
]
EPS = np.finfo(np.float64).eps


def bound(a, scale, v):
    a = a / scale
    row = max(a, key=np.linalg.norm)
    v = np.stack([row + np.sign(one @ row) * one for one in v])
    for _ in range(2):
        v = v @ a
        v = v / np.linalg.norm(v, axis=1, keepdims=True) @ a
    return scale * np.linalg.norm(v, axis=1).max()


def procrustes(q, v, order):
    r = q.T - q
    if abs(r).max() == 0:
        return q
    r = r / bound(r, abs(r).max(), v)
    one, two, three = r @ q, r @ r @ q, r @ r @ r @ q
    slope, bend, cubic = np.trace(one), np.trace(two), np.trace(three)
    if order == 2:
        a = min(-slope / bend, 1 / 8) if bend < 0 else 1 / 8
        return q + a * one + a**2 / 2 * two
    a = min(max(np.roots([3 / 8 * cubic, bend, slope]).real), 1 / 3) if slope > 0 and cubic < 0 else 0
    return q + a * one + a**2 / 2 * two + a**3 / 8 * three


class Draws:
    """In the order of streams: noise, then the probes of each length in turn."""

    def __init__(self, t, shape, lengths, each):
        self.t, self.stream, self.shape = t, 0, shape
        self.noise = self.next(*shape)
        self.probes = {}
        for n in dict.fromkeys(lengths):
            self.probes[n] = [self.next(32, n) for _ in range(each * lengths.count(n))]

    def next(self, *shape):
        n, stream = int(np.prod(shape)), self.stream
        self.stream += 1
        return draw("normal", n, seed=0, t=self.t, stream=stream, dtype=torch.float64).numpy().reshape(shape)


def fitted(qs, ls, y, draws, dQ, mu, beta, damping, least):
    x = y + (damping + EPS * abs(y)) * draws.noise
    if dQ == "EQ":
        h = all_of(qs, x)
        b = all_of([1 / q if q.ndim == 1 else np.linalg.inv(q).T for q in qs], draws.noise)
    else:
        h = all_of(qs, x) if dQ == "PRO4P" else all_of([q.T @ q if q.ndim == 2 else q * q for q in qs], x)
    new, levels = [], []
    for i, (q, level) in enumerate(zip(qs, ls, strict=True)):
        n = y.shape[i]
        t, other = gram(h, i), gram(b, i) if dQ == "EQ" else y.size / n * np.eye(n)
        if dQ == "EQ":
            size = (t + other).diagonal().max() if q.ndim == 1 else None
            spd, extra = t + other, 0
        else:
            size = t.diagonal().max() + y.size / n if q.ndim == 1 else None
            spd, extra = t, y.size / n
        if size is None:
            size = bound(spd, spd.diagonal().max(), draws.probes[n].pop(0)) + extra
        level = max(beta * level + (1 - beta) * size, size)
        a = mu / level
        if q.ndim == 1:
            e = (t - other).diagonal()
            q = q * (1 - a / 2 * e) ** 2 if dQ == "QUAD" else q - a * e * q
        elif dQ == "EQ":
            q = q - a * np.triu(t - other) @ q
        elif dQ == "QEQ":
            q = q - a * (q @ t - y.size / n * q)
        elif dQ == "QUAD":
            p = q - a / 2 * (t @ q - y.size / n * q)
            p = p - a / 2 * (p @ t - y.size / n * p)
            q = (p + p.T) / 2
        else:
            q = q - a * (t @ q - y.size / n * q)
            if dQ == "Q0.5EQ1.5":
                q = procrustes(q, draws.probes[n].pop(0), 2)
            else:
                for k in range(10):
                    if k >= least and abs(q.T - q).max() < 1e-3 * abs(q).max():
                        break
                    q = procrustes(q, draws.probes[n].pop(0), 3)
        new.append(q)
        levels.append(level)
    return new, levels


def walk(
    w,
    grads,
    lr,
    momentum=0.0,
    weight_decay=0.0,
    decay="before",
    dQ="Q0.5EQ1.5",
    precond_lr=0.1,
    init_scale=None,
    betaL=0.9,
    damping=1e-9,
    clip=(2.0, 10.0),
    whiten_grad=True,
    update_preconditioner_first=True,
    update_probability=1.0,
    update_at=(),
    max_size=10**9,
    max_skew=1.0,
    balance_every=100,
    least_rotations=0,
):
    dense = [1 < n <= max_size and n**2 <= max_skew * w.size for n in w.shape]
    lengths = [n for n, is_dense in zip(w.shape, dense, strict=True) if is_dense]
    each = {"Q0.5EQ1.5": 2, "PRO4P": 11}.get(dQ, 1)
    m = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if t == 1:
            s = ((g**4).mean() + damping**4) ** (-1 / 8) if init_scale is None else init_scale
            s = (s**2 if dQ == "PRO4P" else s) ** (1 / w.ndim)
            qs = [s * (np.eye(n) if d else np.ones(n)) for n, d in zip(w.shape, dense, strict=True)]
            ls = [0.0] * w.ndim
        if decay == "before":
            w = w - lr * weight_decay * w
        else:
            g = g + weight_decay * w
        beta = min((t - 1) / t, momentum)
        m = beta * m + (1 - beta) * g
        old = qs
        if update_probability == 1 or t in update_at:
            draws = Draws(t, w.shape, lengths, each)
            qs, ls = fitted(
                qs, ls, g if whiten_grad else m, draws, dQ, precond_lr, betaL, damping, least_rotations
            )
        used = qs if update_preconditioner_first else old
        u = all_of(used, m)
        u = u if dQ == "PRO4P" else all_of([q.T for q in used], u)
        rms = np.sqrt((u**2).mean())
        u = np.clip(u * (clip[0] / rms if rms > clip[0] else 1), -clip[1], clip[1])
        w = w - lr * u
        yield w
