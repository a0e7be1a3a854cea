"""What rules such as Sophia want measured beside the gradient: :func:`step` asks them, this module measures.

In a training loop of one's own, in place of ``optimizer.step()`` (t = 1, 2, ...; x, labels: this step's batch):

    def measure(ask):
        draw = estimates.generator(seed, t)
        if ask.kind == "hutchinson":
            return estimates.hutchinson(weights, F.cross_entropy(model(x), labels), draw, ask.probe)
        return estimates.gauss_newton_bartlett(weights, estimates.sampled_loss(model(x), draw), labels.numel())
    estimates.step(optimizer, measure)

The generator is a function of seed and step: a loop resumed from a checkpoint draws what it would have drawn.
Hutchinson's estimate differentiates the gradient once more: the model must then run without torch.compile, in
operations that have a second derivative (attention under ``sdpa_kernel(SDPBackend.MATH)``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.core.rule import Ask, Probe
from steepest.linalg.philox import philox

if TYPE_CHECKING:
    from steepest.optimizer import Optimizer

VERSION = 1
"""Of the numbers: raised when the same seed, step and model give other estimates."""

Measured = dict[Tensor, Tensor]
"""By parameter, a tensor of its shape; a parameter that the loss does not depend on is left out."""


def step(optimizer: Optimizer, measure: Callable[[Ask], Mapping[Tensor, Tensor]]) -> None:
    """One step of the optimizer with what its rule asks for, measured at the weights before or after the move."""
    while owed := optimizer.owed():  # what the step itself reads
        optimizer.observe(owed[0], measure(owed[0]))
    asked = optimizer.asks()
    before = {ask: measure(ask) for ask in asked if ask.at == "before"}
    optimizer.step()
    for ask in asked:
        optimizer.observe(ask, before[ask] if ask in before else measure(ask))


def generator(seed: int, t: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose draws depend on (seed, step t) alone."""
    high, low, *_ = philox((seed >> 32, 0, 0, 0), (seed, t))
    return torch.Generator(device).manual_seed(int(high) << 31 ^ int(low))


def gradient(parameters: Iterable[Tensor], losses: Tensor | Iterable[Tensor]) -> Measured:
    """The gradient of the mean of ``losses``: one, or those of equal parts of a batch, made one after another."""
    return _mean(parameters, losses, lambda weights, loss: _derivatives([loss], weights))


def gauss_newton_bartlett(
    parameters: Iterable[Tensor], losses: Tensor | Iterable[Tensor], rows: int, clip: float = math.inf
) -> Measured:
    """sqrt(B) ĝ, whose square estimates the diagonal of the mean loss's Gauss-Newton matrix without bias.

    ĝ: the gradient of the mean cross-entropy of B = ``rows`` predictions on labels drawn from the model
    (:func:`sampled_loss`). The rows' own gradients are independent with mean 0, so that B E[ĝ²] is the mean of
    their squares (Sophia, arXiv 2305.14342, Algorithm 2). ``losses`` as in :func:`gradient`. ``clip``: greatest
    norm of ĝ; 1 in the authors' training script.
    """
    found = gradient(parameters, losses)
    scale: float | Tensor = math.sqrt(rows)
    if math.isfinite(clip):
        norm = torch.stack([torch.linalg.vector_norm(g) for g in found.values()]).norm()
        scale = scale * (clip / norm).clamp(max=1.0)
    return {p: g * scale for p, g in found.items()}


def sampled_loss(logits: Tensor, draw: torch.Generator) -> Tensor:
    """Mean cross-entropy of logits [..., classes] on labels that they themselves draw."""
    flat = logits.flatten(0, -2)
    return F.cross_entropy(flat, sampled(flat, draw))


@torch.no_grad()
def sampled(logits: Tensor, draw: torch.Generator) -> Tensor:
    """A class for each row of logits [rows, classes], drawn from its softmax with one uniform number."""
    # Whole numbers add up to the same bits in every order; sums of floats on a GPU do not.
    reached = logits.double().softmax(-1).mul_(2**52).long().cumsum(-1)
    at = torch.rand(len(logits), 1, generator=draw, dtype=torch.float64, device=logits.device)
    found = torch.searchsorted(reached, (at * reached[:, -1:]).long(), right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1)  # where the product rounded up to the sum


def hutchinson(
    parameters: Iterable[Tensor],
    losses: Tensor | Iterable[Tensor],
    draw: torch.Generator,
    probe: Probe = "normal",
) -> Measured:
    """z * (H z), which estimates the diagonal of the mean loss's Hessian H without bias.

    z is normal, or of random signs: then the variance is smaller, and |z * (H z)| = |H z|.

    H z is the derivative of <gradient, z>, by a second backward pass. ``losses`` as in :func:`gradient`.
    """
    weights = list(parameters)
    z = {p: _probe(p, draw, probe) for p in weights}

    def product(weights: list[Tensor], loss: Tensor) -> Measured:
        first = {p: g for p, g in _derivatives([loss], weights, create_graph=True).items() if g.requires_grad}
        return _derivatives(list(first.values()), weights, [z[p] for p in first]) if first else {}

    return {p: z[p] * hz for p, hz in _mean(weights, losses, product).items()}


def _probe(p: Tensor, draw: torch.Generator, probe: Probe) -> Tensor:
    if probe == "normal":
        return torch.randn(p.shape, generator=draw, dtype=p.dtype, device=p.device)
    return torch.randint(2, p.shape, generator=draw, dtype=p.dtype, device=p.device).mul_(2).sub_(1)


def _mean(
    parameters: Iterable[Tensor],
    losses: Tensor | Iterable[Tensor],
    of: Callable[[list[Tensor], Tensor], Measured],
) -> Measured:
    weights = [p for p in parameters if p.requires_grad]
    total, parts = Measured(), 0
    for loss in [losses] if isinstance(losses, Tensor) else losses:
        parts += 1
        for p, x in of(weights, loss).items():
            total[p] = total[p].add_(x) if p in total else x.clone()
    return {p: x.div_(parts) for p, x in total.items()}


def _derivatives(
    outputs: list[Tensor], weights: list[Tensor], along: list[Tensor] | None = None, create_graph: bool = False
) -> Measured:
    found = torch.autograd.grad(outputs, weights, along, create_graph=create_graph, allow_unused=True)
    return {p: g for p, g in zip(weights, found, strict=True) if g is not None}
