"""From which size do bfloat16 matrix products outrun float32 ones here? Decides the working type of Newton-Schulz.

Run: python benchmarks/products.py            (one thread; prints a table, writes results/products.json)

Square products, the two types in turn, several repeats; the ratio is bfloat16's time over float32's, below 1
where bfloat16 pays. ``steepest.linalg.newton_schulz.AMX_PAYS`` is the smallest side from which it does.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import torch

SIDES = (32, 64, 128, 256, 512, 1024)
REPEATS = 15


def seconds(x: torch.Tensor, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        x @ x.mT
    return (time.perf_counter() - start) / times


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for side in SIDES:
        times = max(2, int(2e8 / side**3))
        pair = {t: torch.randn(side, side).to(t) for t in (torch.float32, torch.bfloat16)}
        raw: dict[str, list[float]] = {"float32": [], "bfloat16": []}
        for _ in range(REPEATS):
            for dtype, x in pair.items():
                raw[str(dtype).removeprefix("torch.")].append(seconds(x, times))
        ratios = sorted(b / f for f, b in zip(raw["float32"], raw["bfloat16"], strict=True))
        rows.append(
            {"side": side, "ratio": statistics.median(ratios), "low": ratios[1], "high": ratios[-2], **raw}
        )
        print(f"{side:5d}  bfloat16 / float32 = {rows[-1]['ratio']:.2f}  ({ratios[1]:.2f} to {ratios[-2]:.2f})")
    told = {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "threads": 1,
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "products.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
