"""Element rules under every engine: time over each rule's byte bound, over torch's fused AdamW, beside peers.

    python benchmarks/element_rules.py [--models 1m gpt2] [--optimizers adamw lion ...] [--rounds 20]

Each model is measured by itself: rounds of all contenders and of the machine's stream rate in turn. Then what one
more tiny tensor costs. Peers that are not installed are named and left out.
"""

from __future__ import annotations

from typing import Any

from _script import command, engines_here, options, overhead, save, setting, shown, tell

from steepest.lab.bench.entries import contenders
from steepest.lab.bench.measure import measure
from steepest.lab.bench.shapes import shapes_of
from steepest.registry import rules

ELEMENT = [name for name, rule in rules().items() if rule.scope == "element"]


def main() -> None:
    parser = options(__doc__, "element_rules")
    parser.add_argument("--models", nargs="+", default=["1m", "gpt2"], help="presets, gpt2, files or shapes")
    parser.add_argument("--optimizers", nargs="+", default=ELEMENT, help="as steepest race takes them")
    args = parser.parse_args()
    where = setting(args)
    engines = engines_here()
    record: dict[str, Any] = {"models": []}
    for model in args.models:
        tell(f"{model}: {', '.join(args.optimizers)}")
        shapes = shapes_of(model)
        result = measure(
            contenders(args.optimizers, engines, shapes, where.dtype, True), shapes, where, command(), tell
        )
        record["models"].append(result)
        save(args.out, record, where.device)
        shown(result)
    tell("what one more tensor costs")
    record["overhead"] = overhead(args.optimizers, engines, "64", where)
    save(args.out, record, where.device)
    for row in record["overhead"]["rows"]:
        print(f"{row['name']:32s} {1e6 * row['per_tensor']['median']:8.2f} µs per tensor")


if __name__ == "__main__":
    main()
