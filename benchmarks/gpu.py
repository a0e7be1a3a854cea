"""All rules on one GPU: over copy bandwidth and product rate, torch's fused AdamW, and the peers that are there.

    python benchmarks/gpu.py [--device cuda] [--minutes 8] [--rounds 10]

Needs torch and numpy alone: from a source tree, ``PYTHONPATH=src python benchmarks/gpu.py``. Without a GPU it runs
small on the processor. Stages follow each other, most wanted first, each written as it ends; when the minutes are
over, or on Ctrl-C or SIGTERM, the rounds made so far count.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from _script import BEGAN, RESULTS, command, engines_here, options, overhead, save, setting, shown, tell

from steepest.core.errors import SteepestError
from steepest.lab.bench.entries import contenders
from steepest.lab.bench.measure import Setting, measure
from steepest.lab.bench.shapes import shapes_of
from steepest.registry import rules

HIDDEN = {"cuda": "768x768:48,3072x768:12,768x3072:12", "cpu": "128x128:16,512x128:4,128x512:4"}
WHOLE = {"cuda": "gpt2", "cpu": "250k"}
ELEMENT = [name for name, rule in rules().items() if rule.scope == "element"]
MATRIX = [name for name, rule in rules().items() if rule.scope != "element"]


def main() -> None:
    parser = options(__doc__, "gpu", rounds=10)
    parser.set_defaults(device="cuda" if torch.cuda.is_available() else "cpu", out=None)
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no round begins (8)")
    args = parser.parse_args()
    ends = BEGAN + 60 * args.minutes
    where = setting(args, until=ends)
    kind, engines = where.device.type, engines_here()
    out = args.out or RESULTS / f"gpu_{kind}.json"
    quick = [name for name in engines if name != "loop"]
    stages = [
        ("element rules", WHOLE[kind], ELEMENT, engines, torch.float32),
        ("Muon and the like", WHOLE[kind], ["muon"], quick, torch.float32),
        ("matrix rules", HIDDEN[kind], MATRIX, quick, torch.float32),
        ("bfloat16 weights", WHOLE[kind], ELEMENT, quick, torch.bfloat16),
        ("small model", "1m" if kind == "cuda" else "50k", ELEMENT, engines, torch.float32),
    ]
    record: dict[str, Any] = {"models": []}
    for number, (what, model, specs, run_by, dtype) in enumerate(stages):
        left = ends - time.monotonic()
        if left < 0:
            break
        tell(f"{what}: {model}, {', '.join(specs)}; {left / 60:.1f} minutes left")
        # What is left is shared evenly among the stages to come, so that none starves the last.
        until = time.monotonic() + left / (len(stages) - number)
        stage, shapes = Setting(where.device, dtype, where.threads, where.rounds, until), shapes_of(model)
        try:
            result = measure(contenders(specs, run_by, shapes, dtype, True), shapes, stage, command(), tell)
        except SteepestError as error:
            tell(f"left out: {what}: {error}")
            continue
        record["models"].append({"stage": what, **result})
        save(out, record, where.device)
        shown(result)
    if time.monotonic() < ends:
        tell("what one more tensor costs")
        record["overhead"] = overhead(["adamw"], engines, "64", where)
        save(out, record, where.device)


if __name__ == "__main__":
    main()
