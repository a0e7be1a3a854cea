"""The kit walks zeroth-order trajectories of every key that they may carry, made here by an independent text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steepest.verify import one
from steepest.zeroth import replay

ORACLES = Path(__file__).parent / "oracles"
with np.load(ORACLES / "inputs.npz") as archive:
    INPUTS = {key: archive[key] for key in archive.files}
NAMES = ["square", "tall", "wide", "embed", "head", "norm", "bias"]
FORM = (
    "L_t(P)=sum_n [ mean_ij log cosh((P_n M_n)_ij) + <G_{t,n},P_n> ], 1-D tensors are row vectors, "
    "G=grad/<t>/<n>, M=extra/M/<n>"
)
WAVES = " + 2.0*(0.3*||P_n||^2+0.1*sum cos(20 P_n))"
BASE = {
    "gradient_sparsity": None,
    "learning_rate": 0.01,
    "momentum": 0.0,
    "perturbation_mode": "two_side",
    "q": 1,
    "weight_decay": 0.0,
    "zo_eps": 0.01,
}
BLOCKS = {
    "b.layers.0": ["square", "bias"],
    "b.layers.1": ["tall", "wide"],
    "b.tokens": ["embed"],
    "b.last": ["norm"],
}
Weights = dict[str, np.ndarray]


class Program:
    """The authors' trainers on arrays, one method after the other."""

    def __init__(self, h: dict[str, Any], rates: list[float], waves: bool, order: list[str]) -> None:
        self.h, self.rates, self.waves, self.order = h, rates, waves, order
        self.p = {n: INPUTS[f"init/{n}"].astype(np.float64) for n in NAMES}
        draw = np.random.default_rng(7)
        self.m = {n: draw.normal(size=(w.shape[-1],) * 2) * 0.5 for n, w in self.p.items()}
        self.arrays: dict[str, np.ndarray] = {f"extra/M/{n}": m for n, m in self.m.items()}
        self.b: Weights = {}
        self.v: Weights = {}
        self.calls = 0
        self.draw = draw

    def loss(self, p: Weights) -> float:
        total = 0.0
        for n, w in p.items():
            g = INPUTS[f"grad/{self.t:03d}/{n}"]
            total += np.log(np.cosh(np.atleast_2d(w) @ self.m[n])).mean() + (g * w).sum()
            if self.waves:
                total += 2.0 * (0.3 * (w * w).sum() + 0.1 * np.cos(20 * w).sum())
        self.losses.append(total)
        return total

    def slope(self, z: Weights) -> float:
        """The exact derivative along z."""
        total = 0.0
        for n, w in self.p.items():
            row = np.atleast_2d(w)
            inner = np.tanh(row @ self.m[n]) @ self.m[n].T / row.size
            g = INPUTS[f"grad/{self.t:03d}/{n}"] + inner.reshape(w.shape)
            if self.waves:
                g = g + 2.0 * (0.6 * w - 2.0 * np.sin(20 * w))
            total += (g * z[n]).sum()
        return total

    def at(self, z: Weights, size: float) -> Weights:
        return {n: w + size * z[n] if n in z else w for n, w in self.p.items()}

    def probe(self, z: Weights) -> float:
        eps = self.h["zo_eps"]
        plus = self.loss(self.at(z, eps))
        if self.h["perturbation_mode"] == "one_side":
            return (plus - self.loss(self.p)) / eps
        return (plus - self.loss(self.at(z, -eps))) / (2 * eps)

    def directions(self, names: list[str]) -> list[tuple[Weights, Weights]]:
        """Of each query the direction as it is probed, and as it is without its mask."""
        found = []
        for i in range(self.h["q"]):
            seed = int(self.draw.integers(2**31))
            torch.manual_seed(seed)
            whole = {n: torch.normal(0.0, 1.0, self.p[n].shape, dtype=torch.float64).numpy() for n in names}
            z = dict(whole)
            if self.h["gradient_sparsity"] is not None:
                z = {n: x * (self.draw.normal(size=x.shape) >= self.h["gradient_sparsity"]) for n, x in z.items()}
            self.arrays |= {f"extra/z/{self.t:03d}/{i}/{n}": x for n, x in z.items()}
            found.append((z, whole, seed))  # type: ignore[arg-type]
        self.arrays[f"extra/seed/{self.t:03d}"] = np.array([seed for *_, seed in found])  # type: ignore[misc]
        return [(z, whole) for z, whole, _ in found]  # type: ignore[misc]

    def move(self, g: Weights) -> None:
        """torch's SGD with momentum, or Adam."""
        lr = self.rates[self.t]
        self.calls += 1
        for n, x in g.items():
            if self.h["trainer"] == "zo_adam":
                self.b[n] = 0.9 * self.b.get(n, 0.0) + 0.1 * x
                self.v[n] = 0.999 * self.v.get(n, 0.0) + 0.001 * x * x
                root = np.sqrt(self.v[n] / (1 - 0.999 ** (self.t + 1))) + 1e-8
                self.p[n] = self.p[n] - lr * self.b[n] / (1 - 0.9 ** (self.t + 1)) / root
                continue
            self.b[n] = self.h["momentum"] * self.b[n] + x if n in self.b else x
            self.p[n] = self.p[n] - lr * (self.b[n] if self.h["momentum"] else x)

    def step(self, t: int) -> None:
        self.t, self.losses = t, list[float]()
        trainer, lr, decay = self.h["trainer"], self.rates[t], self.h["weight_decay"]
        if "method" in self.h:
            self.blockwise()
        elif trainer in ("zo", "forward_grad"):
            pairs = self.directions(NAMES)
            slopes = [self.slope(z) if trainer == "forward_grad" else self.probe(z) for z, _ in pairs]
            for n in NAMES:
                g = sum(c * z[n] for c, (z, _) in zip(slopes, pairs, strict=True)) / len(pairs)
                self.p[n] = self.p[n] - lr * (g + (0.0 if "bias" in n else decay) * self.p[n])
        elif trainer == "zo_conserv":
            base = self.loss(self.p)
            ((z, whole),) = self.directions(NAMES)
            c = self.probe(z)
            self.move({n: c * whole[n] for n in NAMES})
            minus = self.loss(self.p)
            self.move({n: -2 * c * whole[n] for n in NAMES})
            plus = self.loss(self.p)
            if minus > base:
                if base < plus:
                    self.move({n: c * whole[n] for n in NAMES})
            elif minus < plus:
                self.move({n: 2 * c * whole[n] for n in NAMES})
        else:
            pairs = self.directions(NAMES)
            slopes = [self.probe(z) for z, _ in pairs]
            if trainer == "zo_sign_opt":
                slopes = [float(np.sign(c)) for c in slopes]
            used = [whole if len(pairs) > 1 else z for z, whole in pairs]  # q > 1 leaves the mask out
            self.move({n: sum(c * z[n] for c, z in zip(slopes, used, strict=True)) / len(pairs) for n in NAMES})
        self.arrays[f"extra/losses/{t:03d}"] = np.array([] if trainer == "forward_grad" else self.losses)
        self.arrays |= {f"param/{t:03d}/{n}": w for n, w in self.p.items()}

    def blockwise(self) -> None:
        seed, later = int(self.draw.integers(2**31)), []
        for block in self.order:
            torch.manual_seed(seed)
            z = {n: torch.normal(0.0, 1.0, self.p[n].shape, dtype=torch.float64).numpy() for n in BLOCKS[block]}
            self.arrays |= {f"extra/z/{self.t:03d}/0/{n}": x for n, x in z.items()}
            c = self.probe(z)
            later.append({n: c * x for n, x in z.items()})
            if self.h["method"].endswith("coordinate"):
                self.move(later.pop())
        for g in later:
            self.move(g)
        self.arrays[f"extra/seed/{self.t:03d}"] = np.array([seed])


