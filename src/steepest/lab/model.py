"""One decoder-only transformer with both studies' architectures as options.

Llama-2 as in "Fantastic Pretraining Optimizers and Where to Find Them" (arXiv 2509.02046): RMSNorm, SwiGLU,
RoPE, no biases, untied head. OLMo as in "Deconstructing What Makes a Good Optimizer for Language Models"
(arXiv 2407.07972): LayerNorm without bias, plain GELU, RoPE, QK-norm and z-loss on or off. Each weight is a
module of its own whose name tells its role: embed, q, k, v, o, gate, in_, out, head, norm.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steepest.core.errors import BadInput
from steepest.estimates import sampled
from steepest.lab.architecture import ModelConfig as ModelConfig
from steepest.lab.architecture import non_embedding as non_embedding
from steepest.lab.fused import CPU_LOGITS, cross_entropy, rms_norm

VERSION = 1
"""Of the numbers: raised when the same configuration and seed give other weights or losses."""


class LossOutput(NamedTuple):
    """loss: the scalar to differentiate, nll + z-loss; nll: mean cross-entropy, nats per token, detached."""

    loss: Tensor
    nll: Tensor


def rotary(seq: int, head_dim: int, theta: float, device: torch.device | None = None) -> Tensor:
    """[seq, head_dim / 2, 2]: cosine, sine of position · theta^(-2i / head_dim) (RoPE, arXiv 2104.09864)."""
    rates = theta ** (-torch.arange(0, head_dim, 2, device=device) / head_dim)
    angles = torch.outer(torch.arange(seq, device=device), rates)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn neighbouring pairs of x [batch, seq, heads · head_dim] by turn [seq, heads · head_dim / 2, 2]."""
    pairs = x.to(turn.dtype).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # the compiler knows no complex numbers; elsewhere they are 5 times faster
        (a, b), (cos, sin) = pairs.unbind(-1), turn.unbind(-1)
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turn))
    return turned.flatten(-2).to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """torch's, in the weight's type under autocast too and with the quicker gradient of fused.py."""

    eps: float

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x.to(self.weight.dtype), self.weight, self.eps)


def make_norm(config: ModelConfig, width: int) -> nn.Module:
    if config.norm == "rms":
        return RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=False)


