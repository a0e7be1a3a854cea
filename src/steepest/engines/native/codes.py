"""State in codes, in a kernel: each block is opened to float32, computed on and closed without leaving a cache."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import torch

from steepest.engines.native.program import Program, Types, identifier
from steepest.linalg.quantise import TINY, map_of, midpoints

FRACTION = {8: 7, 4: 3}
"""Bits of a float's fraction that a cell of the first guess looks at, by the bits of a code."""
DECADES = {8: 25, 4: 8}
"""Powers of two below 1 that have cells of their own: the map's smallest midpoint is above all others."""

OPEN = """
// Looked up one by one: a processor's gathers are slower than its loads, and compilers prefer them.
static inline int alone(int x) {
  __asm__("" : "+r"(x));
  return x;
}

template <int bits>
static inline void open_codes(const uint8_t *codes, float scale, const float *map, float *open, int64_t n) {
  for (int64_t k = 0; k < n; ++k) open[k] = map[alone(bits == 8 ? codes[k] : codes[k >> 1] >> 4 * (k & 1) & 15)];
  for (int64_t k = 0; k < n; ++k) open[k] *= scale;
}
"""

CLOSE = f"""
static inline int32_t word_of(float x) {{
  int32_t word;
  __builtin_memcpy(&word, &x, 4);
  return word;
}}

// The number of midpoints below y, for all of a block. A cell is told by sign, exponent and first bits of the
// fraction: it knows how many midpoints lie below all of it, and the only one that may lie inside.
template <int bits, bool is_signed>
static inline float close_codes(const float *open, int64_t n, uint8_t *codes, const float *inside,
                                const uint8_t *first) {{
  int32_t most = 0;  // as words, sizes have the same order, and nan is above all
  for (int64_t k = 0; k < n; ++k) {{
    const int32_t size = word_of(open[k]) & 0x7fffffff;
    most = size > most ? size : most;
  }}
  float scale;
  __builtin_memcpy(&scale, &most, 4);
  const float factor = 1 / (scale < {TINY!r}f ? {TINY!r}f : scale);
  const int base = BASE_OF, cells = CELLS_OF, shift = SHIFT_OF;
  float y[64];
  int32_t cell[64];
  uint8_t found[64];
  for (int64_t from = 0; from < n; from += 64) {{
    const int64_t size = n - from < 64 ? n - from : 64;
    for (int64_t k = 0; k < size; ++k) {{
      y[k] = open[from + k] * factor;
      const int32_t word = word_of(y[k]);
      int32_t at = ((word & 0x7fffffff) >> shift) - base;
      at = at < 0 ? 0 : at;
      at = at < cells ? at : cells - 1;
      cell[k] = is_signed && word < 0 ? at + cells : at;
    }}
    for (int64_t k = 0; k < size; ++k) {{
      const int at = alone(cell[k]);
      found[k] = first[at] + (inside[at] < y[k]);
    }}
    if (bits == 8)
      for (int64_t k = 0; k < size; ++k) codes[from + k] = found[k];
    else
      for (int64_t k = 0; k < size; k += 2)
        codes[(from + k) >> 1] = found[k] | (k + 1 < size ? found[k + 1] << 4 : 0);
  }}
  return scale;
}}
"""


def coded(program: Program) -> tuple[str, str]:
    """The lines that open the block of each slot in codes, and those that close what changed."""
    types, form = program.types, program.types.form
    opening, closing = "", ""
    for name, signed in types.low:
        assert form is not None
        of, kind = identifier(name), f"{'signed' if signed else 'unsigned'}_{form.bits}"
        codes = f"{of}_at + {'block' if form.bits == 8 else 'block / 2'}"
        absmax = f"{of}_absmax_at[block / {form.block}]"
        opening += f"    float {of}_open[{form.block}];\n"
        opening += f"    open_codes<{form.bits}>({codes}, {absmax}, map_{kind}, {of}_open, end - block);\n"
        if name in program.stores:
            closing += (
                f"    {absmax} = close_codes<{form.bits}, {str(signed).lower()}>(\n"
                f"        {of}_open, end - block, {codes}, inside_{kind}, first_{kind});\n"
            )
    return opening, closing


def tables(types: Types) -> str:
    """The maps and cells that a kernel reads, and the functions that read them."""
    if not types.low or types.form is None:
        return ""
    bits, guard, found = types.form.bits, types.form.keep_sign, cells(types.form.bits, True, False)
    told = {"SHIFT_OF": found.shift, "BASE_OF": found.base, "CELLS_OF": found.count}
    text = OPEN + functools.reduce(lambda text, item: text.replace(item[0], str(item[1])), told.items(), CLOSE)
    for signed in sorted({signed for _, signed in types.low}):
        kind, found = f"{'signed' if signed else 'unsigned'}_{bits}", cells(bits, signed, guard)
        text += array("float", f"map_{kind}", map_of(bits, signed).tolist())
        text += array("float", f"inside_{kind}", found.inside)
        text += array("uint8_t", f"first_{kind}", found.first)
    return text


def array(kind: str, name: str, values: Iterable[float]) -> str:
    told = ["__builtin_inff()" if v == math.inf else f"{v!r}f" if kind == "float" else str(int(v)) for v in values]
    lines = [", ".join(told[i : i + 12]) for i in range(0, len(told), 12)]
    return f"static const {kind} {name}[{len(told)}] = {{\n  " + ",\n  ".join(lines) + "};\n"


class Cells:
    """For each sign, exponent and first bits of a fraction: how many midpoints lie below all such numbers, and the
    one that lies among them, infinity if none does."""

    def __init__(self, bits: int, signed: bool, keep_sign: bool) -> None:
        self.shift = 23 - FRACTION[bits]
        self.base = (127 - DECADES[bits]) << FRACTION[bits]
        self.count = (DECADES[bits] << FRACTION[bits]) + 1  # the last: 1 itself, and whatever is not a number
        middle = midpoints(bits, signed, keep_sign)
        starts = (torch.arange(self.count, dtype=torch.int32) + self.base) << self.shift
        ends = starts + (1 << self.shift) - 1
        starts[0] = 0  # all that is nearer to 0
        low, high = starts.view(torch.float32), ends.view(torch.float32)
        if signed:
            low, high = torch.cat([low, -high]), torch.cat([high, -low])
        first, last = (torch.bucketize(y, middle) for y in (low, high))
        assert (last - first).max() <= 1, "two midpoints in a cell: it must look at more bits of the fraction"
        self.first = first.tolist()
        self.inside = torch.where(last > first, middle[first.clamp(max=len(middle) - 1)], torch.inf).tolist()


@functools.cache
def cells(bits: int, signed: bool, keep_sign: bool) -> Cells:
    return Cells(bits, signed, keep_sign)