CASES: dict[str, dict[str, Any]] = {
    "mezo of two seeds": {"trainer": "zo", "q": 2, "weight_decay": 0.3},
    "one-sided, three queries, momentum": {
        "trainer": "zo_sgd",
        "perturbation_mode": "one_side",
        "q": 3,
        "momentum": 0.5,
    },
    "the mask is left out of the update of two queries": {"trainer": "zo_sgd", "q": 2, "gradient_sparsity": 0.3},
    "a mask": {"trainer": "zo_sgd", "gradient_sparsity": 0.9, "weight_decay": 0.5},
    "signs with momentum": {"trainer": "zo_sign_opt", "momentum": 0.9, "learning_rate": 1e-3},
    "adam one-sided": {"trainer": "zo_adam", "perturbation_mode": "one_side", "momentum": 0.9},
    "conservative": {"trainer": "zo_conserv"},
    "conservative with momentum": {"trainer": "zo_conserv", "momentum": 0.9},
    "conservative with a mask": {"trainer": "zo_conserv", "gradient_sparsity": 0.2},
    "blocks at once, one-sided": {
        "trainer": "zo_sgd",
        "method": "zo_step_with_module_wise_perturbation",
        "perturbed_module_level": "transformer-block",
        "perturbation_mode": "one_side",
        "momentum": 0.9,
    },
    "blocks one by one": {
        "trainer": "zo_sgd",
        "method": "zo_step_with_module_wise_perturbation_coordinate",
        "perturbed_module_level": "transformer-block",
    },
    "forward gradient": {"trainer": "forward_grad", "weight_decay": 0.2},
}