class Attention(nn.Module):
    """Causal self-attention with RoPE; QK-norm, as in OLMo, spans all heads before they are split."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, kv_width = config.width, config.groups * config.head_dim
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, kv_width, bias=False)
        self.v = nn.Linear(width, kv_width, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        if config.qk_norm:
            self.q_norm = make_norm(config, width)
            self.k_norm = make_norm(config, kv_width)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, turn), rotate(k, turn[:, : k.shape[-1] // 2])
        q, k, v = (t.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2) for t in (q, k, v))
        grouped = self.config.groups < self.config.heads
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return self.o(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU, out(silu(gate(x)) · in_(x)) (arXiv 2002.05202), or plain GELU, out(gelu(in_(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.ffn, bias=False) if config.mlp == "swiglu" else None
        self.in_ = nn.Linear(config.width, config.ffn, bias=False)
        self.out = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.out(F.gelu(self.in_(x)))
        return self.out(F.silu(self.gate(x)) * self.in_(x))


class Block(nn.Module):
    """Attention, then MLP, each on the normed stream and added to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attn_norm = make_norm(config, config.width)
        self.attn = Attention(config)
        self.mlp_norm = make_norm(config, config.width)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x), turn)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """The language model; its float32 weights depend on (config, seed) alone, never on torch's generator."""

    def __init__(self, config: ModelConfig, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.embed = nn.Embedding(config.vocab, config.width)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
            self.norm = make_norm(config, config.width)
            self.head = nn.Linear(config.width, config.vocab, bias=False)
        self.to_empty(device=device)
        if config.tied:
            self.head.weight = self.embed.weight
        if torch.device(device).type != "meta":
            initialise(self, seed)

    def hidden(self, ids: Tensor) -> Tensor:
        """Token ids int64[batch, seq] to normed last-layer activations [batch, seq, width]."""
        turn = rotary(ids.shape[1], self.config.head_dim, self.config.rope_theta, ids.device)
        turn = turn.repeat(1, self.config.heads, 1)
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, turn)
        return self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids int64[batch, seq] to next-token logits float32[batch, seq, vocab]."""
        return self.head(self.hidden(ids)).float()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile in place, with torch.compile's arguments, what forward and loss share: all but the head."""
        self.hidden = torch.compile(self.hidden, *args, **kwargs)  # type: ignore[method-assign]

    def loss(self, batch: Tensor) -> LossOutput:
        """Next-token loss of int64[batch, seq + 1], averaged over its batch · seq predictions."""
        hidden = self.hidden(batch[:, :-1]).flatten(0, 1)
        targets = batch[:, 1:].flatten()
        return LossOutput(*cross_entropy(hidden, self.head.weight, targets, self.config.z_loss))

    def sampled_loss(self, batch: Tensor, draw: torch.Generator) -> Tensor:
        """Mean cross-entropy on labels that the model itself draws, where :meth:`loss` has the text's tokens."""
        hidden = self.hidden(batch[:, :-1]).flatten(0, 1)
        with torch.no_grad():
            parts = hidden.detach().split(max(64, CPU_LOGITS // self.config.vocab))
            labels = torch.cat([sampled(F.linear(part, self.head.weight), draw) for part in parts])
        return cross_entropy(hidden, self.head.weight, labels, 0.0)[0]

    @torch.no_grad()
    def sample(
        self,
        prompt_ids: Tensor,
        n: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        context: int | None = None,
    ) -> Tensor:
        """prompt_ids int64[seq] (seq >= 1) continued by n tokens, int64[seq + n], drawn on the prompt's device.

        temperature 0 takes the likeliest token; top_k draws among the k likeliest; context is how many of the
        last tokens the model sees, best kept to the length that it was trained on.
        """
        if prompt_ids.ndim != 1 or not len(prompt_ids):
            raise BadInput(f"prompt of shape {list(prompt_ids.shape)}: give one dimension and one token")
        if not (math.isfinite(temperature) and temperature >= 0):
            raise BadInput(f"temperature={temperature}: it must be finite and at least 0")
        for name, count in (("top_k", top_k), ("context", context)):
            if count is not None and count < 1:
                raise BadInput(f"{name}={count}: it must be at least 1, or None for all tokens")
        ids = prompt_ids
        for _ in range(n):
            seen = ids if context is None else ids[-context:]
            logits = self(seen[None].to(self.embed.weight.device))[0, -1].to(ids.device)
            if temperature == 0:
                drawn = logits.argmax().view(1)
            else:
                if top_k is not None:
                    kept = logits.topk(min(top_k, len(logits))).indices
                    logits = torch.full_like(logits, -torch.inf).index_copy_(0, kept, logits[kept])
                drawn = torch.multinomial(F.softmax(logits / temperature, -1), 1, generator=generator)
            ids = torch.cat((ids, drawn))
        return ids


@torch.no_grad()
def initialise(model: Decoder, seed: int) -> None:
    """Both studies' initialisations: normal draws truncated at ±3σ, norm gains 1.

    fantastic: σ = 1/√fan_in for every linear map, 1/width for the embedding. mitchell: σ = 1/√fan_in,
    embedding 1/√width, and the maps into the residual stream (o, out) of layer l = 0, 1, … are divided
    by a further √(2(l + 1)).
    """
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def draw(weight: Tensor, sigma: float) -> None:
        host = torch.empty(weight.shape)
        nn.init.trunc_normal_(host, std=sigma, a=-3 * sigma, b=3 * sigma, generator=generator)
        weight.copy_(host)

    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            draw(module.weight, 1 / config.width if config.init == "fantastic" else config.width**-0.5)
        elif isinstance(module, nn.Linear) and not (module is model.head and config.tied):
            sigma = module.in_features**-0.5
            if config.init == "mitchell" and name.endswith((".o", ".out")):
                layer = int(name.split(".")[1])
                sigma /= math.sqrt(2 * (layer + 1))
            draw(module.weight, sigma)
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
            module.weight.fill_(1.0)
