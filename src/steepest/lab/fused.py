"""Two functions of the model with hand-written gradients, each beside the plain text that it must equal.

Small models on a CPU are bound by passes over memory, and autograd makes many. Cross-entropy: the logits are
by far the largest tensor; formed whole they are passed over some ten times, formed in chunks that stay in cache
they yield loss and gradient on the spot and are dropped, which also saves most of the head's memory where the
vocabulary is large. RMSNorm: half the passes of torch's own backward. benchmarks/train_step.py has the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

CPU_LOGITS = 2**18  # 1 MiB of float32: stays in the second-level cache
OTHER_LOGITS = 2**28  # 1 GiB: an accelerator wants few, large products

_plain = False


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within it a model runs in operations that have a second derivative: the plain texts below, torch's attention
    as separate products, and nothing compiled."""
    global _plain
    before, _plain = _plain, True
    # The compiler takes seconds to import; where it is not loaded, nothing is compiled.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        with sdpa_kernel(SDPBackend.MATH), eager:
            yield
    finally:
        _plain = before


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """(loss, nll) of the logits hidden @ weightᵀ, means over rows; loss = nll + z_loss · mean logsumexp².

    hidden [rows, width], weight [vocab, width], targets int64[rows]. Softmax and sums are float32 under
    autocast too. loss can be differentiated once (see twice_differentiable), nll (nats) not at all.
    """
    if torch.compiler.is_compiling() or _plain:  # the compiler merges the passes of the plain text itself
        return plain_cross_entropy(hidden, weight, targets, z_loss)
    loss, nll = _CrossEntropy.apply(hidden, weight, targets, z_loss)
    return loss, nll


def plain_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """The same as autograd takes it."""
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = F.cross_entropy(logits, targets)
    loss = nll + z_loss * logits.logsumexp(-1).square().mean() if z_loss else nll
    return loss, nll.detach()


class _CrossEntropy(torch.autograd.Function):
    """d loss / d logits = (softmax · (1 + 2 · z_loss · lse) - onehot) / rows, taken while the logits exist."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        wide = torch.promote_types(dtype, torch.float32)
        h, w = hidden.to(dtype), weight.to(dtype)
        rows, vocab = len(h), len(w)
        chunk = max(64, (CPU_LOGITS if device == "cpu" else OTHER_LOGITS) // vocab)
        differentiated = any(ctx.needs_input_grad)
        if differentiated:
            grad_hidden, grad_weight = torch.empty_like(h), torch.zeros_like(w, dtype=wide)
        nll, squares = h.new_zeros((), dtype=wide), h.new_zeros((), dtype=wide)
        with torch.autocast(device, enabled=False):
            for start in range(0, rows, chunk):
                part, target = h[start : start + chunk], targets[start : start + chunk, None]
                logits = (part @ w.T).to(wide)
                right = logits.gather(1, target)
                top = logits.amax(1, keepdim=True)
                exp = logits.sub_(top).exp_()
                total = exp.sum(1, keepdim=True)
                lse = total.log() + top
                nll += (lse - right).sum()
                squares += lse.square().sum()
                if differentiated:
                    slope = exp.mul_((1 + 2 * z_loss * lse) / (rows * total))
                    slope = slope.scatter_add_(1, target, torch.full_like(right, -1 / rows)).to(dtype)
                    torch.mm(slope, w, out=grad_hidden[start : start + chunk])
                    grad_weight += slope.T @ part
        if differentiated:
            ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype))
        nll /= rows
        ctx.mark_non_differentiable(nll)
        return nll + z_loss * squares / rows, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad, grad_weight * grad, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean x² + eps) · weight over the last dimension of x [..., width] (arXiv 1910.07467)."""
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and not _plain:
        return _RMSNorm.apply(x, weight, eps)
    return plain_rms_norm(x, weight, eps)  # elsewhere torch's own is one kernel


def plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same as torch has it."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


class _RMSNorm(torch.autograd.Function):
    """r = 1/sqrt(mean x² + eps); d x = r · g·w - x · r³ · <g·w, x> / width; d w = sum of r · g·x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        r = mean_square.add_(eps).rsqrt_()
        ctx.save_for_backward(x, r, weight)
        return (x * r).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, r, weight = ctx.saved_tensors
        product = (grad * x).flatten(0, -2)
        grad_weight = product.T @ r.flatten()
        along = (product @ weight).view_as(r).mul_(r.pow(3)).div_(-len(weight))
        return torch.addcmul((grad * weight).mul_(r), x, along), grad_weight, None
