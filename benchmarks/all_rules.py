"""Every optimizer there is, one step of each in turn: seconds, over its own bound, over torch's fused AdamW.

    python benchmarks/all_rules.py [--models 1m ...] [--rounds 3] [--optimizers adamw muon ...]

The default engine, a decoder's own shapes with embedding and head, hyperparameters as a race fixes them. A block
is a whole turn of a rule's calendar where that is at most a hundred steps. What a rule asks the trainer to measure
(Sophia's Hessian estimates) is not in its step: the races bill it.
"""

from __future__ import annotations

from typing import Any

from _script import command, options, save, setting, shown, tell

from steepest.lab.bench.entries import contenders
from steepest.lab.bench.measure import measure
from steepest.lab.bench.shapes import shapes_of
from steepest.registry import rules


def main() -> None:
    parser = options(__doc__, "all_rules", rounds=3)
    parser.add_argument("--models", nargs="+", default=["1m"], help="presets, gpt2, files or shapes")
    parser.add_argument("--optimizers", nargs="+", default=list(rules()), help="as steepest race takes them")
    args = parser.parse_args()
    where = setting(args)
    record: dict[str, Any] = {"models": []}
    for model in args.models:
        tell(f"{model}: {', '.join(args.optimizers)}")
        shapes = shapes_of(model)
        entries = contenders(args.optimizers, ["auto"], shapes, where.dtype, False)
        result = measure(entries, shapes, where, command(), tell)
        record["models"].append(result)
        save(args.out, record, where.device)
        shown(result)


if __name__ == "__main__":
    main()
