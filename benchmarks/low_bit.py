"""State in 8 and 4 bits: time of a step over its byte bound and over torch's fused AdamW, beside other packages.

    python benchmarks/low_bit.py [--model 1024x1024:16] [--rounds 12] [--threads 1]

Peers (bitsandbytes, torchao) that are not installed are named and left out. The bound is bytes: gradient read,
weight, codes and largest values read and written.
"""

from __future__ import annotations

from _script import command, options, save, setting, shown, tell

from steepest.lab.bench.entries import contenders
from steepest.lab.bench.measure import measure
from steepest.lab.bench.shapes import shapes_of

SPECS = ["adamw"] + [
    f"{name}state={form}"
    for name in ("adamw:", "lion:", "sgd:momentum=0.9,", "nadamw:")
    for form in ("8bit", "4bit")
    if form == "8bit" or name == "adamw:"
]


def main() -> None:
    parser = options(__doc__, "low_bit", rounds=12)
    parser.add_argument("--model", default="1024x1024:16", help="a preset, gpt2, a file or shapes (1024x1024:16)")
    args = parser.parse_args()
    where = setting(args)
    shapes = shapes_of(args.model)
    tell(f"{args.model}: {', '.join(SPECS)}")
    chosen = contenders(SPECS, ["auto"], shapes, where.dtype, True)
    result = measure(chosen, shapes, where, command(), tell)
    save(args.out, {"models": [result]}, where.device)
    shown(result)


if __name__ == "__main__":
    main()
