"""A measurement as a picture: bars of time over bound, alone as SVG and on a page with its numbers."""

from __future__ import annotations

import json
import statistics
from html import escape
from pathlib import Path
from urllib.parse import quote

from steepest.lab import report
from steepest.lab.bench import table
from steepest.lab.bench.table import Result
from steepest.lab.report.figure import NARROW, WIDE
from steepest.lab.report.files import write_text
from steepest.lab.report.svg import Board, Scale, clipped, color, spread

ASSETS = Path(report.__file__).parent
ROW, TOP, BELOW = 30, 26, 50
TITLE = "Time per step over the bound"


def write(result: Result, folder: Path) -> list[Path]:
    """bench.json, bench.svg and bench.html under ``folder``; the paths. Raises: BadInput if it cannot write."""
    text = json.dumps(result, ensure_ascii=False, indent=1) + "\n"
    return [
        write_text(folder / "bench.json", text),
        write_text(folder / "bench.svg", drawn(result, WIDE).standalone(asset("figures.css"))),
        write_text(folder / "bench.html", page(result, text)),
    ]


def drawn(result: Result, width: int) -> Board:
    """Bars from 1, the bound, on a logarithmic axis; a line over each bar's end is first to last decile."""
    rows = sorted(
        (row for row in result["entries"] if row["over_bound"]), key=lambda row: row["over_bound"]["median"]
    )
    wide = width == WIDE
    row_height = ROW if wide else ROW + 12
    board = Board(width, TOP + row_height * len(rows) + BELOW, TITLE)
    if not rows:
        board.text(2, TOP, "interrupted before the first round ended", "quiet")
        return board
    ends = [row["over_bound"][end] for row in rows for end in ("low", "high")]
    left, right = (250.0, width - 170.0) if wide else (2.0, width - 66.0)
    x = Scale(min(1.0, *ends), max(1.3, *ends) * 1.02, left, right, log=True)
    bottom = TOP + row_height * len(rows)
    ticks = sorted({1.0, *x.ticks(7 if wide else 4)})
    board.columns(x, TOP, bottom, "time over bound, logarithmic", lambda v: f"{v:g}×", ticks)
    names = table.shortened(result)
    slots = {spec: place for place, spec in enumerate(dict.fromkeys(row["spec"] for row in result["entries"]), 1)}
    for place, row in enumerate(rows):
        top = TOP + row_height * place
        middle = top + row_height / 2 + (0 if wide else 7)
        over, slot = row["over_bound"], slots[row["spec"]]
        name, css = names[row["name"]], f"name c{color(slot)}"
        if wide:
            board.text(left - 14, middle + 4, clipped(name, left - 20), css, "end")
        else:
            board.text(left, top + 13, clipped(name, width), css)
        start, end = sorted((x(1.0), x(over["median"])))
        tip = f"{name}\n{table.spread(over)} times the bound, {table.seconds(row['step']['median'])} a step"
        pale = "" if row["engine"] else " pale"
        css, length = f"mark bar c{color(slot)}{pale}", max(end - start, 1.5)
        board.add("rect", css, x=start, y=middle - 8, width=length, height=16, data_tip=tip)
        board.line(x(over["low"]), middle, x(over["high"]), middle, "one")
        board.text(right + 10, middle + 4, f"{table.number(over['median'])}×", "value")
        if wide:
            board.text(right + 76, middle + 4, table.seconds(row["step"]["median"]), "value quiet")
    board.line(x(1.0), TOP, x(1.0), bottom, "one")
    return board


def page(result: Result, text: str) -> str:
    """One self-contained HTML file, read without a network and without a script."""
    wide, narrow = drawn(result, WIDE), drawn(result, NARROW)
    wide.root.set("class", "wide")
    narrow.root.set("class", "narrow")
    names = [name for name, _ in table.COLUMNS]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td class=nowrap>{escape(row[name])}</td>" for name in names) + "</tr>"
        for row in table.cells(result)
    )
    meanings = "".join(f"<li><b>{escape(name)}</b>: {escape(words)}</li>" for name, words in table.COLUMNS[2:])
    left_out = "".join(
        f"<p class=small>Left out: {escape(row['name'])}: {escape(row['reason'])}</p>" for row in result["skipped"]
    )
    machine = {**result["hardware"], **result["versions"]}
    made_on = " · ".join(f"{escape(key.replace('_', ' '))} {escape(str(value))}" for key, value in machine.items())
    named = "".join(f" <code>{escape(spec)}</code>" for spec in table.options(result))
    link = f"data:application/json;charset=utf-8,{quote(text, safe=',:;=()!*')}"
    return f"""<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<title>steepest bench: {escape(result["model"]["source"])}</title>
<style>{asset("figures.css")}{asset("page.css")}.nowrap {{ white-space: nowrap; }}</style>
<p class=kicker>steepest bench</p>
<h1>{TITLE}</h1>
<p class=lead>{escape(table.heading(result))}.</p>
<p>This machine: {escape("; ".join(table.rates(result)))}.{named}</p>
<figure>{wide.markup()}{narrow.markup()}
<figcaption>The bound is 1: what the step must take on this machine, measured in the same rounds. Full bars are
this package's rules, pale ones other packages'; the thin line is the first to the last decile of the rounds.
</figcaption></figure>
<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
{left_out}
<details class=block><summary>What the columns mean</summary><ul>{meanings}</ul></details>
<p class=small>{made_on}</p>
<p class=small><code class=command>{escape(result["command"])}</code></p>
<p class=small><a download=bench.json href="{escape(link)}">Every block of every round, as JSON</a></p>
</html>
"""


def asset(name: str) -> str:
    """A file of the report page's: its style sheets serve here, too."""
    return (ASSETS / name).read_text(encoding="utf-8")


def steps(results: Result, width: int = WIDE) -> Board:
    """Seconds of every step in order, a line for each entry: a refresh of a basis is a spike."""
    rows = [row for row in results["entries"] if row["seconds"]]
    lines = [[1e3 * second for block in row["seconds"] for second in block] for row in rows]
    longest = max(map(len, lines))
    board = Board(width, 360, "Time of each step")
    x = Scale(1, max(2, longest), 66, width - 230)
    y = Scale.around([value for line in lines for value in line], 300, 34, log=True)
    board.axes(x, y, "step", "ms, logarithmic", "{:.0f}".format, "{:,.0f}".format)
    heights = spread([y(statistics.median(line)) for line in lines], 17, 40, 300)
    for slot, (row, line, height) in enumerate(zip(rows, lines, heights, strict=True)):
        css = f"c{color(slot)}"
        board.path([(x(place), y(value)) for place, value in enumerate(line, 1)], f"curve {css}")
        board.text(x.stop + 12, height + 4, clipped(row["name"], 214), f"name {css}")
    return board
