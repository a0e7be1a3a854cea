import numpy as np

MATRICES = True
OPTIONS = [
    {"lr": 0.02, "nesterov": False},
    {"lr": 0.02, "variant": "kimi", "nesterov": False},
    {"lr": 0.02, "variant": "torch", "scale": "match_rms"},
    {"lr": 0.02, "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 0.1},
    {"lr": 0.02, "variant": "torch", "eps": 10.0, "decay": "after"},
    {"lr": 0.02, "variant": "polar-express"},
    {"lr": 0.02, "variant": "polar-express", "ns_steps": 9, "nesterov": False},
]
# Amsel et al., arXiv 2505.16932v3, section 4: as printed there, for singular values in [1e-3, 1].
PRINTED = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
]
EXPRESS = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in PRINTED] + [(1.875, -1.25, 0.375)] * 9


def orthogonal(u, quintics, eps, clamp, margin):
    size = np.sqrt((u**2).sum()) * margin
    x = u / (max(size, eps) if clamp else size + eps)
    for a, b, c in quintics:
        # The same polynomial of the singular values from either side, so no transposing here.
        x = a * x + (b * (x @ x.T) + c * (x @ x.T) @ (x @ x.T)) @ x
    return x


def walk(
    w,
    grads,
    lr,
    momentum=0.95,
    nesterov=True,
    weight_decay=0.0,
    variant="keller",
    scale=None,
    ns_steps=5,
    ns_coefficients=(3.4445, -4.7750, 2.0315),
    eps=1e-7,
    decay="before",
):
    weight_decay = {"kimi": 0.1, "torch": 0.1}.get(variant, weight_decay)
    express = variant == "polar-express"
    quintics = EXPRESS[:ns_steps] if express else [ns_coefficients] * ns_steps
    scale = scale or ("match_rms" if variant == "kimi" else "spectral")
    rows, cols = w.shape
    m = np.zeros_like(w)
    for g in grads:
        if variant == "kimi":
            m = momentum * m + g
            u = g + momentum * m if nesterov else m
        else:
            m = momentum * m + (1 - momentum) * g
            u = (1 - momentum) * g + momentum * m if nesterov else m
        o = orthogonal(u, quintics, eps, variant == "torch", 1.01 if express else 1.0)
        o = o * (0.2 * max(rows, cols) ** 0.5 if scale == "match_rms" else max(1, rows / cols) ** 0.5)
        shrink = 1 - lr * weight_decay
        w = w * shrink - lr * o if decay == "before" else (w - lr * o) * shrink
        yield w
