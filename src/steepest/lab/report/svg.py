"""A drawing board for figures: scales with ticks, axes, marks. ElementTree escapes."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steepest.lab.report.words import shortened

SLOTS = 12  # colours in figures.css: slot 0 is the baseline's ink
# Second cue beside the colour, so that no reading hangs on hue alone; unit radius, y down.
SHAPES = (
    "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0 -1 0Z",  # circle
    "M-.88 -.88H.88V.88H-.88Z",  # square
    "M0 -1.25L1.25 0L0 1.25L-1.25 0Z",  # diamond
    "M0 -1.15L1.1 .85H-1.1Z",  # triangle
    "M0 1.15L1.1 -.85H-1.1Z",  # triangle, point down
    "M-.4 -1.15H.4V-.4H1.15V.4H.4V1.15H-.4V.4H-1.15V-.4H-.4Z",  # plus
    "M1.15 0L-.85 1.1V-1.1Z",  # triangle, point right
)


@dataclass(frozen=True)
class Scale:
    """Maps ``low..high`` onto pixels ``start..stop``, linearly or by logarithm."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Sequence[float], start: float, stop: float, log: bool = False, pad: float = 0.06
    ) -> Scale:
        """A scale that holds all values with a margin of ``pad`` of their span on both sides."""
        low, high = (min(values), max(values)) if values else (1.0, 2.0)
        if log:
            low, high = max(low, 1e-300), max(high, 1e-300)
            span = math.log(high / low) or 1.0
            return cls(low * math.exp(-pad * span), high * math.exp(pad * span), start, stop, True)
        span = (high - low) or abs(high) * 0.1 or 1.0
        return cls(low - pad * span, high + pad * span, start, stop)

    def __call__(self, value: float) -> float:
        if self.log:
            part = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.stop - self.start)

    def inside(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the scale, near ``about`` of them; none for 0."""
        if not about:
            return []
        if self.log and self.high / self.low > 3:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
                found = [s * 10.0**d for d in decades for s in steps if self.inside(s * 10.0**d)]
                if len(found) <= about + 1:
                    if len(found) >= 2:
                        return found
                    break
            if self.high / self.low > 10:
                return found[:: max(1, math.ceil(len(found) / about))]
        step = _round_step((self.high - self.low) / about)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step) + 1)]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999)


class Board:
    """One SVG picture of ``width`` x ``height`` pixels."""

    def __init__(self, width: float, height: float, label: str) -> None:
        self.root = ET.Element("svg", {"viewBox": "", "role": "img", "aria-label": label})
        self.width = width
        self.resize(height)

    def resize(self, height: float) -> None:
        """Sets the height, where it follows from what has been drawn."""
        self.height = height
        self.root.set("viewBox", f"0 0 {_short(self.width)} {_short(height)}")

    def add(self, tag: str, css: str = "", text: str | None = None, **attributes: Any) -> ET.Element:
        """One element; ``css`` is its class, numbers are rounded, underscores in names become hyphens."""
        given = {key.replace("_", "-"): _short(value) for key, value in attributes.items() if value is not None}
        element = ET.SubElement(self.root, tag, ({"class": css} if css else {}) | given)
        element.text = text
        return element

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> ET.Element:
        return self.add("line", css, x1=x1, y1=y1, x2=x2, y2=y2)

    def path(self, points: Sequence[tuple[float, float]], css: str, closed: bool = False) -> ET.Element:
        drawn = "M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points) + ("Z" if closed else "")
        return self.add("path", css, d=drawn)

    def text(self, x: float, y: float, words: str, css: str = "", anchor: str = "start") -> ET.Element:
        return self.add("text", css, words, x=x, y=y, text_anchor=None if anchor == "start" else anchor)

    def mark(
        self, x: float, y: float, slot: int, tip: str, radius: float = 4.5, css: str = "", shape: str = ""
    ) -> ET.Element:
        """A data point: shape and colour say whose it is, ``tip`` is what the pointer reads there."""
        drawn = shape or SHAPES[slot % len(SHAPES)]
        place = f"translate({_short(x)} {_short(y)}) scale({_short(radius)})"
        return self.add("path", f"mark c{color(slot)} {css}".rstrip(), d=drawn, transform=place, data_tip=tip)

    def axes(
        self,
        x: Scale,
        y: Scale,
        x_title: str,
        y_title: str,
        x_label: Callable[[float], str],
        y_label: Callable[[float], str] | None,
        x_ticks: Sequence[float] | None = None,
        y_about: int = 5,
    ) -> None:
        """Horizontal grid lines with their values, a bottom axis with its ticks, both titles."""
        for value in y.ticks(y_about):
            self.line(x.start, y(value), x.stop, y(value), "grid")
            if y_label is not None:
                self.text(x.start - 8, y(value) + 4, y_label(value), "tick", "end")
        if y_title:
            self.text(2, y.stop - 12, y_title, "title")
        self._bottom(x, y.start, x_title, x_label, x.ticks(7) if x_ticks is None else x_ticks)

    def columns(
        self,
        x: Scale,
        top: float,
        bottom: float,
        title: str,
        label: Callable[[float], str],
        ticks: Sequence[float],
    ) -> None:
        """Vertical grid lines over a bottom axis, for rows of bars or intervals."""
        for value in ticks:
            self.line(x(value), top, x(value), bottom, "grid")
        self._bottom(x, bottom, title, label, ticks)

    def _bottom(
        self, x: Scale, bottom: float, title: str, label: Callable[[float], str], ticks: Sequence[float]
    ) -> None:
        self.line(x.start, bottom, x.stop, bottom, "axis")
        taken: list[tuple[float, float]] = []
        for value in ticks:
            place, half = x(value), 3.5 * len(label(value)) + 3
            self.line(place, bottom, place, bottom + 5, "axis")
            if all(place + half < left or place - half > right for left, right in taken):
                taken.append((place - half, place + half))
                self.text(place, bottom + 19, label(value), "tick", "middle")
        if title:
            self.text((x.start + x.stop) / 2, bottom + 38, title, "title", "middle")

    def markup(self) -> str:
        return ET.tostring(self.root, encoding="unicode")

    def standalone(self, css: str) -> str:
        """The picture as a file of its own, styles inside."""
        margin, width, height = 16, _short(self.width + 32), _short(self.height + 32)
        root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **self.root.attrib})
        root.attrib |= {"width": width, "height": height, "viewBox": f"-{margin} -{margin} {width} {height}"}
        ET.SubElement(root, "style").text = css
        paper = {"class": "paper", "x": f"-{margin}", "y": f"-{margin}", "width": width, "height": height}
        ET.SubElement(root, "rect", paper)
        root.extend(self.root)
        return ET.tostring(root, encoding="unicode") + "\n"


def color(slot: int) -> int:
    """Colour of a slot; past the last, colours come round again, but not the baseline's ink."""
    return slot if slot < SLOTS else 1 + (slot - 1) % (SLOTS - 1)


def clipped(words: str, width: float, size: float = 12) -> str:
    """``words`` cut to about ``width`` pixels of text ``size`` pixels high."""
    return shortened(words, max(3, int(width / (size * 0.58))))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near the wanted ones as ``gap`` between neighbours allows, inside ``low..high``, order kept."""
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    groups: list[list[int]] = []  # neighbours that touch share one group around their common middle

    def start(group: list[int]) -> float:
        length = gap * (len(group) - 1)
        middle = sum(wanted[index] for index in group) / len(group)
        return min(max(middle - length / 2, low), high - length)

    for index in order:
        groups.append([index])
        while len(groups) > 1 and start(groups[-2]) + gap * len(groups[-2]) > start(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    placed = [0.0] * len(wanted)
    for group in groups:
        for place, index in enumerate(group):
            placed[index] = start(group) + gap * place
    return placed


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
