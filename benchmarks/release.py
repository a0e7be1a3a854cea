"""Peak memory of a training step, gradients released inside backward beside a plain step, phase by phase.

A plain transformer with its head tied to the embedding, float32, on a processor; torch's allocator is asked for
every change (lab/bench/timing.py), so that the figures are exact and no other process is in them. The law that
each must keep, or the script fails:

    plain     gradients in memory = all of them
    released  gradients in memory = the largest one;  peak <= weights + state + activations + largest gradient
              + what one update of one weight holds while it runs
"""

from __future__ import annotations

import argparse
import gc
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import _script
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steepest.inside_backward import release
from steepest.lab.bench.timing import levels
from steepest.lab.report import memory as picture
from steepest.lab.report.svg import Board
from steepest.optimizer import Optimizer
from steepest.registry import resolve

SPECS = ("sgd:variant=lomo", "adalomo", "adafactor:variant=t2t", "muon", "adamw")
UPDATES = {"element": 2, "tensor": 6, "matrix": 8}
"""How many copies of the largest weight one update may hold, by scope."""
MIB = 2**20
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "release.svg"
MARK = 4099
"""Bytes that nothing else allocates: between two phases they are taken and given back."""
KINDS = (("weights", 1), ("state", 3), ("gradients", 5), ("rest", 4))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).unflatten(-1, (-1, 64)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.silu(self.up(self.norm2(x))))


class Model(nn.Module):
    def __init__(self, width: int, layers: int, vocab: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.RMSNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids[:, :-1])
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def size(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def measured(spec: str, released: bool, args: argparse.Namespace) -> dict[str, Any]:
    """One step after a first one, phase by phase; bytes."""
    torch.manual_seed(0)
    model = Model(args.width, args.layers, args.vocab)
    optimizer = resolve(spec).build(model, lr=1e-3)
    assert isinstance(optimizer, Optimizer)
    ids = torch.randint(args.vocab, (1, args.tokens + 1))
    gradients = []

    def count(_: Tensor) -> None:
        gradients.append(size(p.grad for p in model.parameters() if p.grad is not None))

    for p in model.parameters():  # called before release's own
        p.register_post_accumulate_grad_hook(count)
    with release(optimizer) if released else nullcontext():
        model(ids).backward()
        optimizer.step()
        optimizer.zero_grad()
        gc.collect()
        gradients.clear()

        def step() -> None:  # in one record: what was allocated before it is not seen to be freed
            loss = model(ids)
            torch.empty(MARK, dtype=torch.uint8)
            loss.backward()
            torch.empty(MARK, dtype=torch.uint8)
            optimizer.step()
            optimizer.zero_grad()

        changes = levels(step)
    marks = [i for i, (old, new) in enumerate(pairwise([0, *changes])) if new - old == MARK]
    assert len(marks) == 2
    activations = changes[marks[0] - 1]
    first, second, third = changes[: marks[0]], changes[marks[0] + 1 : marks[1]], changes[marks[1] + 1 :]
    peaks = {"forward": max(first), "backward": max(second), "step": max(third)}
    state = size(t for own in optimizer.state.values() for t in own.values())
    scope = max((optimizer.rule_of(g).scope for g in optimizer.param_groups), key=list(UPDATES).index)
    weights = size(model.parameters())
    return {
        "optimizer": spec,
        "released": released,
        "scope": scope,
        "weights": weights,
        "state": state,
        "activations": activations,
        "gradients": max(gradients),
        "largest": max(size([p]) for p in model.parameters()),
        "peaks": {name: weights + state + peak for name, peak in peaks.items()},
        "peak": weights + state + max(peaks.values()),
    }


def check(row: dict[str, Any]) -> None:
    """The law."""
    wanted = row["largest"] if row["released"] else row["weights"]
    assert row["gradients"] == wanted, f"{row['optimizer']}: {row['gradients']:,} bytes of gradients, not {wanted}"
    if row["released"]:
        bound = row["weights"] + row["state"] + row["activations"] + (1 + UPDATES[row["scope"]]) * row["largest"]
        assert row["peak"] <= bound, f"{row['optimizer']}: a peak of {row['peak']:,}, above {bound:,}"


def bar(row: dict[str, Any]) -> dict[str, Any]:
    """Weights, state and gradients as they are; the rest of the peak is activations and what an update holds."""
    parts = {name: row[name] for name in ("weights", "state", "gradients")}
    name = resolve(row["optimizer"]).label + (", released" if row["released"] else "")
    return {"name": name, **parts, "rest": row["peak"] - sum(parts.values())}


def drawn(record: dict[str, Any]) -> Board:
    """The picture of a record."""
    model = record["model"]
    title = f"Peak memory of a step: {model['weights'] / 1e6:.0f}M float32 weights, {model['tokens']} tokens"
    return picture.drawn([bar(row) for row in record["rows"]], title, "MiB", MIB, kinds=KINDS)


def main() -> None:
    parser = _script.options(__doc__ or "", "release", rounds=1, device=False)
    for name, value in (("width", 512), ("layers", 8), ("vocab", 8192), ("tokens", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--figure", type=Path, default=FIGURE, help="where the picture goes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for spec in SPECS:
        for released in (False, True):
            _script.tell(f"{spec}{', released' if released else ''}")
            rows.append(measured(spec, released, args))
            check(rows[-1])
            peaks = ", ".join(f"{k} {v / MIB:.1f}" for k, v in rows[-1]["peaks"].items())
            print(f"{bar(rows[-1])['name']:36} peak {rows[-1]['peak'] / MIB:7.1f} MiB  ({peaks})", flush=True)
    model = {name: getattr(args, name) for name in ("width", "layers", "vocab", "tokens")}
    record = {"model": {**model, "weights": rows[0]["weights"] // 4}, "rows": rows}
    _script.save(args.out, record)
    picture.write(args.figure, drawn(record))


if __name__ == "__main__":
    main()
