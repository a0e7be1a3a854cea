"""Options that no trajectory covers, against independent numpy texts in tests/references, one file a rule."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import references
import torch
from cases import curvature
from test_trajectories import INPUTS

from steepest import estimates
from steepest.faces import face
from steepest.registry import rules

TEXTS = {
    m.name: importlib.import_module(f"references.{m.name}") for m in pkgutil.iter_modules(references.__path__)
}
CASES = [
    pytest.param(name, text, options, id=f"{name}:{','.join(f'{k}={v}' for k, v in options.items())}")
    for name, text in TEXTS.items()
    for options in (*text.OPTIONS, *getattr(text, "ESTIMATED", ()))
]


def tensors(text: ModuleType) -> list[str]:
    if getattr(text, "SQUARE", False):
        return ["square"]
    return ["square", "tall", "wide"] + ([] if getattr(text, "MATRICES", False) else ["norm"])


@pytest.mark.parametrize(("name", "text", "options"), CASES)
def test_the_option_walks_as_the_numpy_text(name: str, text: ModuleType, options: dict[str, Any]) -> None:
    """ESTIMATED are options with every measurement that they ask for; the others go without."""
    steps = 9
    for tensor in tensors(text):
        grads = [INPUTS[f"grad/{t:03d}/{tensor}"] for t in range(steps)]
        p = torch.nn.Parameter(torch.tensor(INPUTS[f"init/{tensor}"]))
        given, more = [curvature(tuple(p.shape), t) for t in range(steps)], dict(options)
        if measured := options in getattr(text, "ESTIMATED", ()):
            more["estimates"] = [x.numpy() for x in given]
        optimizer = face(rules()[name])([(tensor, p)], **options)
        for t, expected in enumerate(text.walk(INPUTS[f"init/{tensor}"], grads, **more)):
            p.grad = torch.tensor(grads[t])
            estimates.step(optimizer, lambda ask, p=p, x=given[t]: {p: x} if measured else {})  # type: ignore
            np.testing.assert_allclose(
                p.detach().numpy(), expected, rtol=1e-9, atol=1e-11, err_msg=f"{tensor} at {t}"
            )


def test_every_rule_has_a_text() -> None:
    assert set(TEXTS) >= set(rules())
