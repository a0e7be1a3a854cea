import numpy as np

OPTIONS = [
    {"lr": 0.01},
    {"lr": 0.01, "alpha": 0.3, "norm": "Spectral", "normalized": False, "ns_steps": 3, "ns_eps": 0.1},
    {"lr": 0.01, "alpha": 0.3, "spectral_max": True, "normalized": False, "scale": 2.0},
    {"lr": 0.01, "alpha": 0.3, "norm": "SpectralConv", "taps": 4, "decay": "after"},
    {"lr": 0.01, "alpha": 0.1, "norm": "Sign", "normalized": False, "weight_decay": 0.0},
    {"lr": 0.01, "alpha": 0.1, "norm": "Sign", "transpose": True},
    {"lr": 0.01, "alpha": 0.1, "norm": "ColNorm", "scale": 3.0, "eps": 1e-2},
    {"lr": 0.01, "alpha": 0.1, "norm": "ColNorm", "normalized": True, "transpose": True},
    {"lr": 0.01, "alpha": 0.1, "norm": "RowNorm", "normalized": False, "eps": 1e-2},
    {"lr": 0.01, "alpha": 0.1, "norm": "RowNorm", "transpose": True},
    {"lr": 0.01, "alpha": 0.1, "norm": "BiasRMS", "eps": 1e-2, "weight_decay": 0.3},
    {"lr": 0.01, "variant": "unconstrained"},
    {"lr": 0.01, "variant": "lm-tied"},
    {"lr": 0.01, "variant": "lm-untied"},
    {"lr": 0.01, "variant": "levanter"},
]

VARIANTS = {
    "official": {},
    "unconstrained": {"weight_decay": 0.0},
    "lm-tied": {"alpha": 0.1, "scale": 50.0},
    "lm-untied": {"alpha": 0.1, "scale": 3.0},
    "levanter": {"alpha": 0.05, "weight_decay": 0.1, "spectral_max": True, "ns_steps": 10, "ns_eps": 1e-15},
}


def orthogonal(x, steps, eps):
    x = x / (np.sqrt((x**2).sum()) + eps)
    for _ in range(steps):
        x = 3.4445 * x + (-4.7750 * (x @ x.T) + 2.0315 * (x @ x.T) @ (x @ x.T)) @ x
    return x


def lmo(d, norm, normalized, spectral_max, taps, eps, ns_steps, ns_eps):
    if norm == "BiasRMS":
        return d / (np.sqrt((d**2).mean(axis=0)) + eps)
    out, inputs = d.shape
    if norm == "Sign":
        return np.sign(d) / (1 if normalized is False else inputs)
    if norm == "ColNorm":
        return np.stack([x / (np.sqrt((x**2).mean()) * (inputs if normalized else 1) + eps) for x in d.T]).T
    if norm == "RowNorm":
        factor = 1 if normalized is False else inputs**0.5
        return np.stack([x / (np.sqrt((x**2).sum()) * factor + eps) for x in d])
    if norm == "SpectralConv":
        factor = (out / (inputs / taps)) ** 0.5 / taps
    else:
        factor = out**0.5 if normalized is False else (out / inputs) ** 0.5
        factor = max(1, factor) if spectral_max else factor
    return factor * orthogonal(d, ns_steps, ns_eps)


def walk(w, grads, lr, variant="official", decay="before", transpose=False, **given):
    options = {"alpha": 1.0, "scale": 1.0, "weight_decay": 1.0} | VARIANTS[variant] | given
    shape = {"norm": "Auto", "normalized": None, "spectral_max": False, "taps": 1, "eps": 1e-8}
    shape |= {"ns_steps": 5, "ns_eps": 1e-7}
    shape |= {name: options[name] for name in shape if name in options}
    vector = w.ndim < 2
    scale, weight_decay = options["scale"], options["weight_decay"]
    if vector:
        shape["norm"] = "BiasRMS"
    if vector and variant == "levanter":
        lr, weight_decay = 0.2 * lr, 0.0
    d = np.zeros_like(w)
    for g in grads:
        d = (1 - options["alpha"]) * d + options["alpha"] * g
        if vector and variant == "levanter":
            o = np.sign(d)
        elif transpose and not vector:
            o = lmo(d.T, **shape).T
        else:
            o = lmo(d, **shape)
        shrink = 1 - lr * weight_decay
        w = w * shrink - lr * scale * o if decay == "before" else (w - lr * scale * o) * shrink
        yield w
