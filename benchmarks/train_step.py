"""The lab's training step beside a plain nanoGPT-style loop of the same model, interleaved, on one thread.

    python benchmarks/train_step.py [--sizes 50k 110k 1m] [--rounds 20] [--optimizer SPEC|torch] [--out FILE]

A step is forward, backward, clipping of the global norm and the optimizer; the plain loop always has torch's
fused AdamW, ours what --optimizer names. Both start from the same weights and must agree in the loss. The order of
the two alternates within every pair of blocks, so that a slow spell of the machine meets both; the figure is the
median of the pairs' ratios, by the clock and, where other work shares the machine, better by processor time.
The results hold every block's seconds of both kinds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _script import options, save, setting
from torch import Tensor, nn

from steepest.lab.bench.deciles import summary
from steepest.lab.model import Decoder, ModelConfig
from steepest.lab.presets import preset

BATCH, SEQ, LR = 16, 128, 1e-3


class PlainBlock(nn.Module):
    """A block as nanoGPT writes it (one matrix for q, k, v), with Llama's parts: RMSNorm, RoPE, SwiGLU."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.ln_1, self.ln_2 = nn.RMSNorm(c.width, eps=c.norm_eps), nn.RMSNorm(c.width, eps=c.norm_eps)
        self.c_attn = nn.Linear(c.width, 3 * c.width, bias=False)
        self.c_proj = nn.Linear(c.width, c.width, bias=False)
        self.w1, self.w3 = nn.Linear(c.width, c.ffn, bias=False), nn.Linear(c.width, c.ffn, bias=False)
        self.w2 = nn.Linear(c.ffn, c.width, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.heads, -1) for t in self.c_attn(self.ln_1(x)).split(C, dim=2))
        q, k = apply_rotary(q, turn), apply_rotary(k, turn)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))
        h = self.ln_2(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


def apply_rotary(x: Tensor, turn: Tensor) -> Tensor:
    """As in Llama's own code: complex products."""
    return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * turn).flatten(3)


class PlainModel(nn.Module):
    turn: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(c.vocab, c.width)
        self.h = nn.ModuleList(PlainBlock(c) for _ in range(c.layers))
        self.ln_f = nn.RMSNorm(c.width, eps=c.norm_eps)
        self.lm_head = nn.Linear(c.width, c.vocab, bias=False)
        rates = c.rope_theta ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
        angles = torch.outer(torch.arange(SEQ), rates)
        self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles)[:, None])

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(idx)
        for block in self.h:
            x = block(x, self.turn)
        logits = self.lm_head(self.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))


def with_weights_of(ours: Decoder) -> PlainModel:
    plain = PlainModel(ours.config)
    with torch.no_grad():
        plain.wte.weight.copy_(ours.embed.weight)
        plain.lm_head.weight.copy_(ours.head.weight)
        for theirs, block in zip(plain.h, ours.blocks, strict=True):
            attn, mlp = block.attn, block.mlp
            theirs.c_attn.weight.copy_(torch.cat((attn.q.weight, attn.k.weight, attn.v.weight)))
            theirs.c_proj.weight.copy_(attn.o.weight)
            theirs.w1.weight.copy_(mlp.gate.weight)
            theirs.w3.weight.copy_(mlp.in_.weight)
            theirs.w2.weight.copy_(mlp.out.weight)
    return plain


def torch_adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def optimizer_of(spec: str, model: nn.Module) -> torch.optim.Optimizer:
    if spec == "torch":
        return torch_adamw(model)
    from steepest.registry import resolve

    return resolve(spec).build(model, lr=LR)


def stepper(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    def step(batch: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def race(name: str, spec: str, repeats: int, block: int) -> dict[str, Any]:
    """Seconds per step of both by both clocks, a figure per block of ``block`` steps, and their summaries."""
    config = preset(name)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(config.vocab, (BATCH, SEQ + 1), generator=generator) for _ in range(block)]
    ours = Decoder(config, seed=0)
    plain = with_weights_of(ours)
    steps = {
        "ours": stepper(ours, optimizer_of(spec, ours), lambda batch: ours.loss(batch).loss),
        "plain": stepper(plain, torch_adamw(plain), lambda batch: plain(batch[:, :-1], batch[:, 1:])),
    }
    first = {who: [step(batch).item() for batch in batches[:3]] for who, step in steps.items()}
    if abs(first["ours"][0] - first["plain"][0]) > 1e-4:
        raise SystemExit(f"{name}: the two models disagree in the loss, {first}: they are not the same model")
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {clock: {"ours": [], "plain": []} for clock in clocks}
    for repeat in range(repeats):
        for who in ("ours", "plain") if repeat % 2 else ("plain", "ours"):
            start = {clock: now() for clock, now in clocks.items()}
            for batch in batches:
                steps[who](batch)
            for clock, now in clocks.items():
                seconds[clock][who].append((now() - start[clock]) / block)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in ours.parameters()),
        "first_losses": first,
        "seconds_per_step": seconds,
        **{clock: compared(**both) for clock, both in seconds.items()},
    }


def compared(ours: list[float], plain: list[float]) -> dict[str, float]:
    """Median tokens per second of both; median, first and last decile of the pairs' ratios."""
    over = summary([p / o for p, o in zip(plain, ours, strict=True)])
    speed = {who: BATCH * SEQ / statistics.median(s) for who, s in (("ours", ours), ("plain", plain))}
    return {**speed, "ratio": over["median"], "ratio_p10": over["low"], "ratio_p90": over["high"]}


def main() -> None:
    parser = options(__doc__, "train_step", device=False)
    parser.set_defaults(threads=1)
    parser.add_argument("--sizes", nargs="+", default=["50k", "110k", "1m"], help="models of steepest.lab.presets")
    parser.add_argument("--block", type=int, default=5, help="steps per block")
    parser.add_argument("--optimizer", default="adamw", help="ours: torch, or anything that steepest race takes")
    args = parser.parse_args()
    where = setting(args)
    results = []
    print(f"{'model':>6} {'seconds of':>10} {'ours tok/s':>11} {'plain tok/s':>11} {'ratio':>6}  10 % to 90 %")
    for name in args.sizes:
        result = race(name, args.optimizer, args.rounds, args.block)
        for clock in ("wall", "processor"):
            s = result[clock]
            print(
                f"{name:>6} {clock:>10} {s['ours']:11,.0f} {s['plain']:11,.0f} {s['ratio']:6.2f}"
                f"  {s['ratio_p10']:.2f} to {s['ratio_p90']:.2f}",
                flush=True,
            )
        results.append(result)
    setup = {"batch": BATCH, "seq": SEQ, "threads": where.threads, "dtype": "float32", "steps": args.block}
    sides = {"ours": args.optimizer, "plain": "torch.optim.AdamW(fused=True)"}
    save(args.out, {**sides, "setup": setup, "results": results})


if __name__ == "__main__":
    main()