def written(folder: Path, given: dict[str, Any], waves: bool, rates: bool) -> Path:
    h = BASE | given
    order = list(reversed(BLOCKS))
    lrs = [h["learning_rate"] * (0.5 + 0.1 * t if rates else 1.0) for t in range(4)]
    program = Program(h, lrs, waves, order)
    for t in range(4):
        program.step(t)
    if rates:
        program.arrays["extra/lr"] = np.array(lrs)
    note = "tensor->module: square,bias in layers.0; tall,wide in layers.1; embed in tokens; norm in last; no head"
    moves = {n: float(np.abs(w - INPUTS[f"init/{n}"]).max()) for n, w in program.p.items()}
    told = {
        "optimizer": "zeroth",
        "hyperparameters": h,
        "extra": {"loss": FORM + (WAVES if waves else ""), "block_order": order if "method" in h else None},
        "groups_note": note if "method" in h else "all tensors",
        "param_dtype": "float64",
        "rtol_suggested": 1e-9,
        "steps_kept": [0, 1, 2, 3],
        "tensors": NAMES,
        "total_move": moves,
        "variant": "made",
        "source": "made here",
    }
    (folder / "zeroth").mkdir()
    path = folder / "zeroth" / "made.json"
    path.write_text(json.dumps(told))
    np.savez(path.with_suffix(".npz"), **program.arrays)
    return path


@pytest.mark.parametrize("waves", [False, True], ids=["plain", "waves"])
@pytest.mark.parametrize("name", CASES)
def test_an_independent_texts_trajectory_is_walked(name: str, waves: bool, tmp_path: Path) -> None:
    path = written(tmp_path, CASES[name], waves, rates=waves)
    verdict = one(path, INPUTS, "loop")
    assert verdict.status == "pass", verdict
    assert verdict.error is not None and verdict.error < 1e-10


def test_a_changed_loss_fails_and_an_unknown_option_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, CASES["mezo of two seeds"], False, False)
    with np.load(path.with_suffix(".npz")) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays["extra/losses/002"][3] += 1e-7
    np.savez(path.with_suffix(".npz"), **arrays)
    verdict = one(path, INPUTS, "loop")
    assert verdict.status == "fail" and "step 2, loss 3" in verdict.reason
    arrays["extra/losses/002"] = arrays["extra/losses/002"][:3]
    np.savez(path.with_suffix(".npz"), **arrays)
    assert "measures 3 losses, not 4" in one(path, INPUTS, "loop").reason
    told = json.loads(path.read_text())
    for change in ({"foresight": 2}, {"perturbation_mode": "three_side"}):
        path.write_text(json.dumps({**told, "hyperparameters": {**told["hyperparameters"], **change}}))
        verdict = one(path, INPUTS, "loop")
        assert verdict.status == "not implemented" and next(iter(change)) in verdict.reason


def test_every_kept_trajectory_of_zeroth_order_is_one() -> None:
    found = [p for p in ORACLES.glob("*/*.json") if replay.replays(json.loads(p.read_text()))]
    assert {p.parent.name for p in found} == {
        "mezo", "zo_sgd", "zo_sgd_mmt", "zo_sgd_sign", "zo_sgd_cons", "zo_adam", "zo_block", "forward_grad",
    }  # fmt: skip
