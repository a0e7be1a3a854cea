"""From which size do bfloat16 matrix products outrun float32 ones here? Decides the working type of Newton-Schulz.

    python benchmarks/products.py [--rounds 15]

Square products on one thread, the two types in turn; the ratio is bfloat16's time over float32's, below 1 where
bfloat16 pays. ``steepest.linalg.newton_schulz.AMX_PAYS`` is the smallest side from which it does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from _script import options, save, setting

from steepest.lab.bench.deciles import summary
from steepest.lab.bench.timing import interleaved, ratios, timed

SIDES = (32, 64, 128, 256, 512, 1024)
TYPES = ("float32", "bfloat16")


def main() -> None:
    parser = options(__doc__, "products", rounds=15)
    parser.set_defaults(threads=1)
    args = parser.parse_args()
    where = setting(args)
    rows: list[dict[str, Any]] = []
    for side in SIDES:
        times = max(2, int(2e8 / side**3))
        pair = {kind: torch.randn(side, side, device=where.device).to(getattr(torch, kind)) for kind in TYPES}
        actions = {kind: partial(timed, partial(square, x), times, where.device) for kind, x in pair.items()}
        blocks = interleaved(actions, where.rounds).blocks
        over = summary(ratios(blocks["bfloat16"], blocks["float32"]))
        raw = {kind: [block.mean for block in blocks[kind]] for kind in TYPES}
        rows.append({"side": side, "ratio": over["median"], "low": over["low"], "high": over["high"], **raw})
        print(f"{side:5d}  bfloat16 / float32 = {over['median']:.2f}  ({over['low']:.2f} to {over['high']:.2f})")
    save(args.out, {"threads": where.threads, "rows": rows}, where.device)


def square(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT


if __name__ == "__main__":
    main()
