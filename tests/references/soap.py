import numpy as np

SQUARE = True  # of other shapes the first basis is not unique
OPTIONS = [
    {"lr": 0.01, "correct_bias": False},
    {"lr": 0.01, "normalize_grads": True, "precondition_frequency": 2},
    {"lr": 0.01, "shampoo_beta": 0.7, "betas": (0.9, 0.99), "precondition_frequency": 3, "weight_decay": 0.1},
    {"lr": 0.01, "max_precond_dim": 1, "eps": 1e-3},
    {"lr": 0.01, "decay": "before", "weight_decay": 0.1, "precondition_frequency": 1},
    {"lr": 0.01, "block_size": 8, "precondition_frequency": 3},
    {"lr": 0.01, "block_size": 4, "normalize_grads": True, "precondition_frequency": 1, "eps": 1e-3},
    {"lr": 0.01, "order": "levanter", "precondition_frequency": 2, "weight_decay": 0.1},
    {"lr": 0.01, "order": "levanter", "precondition_frequency": 1, "decay": "before", "weight_decay": 0.1},
    {"lr": 0.01, "variant": "levanter", "precondition_frequency": 3, "weight_decay": 0.1},
    {"lr": 0.01, "variant": "levanter", "block_size": 8, "precondition_frequency": 1, "betas": (0.95, 0.98)},
]
LEVANTER = {"shampoo_beta": 0.95, "eps": 1e-15, "decay": "before", "block_size": 256, "order": "levanter"}


def sorted_basis(a):
    values, vectors = np.linalg.eigh(a)
    return vectors[:, np.argsort(values)[::-1]]


class Block:
    """L, R, their bases and both moments of one square block."""

    def __init__(self, n, rotated):
        self.left, self.right, self.rotated = np.zeros((n, n)), np.zeros((n, n)), rotated
        self.ql = self.qr = np.eye(n)
        self.m, self.v = np.zeros((n, n)), np.zeros((n, n))  # m in the weight's own coordinates (Algorithm 3)

    def direction(self, g, betas, eps):
        self.m = betas[0] * self.m + (1 - betas[0]) * g
        self.v = betas[1] * self.v + (1 - betas[1]) * (self.ql.T @ g @ self.qr) ** 2
        return self.ql @ ((self.ql.T @ self.m @ self.qr) / (np.sqrt(self.v) + eps)) @ self.qr.T

    def gather(self, g, beta):
        self.left = beta * self.left + (1 - beta) * g @ g.T
        self.right = beta * self.right + (1 - beta) * g.T @ g

    def first(self):
        if self.rotated:
            self.ql, self.qr = sorted_basis(self.left), sorted_basis(self.right)

    def refresh(self):
        if self.rotated:
            rows = np.argsort(-np.diag(self.ql.T @ self.left @ self.ql))
            cols = np.argsort(-np.diag(self.qr.T @ self.right @ self.qr))
            self.v = self.v[rows][:, cols]
            self.ql = np.linalg.qr(self.left @ self.ql[:, rows])[0]
            self.qr = np.linalg.qr(self.right @ self.qr[:, cols])[0]


def walk(w, grads, variant=None, **options):
    yield from steps(w, grads, **((LEVANTER if variant == "levanter" else {}) | options))


def steps(
    w,
    grads,
    lr,
    betas=(0.95, 0.95),
    eps=1e-8,
    correct_bias=True,
    normalize_grads=False,
    shampoo_beta=None,
    precondition_frequency=10,
    max_precond_dim=10000,
    weight_decay=0.01,
    decay="after",
    block_size=None,
    order="official",
):
    bs = betas[1] if shampoo_beta is None else shampoo_beta
    n = len(w)
    size = min(n, block_size or n)
    places = [(slice(i, i + size), slice(j, j + size)) for i in range(0, n, size) for j in range(0, n, size)]
    blocks = [Block(size, n <= max_precond_dim) for _ in places]
    for t, g in enumerate(grads):
        k = t + 1 if order == "levanter" else t
        shrink = 1 - lr * weight_decay if t > 0 or order == "levanter" else 1.0
        if decay == "before":
            w = w * shrink
        if t > 0:
            u = np.zeros_like(w)
            for block, place in zip(blocks, places, strict=True):
                u[place] = block.direction(g[place], betas, eps)
            if normalize_grads:
                u = u / np.sqrt((u**2).mean())
            w = w - lr * (np.sqrt(1 - betas[1] ** k) / (1 - betas[0] ** k) if correct_bias else 1.0) * u
        if decay == "after":
            w = w * shrink
        for block, place in zip(blocks, places, strict=True):
            due = t > 0 and k % precondition_frequency == 0
            if due and order == "levanter":
                block.refresh()
            block.gather(g[place], bs)
            if t == 0:
                block.first()
            elif due and order == "official":
                block.refresh()
        yield w
