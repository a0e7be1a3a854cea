import numpy as np

OPTIONS = [{"lr": 0.01, "gamma3": 0.5}, {"lr": 0.01}, {"lr": 0.01, "gamma3": 0.9, "betas": (0.5, 0.9)}]


def walk(w, grads, lr, gamma3=0.999, betas=(0.9, 0.999)):
    b1, b2 = betas
    m, v, top = np.zeros_like(w), np.zeros_like(w), 0.0
    for t, g in enumerate(grads, start=1):
        most = np.max(np.abs(g))
        top = gamma3 * top + (1 - gamma3) * most
        level = top / (1 - gamma3**t)
        g = np.where(np.abs(g) > level, g * (level / most), g)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w * (1 - lr * 1e-2) - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        yield w
