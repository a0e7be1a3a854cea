import numpy as np

OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, "variant": "original", "weight_decay": 0.1, "decay": "coupled"},
    {"lr": 0.01, "variant": "original", "max_precond_dim": 16},
    {"lr": 0.01, "average": "ema", "betas": (0.8, 0.9), "eps": 1e-6, "precondition_frequency": 3},
    {"lr": 0.01, "average": "ema", "betas": (0.8, 0.9), "eps": 1e-6, "correct_bias": False, "weight_decay": 0.1},
    {"lr": 0.01, "variant": "adam-grafted", "eps": 1e-6, "precondition_frequency": 3},
    {
        "lr": 0.01,
        "grafting": "adam",
        "eps": 1e-5,
        "start_step": 5,
        "precondition_frequency": 2,
        "grafting_beta2": 0.9,
    },
    {"lr": 0.01, "grafting": "sgd", "eps_form": "absolute", "max_precond_dim": 5},
    {"lr": 0.01, "grafting": "adagrad", "grafting_eps": 1e-3, "max_precond_dim": 7, "exponent": 0.3},
    {"lr": 0.01, "grafting": "rmsprop", "average": "ema", "eps": 1e-4, "precondition_frequency": 2},
    {
        "lr": 0.01,
        "start_step": 3,
        "eps": 1e-6,
        "eps_form": "absolute",
        "precondition_frequency": 2,
        "weight_decay": 0.1,
    },
    {"lr": 0.01, "momentum": 0.9, "dampening": 0.5, "eps": 1e-4},
    {"lr": 0.01, "momentum": 0.9, "eps": 1e-4, "decay_in_momentum": True, "weight_decay": 0.1},
    {"lr": 0.01, "momentum": 0.8, "nesterov": True, "root": "newton", "eps": 1e-6},
    {
        "lr": 0.01,
        "large": "identity",
        "max_precond_dim": 16,
        "average": "ema",
        "eps": 1e-4,
        "eps_form": "absolute",
    },
    {"lr": 0.01, "large": "diagonal", "max_precond_dim": 16, "eps": 1e-3},
    {
        "lr": 0.01,
        "large": "diagonal",
        "max_precond_dim": 1,
        "average": "ema",
        "betas": (0.0, 0.9),
        "exponent": 0.5,
    },
]
VARIANTS = {
    "original": {
        "betas": (0.0, 0.999),
        "eps": 1e-4,
        "eps_form": "absolute",
        "max_precond_dim": 768,
        "large": "diagonal",
    },
    "adam-grafted": {
        "betas": (0.9, 0.999),
        "average": "ema",
        "grafting": "adam",
        "precondition_frequency": 100,
    },
}


def power(a, exponent, eps, eps_form):
    values, vectors = np.linalg.eigh(a)
    if eps_form == "absolute":
        values = values - min(values.min(), 0) + eps
    else:
        values = np.maximum(values, 0) + (eps + np.finfo(np.float64).eps) * np.linalg.norm(a)
    return vectors @ np.diag(values**-exponent) @ vectors.T


class Block:
    """Shampoo of one block; which dimensions have a factor ("full", "diagonal", None) is decided outside."""

    def __init__(self, kinds, h):
        self.kinds, self.h = kinds, h
        self.factors, self.roots = [0.0] * len(kinds), [0.0] * len(kinds)
        self.m = self.v = self.b = 0.0
        count = sum(kind is not None for kind in kinds)
        self.exponent = h["exponent"] or 1 / (2 * max(1, count))

    def direction(self, g, w, t):
        h = self.h
        beta1, beta2 = h["betas"]
        graft, every = h["grafting"], h["precondition_frequency"]
        start = h["start_step"] or (1 if graft == "none" else every)
        keep, share = (1, 1) if h["average"] == "sum" else (beta2, 1 - beta2)
        correction = 1 - beta2**t if h["average"] == "ema" and h["correct_bias"] else 1
        for i, kind in enumerate(self.kinds):
            rest = [j for j in range(g.ndim) if j != i]
            gram = np.tensordot(g, g, axes=(rest, rest))
            self.factors[i] = keep * self.factors[i] + share * (
                np.diag(np.diag(gram)) if kind == "diagonal" else gram
            )
            if kind == "diagonal" or (kind and t >= start and (t == start or t % every == 0)):
                self.roots[i] = power(self.factors[i] / correction, self.exponent, h["eps"], h["eps_form"])
            elif kind and t < start:
                self.roots[i] = np.zeros_like(gram)
        self.m = beta1 * self.m + (1 - beta1) * g
        m = self.m / (1 - beta1**t) if beta1 and h["correct_bias"] else self.m
        beta = h["grafting_beta2"] or beta2
        self.v = self.v + g * g if graft == "adagrad" else beta * self.v + (1 - beta) * g * g
        v = self.v / (1 - beta**t) if graft == "adam" else self.v
        own = m if graft in ("none", "sgd") else m / (np.sqrt(v) + h["grafting_eps"])
        if t < start and graft != "none":
            u = own
        else:
            u = m
            for i, kind in enumerate(self.kinds):
                if kind:
                    u = np.moveaxis(np.tensordot(self.roots[i], u, axes=(1, i)), 0, i)
            if graft != "none":
                u = u * np.linalg.norm(own) / np.linalg.norm(u)
        if h["decay_in_momentum"]:
            u = u + h["weight_decay"] * w
        mu, held = h["momentum"], 1 - h["dampening"]
        self.b = mu * self.b + held * u
        return held * u + mu * self.b if h["nesterov"] else self.b if mu else u


def walk(
    w,
    grads,
    lr,
    variant=None,
    weight_decay=0.0,
    decay="before",
    **options,
):
    h = {
        "betas": (0.9, 0.999),
        "average": "sum",
        "correct_bias": True,
        "eps": 1e-12,
        "eps_form": "relative",
        "exponent": None,
        "precondition_frequency": 1,
        "start_step": None,
        "max_precond_dim": 1024,
        "large": "block",
        "grafting": "none",
        "grafting_beta2": None,
        "grafting_eps": 1e-8,
        "momentum": 0.0,
        "dampening": 0.0,
        "nesterov": False,
        "decay_in_momentum": False,
        "weight_decay": weight_decay,
    }
    h |= VARIANTS.get(variant, {}) | options
    most = h["max_precond_dim"]
    if h["large"] == "block":
        cuts = [range(0, n, most) for n in w.shape]
        kinds = ["full"] * w.ndim
    else:
        cuts = [range(0, n, n) for n in w.shape]
        kinds = ["full" if n <= most else {"diagonal": "diagonal", "identity": None}[h["large"]] for n in w.shape]
    size = most if h["large"] == "block" else max(w.shape)
    grid = np.stack(np.meshgrid(*cuts, indexing="ij"), axis=-1).reshape(-1, w.ndim)
    places = [tuple(slice(i, i + size) for i in corner) for corner in grid]
    blocks = [Block(kinds, h) for _ in places]
    for t, g in enumerate(grads, start=1):
        if decay == "coupled":
            g = g + weight_decay * w
        apart = decay == "before" and not h["decay_in_momentum"]
        moved = w * (1 - lr * weight_decay) if apart else w.copy()
        for block, place in zip(blocks, places, strict=True):
            moved[place] -= lr * block.direction(g[place], w[place], t)
        w = moved
        yield w
