"""Writes the tables of benchmarks/README.md, and the picture of SOAP's steps, from the results beside it.

    python benchmarks/tables.py

No number stands in the README that is not in a file of results; a test holds the two equal. Needs no torch.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from steepest.lab.bench import figure
from steepest.lab.bench.deciles import summary
from steepest.lab.bench.table import counted, number, options, rates, seconds, shortened, size, spread

HERE = Path(__file__).parent
README, RESULTS, TRACE = HERE / "README.md", HERE / "results", HERE / "results" / "soap_steps.svg"
NOT_YET = "No results yet."
Record = dict[str, Any]


def main() -> None:
    README.write_text(rewritten(README.read_text(encoding="utf-8"), records()), encoding="utf-8")
    drawn = trace(records())
    if drawn:
        TRACE.write_text(drawn, encoding="utf-8")


def records() -> dict[str, Record]:
    """The results by the name of their file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def rewritten(text: str, found: dict[str, Record]) -> str:
    """The README with what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` made anew."""

    def section(match: re.Match[str]) -> str:
        name = match["name"]
        told = [*SECTIONS[name](found[name]), "", made_on(found[name])] if name in found else [NOT_YET]
        return "\n".join([f"<!-- {name} -->", *told, f"<!-- /{name} -->"])

    return re.sub(r"<!-- (?P<name>\w+) -->\n.*?<!-- /(?P=name) -->", section, text, flags=re.S)


def trace(found: dict[str, Record]) -> str:
    """Every step of SOAP and its peers on the first model, as SVG; empty without results."""
    models = found.get("matrix_rules", {}).get("models", [])
    soap = next((m for m in models if any(e["spec"].startswith("soap") for e in m["entries"])), None)
    if soap is None:
        return ""
    names = shortened(soap)
    shown = ("auto", "")  # the other engines' refreshes fall on the same steps, and their lines on these
    entries = [
        {**e, "name": names[e["name"]]}
        for e in soap["entries"]
        if e["spec"].startswith("soap") and e["engine"] in shown
    ]
    return figure.steps({**soap, "entries": entries}).standalone(figure.asset("figures.css"))


def made_on(record: Record) -> str:
    """Hardware, versions and command of a file of results."""
    hardware, versions = record.get("hardware", {}), record.get("versions", {"torch": record.get("torch")})
    cores = [counted(hardware["cores"], "core")] if "cores" in hardware else []
    words = [hardware.get("gpu"), hardware.get("processor"), *cores, *(f"{k} {v}" for k, v in versions.items())]
    command = [f"`{record['command']}`"] if record.get("command") else []
    return "*" + ", ".join(filter(None, words)) + ".*" + "".join(f" {word}" for word in command)


def grid(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table in Markdown, numbers flush right after the first column."""
    return [
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]


def element_rules(record: Record) -> list[str]:
    return all_rules(record) + overhead(record)


def measured(result: Record) -> list[str]:
    """One measurement: a line of what it is, and its table."""
    model, setting = result["model"], result["setting"]
    where = counted(setting["threads"], "thread") if setting["device"] == "cpu" else setting["device"]
    what = f"**{model['source']}**: {model['weights']:,} {setting['dtype']} weights in {model['tensors']} tensors"
    names = shortened(result)
    rows = [
        (
            names[row["name"]],
            seconds(row["step"].get("median")),
            number(row["ns_per_weight"].get("median")),
            spread(row["over_bound"]),
            spread(row["over_reference"]),
            size(row["extra_bytes"]),
        )
        for row in result["entries"]
    ]
    head = ("", "step", "ns/weight", "x bound", "x fused AdamW", "extra memory")
    named = "".join(f" `{spec}`." for spec in options(result))
    setup = f"{what}; {where}, {counted(setting['rounds'], 'round')}; {'; '.join(rates(result))}.{named}"
    left_out = [f"Left out: {', '.join(row['name'] for row in result['skipped'])}."] if result["skipped"] else []
    return [setup, "", *grid(head, rows), "", *left_out, *[""] * bool(left_out)]


def all_rules(record: Record) -> list[str]:
    return [line for model in record["models"] for line in measured(model)]


def overhead(record: Record) -> list[str]:
    if not (found := record.get("overhead")):
        return []
    rows = [
        (row["name"], *(f"{1e6 * row['per_tensor'][key]:.3g}" for key in ("median", "low", "high")))
        for row in found["rows"]
        if row["per_tensor"]
    ]
    few, many = found["counts"]
    told = f"One more tensor of {found['tensor']} weights (slope from {few} to {many} of them), µs:"
    return [told, "", *grid(("", "median", "first decile", "last decile"), rows)]


def first_step(record: Record) -> list[str]:
    rows = [
        (
            f"{row['optimizer']} {row['engine']}, {row['model']} ({row['tensors']} tensors)",
            *(
                f"{row[kind]['median']:.2f} ({row[kind]['low']:.2f}–{row[kind]['high']:.2f})"
                for kind in ("cold", "warm")
            ),
            seconds(statistics.median(pair[1] for pair in row["raw"]["warm"])),
        )
        for row in record["rows"]
    ]
    return grid(("", "cold, s", "warm, s", "second step, warm"), rows)


def matrix_rules(record: Record) -> list[str]:
    told = []
    for alone in record["newton_schulz"]:
        bound = seconds(alone["bound"]["median"])
        told += [f"Newton–Schulz alone, {alone['steps']} steps on **{alone['model']}**, bound {bound}:", ""]
        rows = [(r["name"], seconds(r["step"]["median"]), spread(r["over_bound"])) for r in alone["rows"]]
        told += [*grid(("", "time", "x product bound"), rows), ""]
    for result in record["models"]:
        told += [*measured(result), *beside_peers(result)]
    return told + overhead(record)


def beside_peers(result: Record) -> list[str]:
    """Ours over the quickest peer of the same rule, round by round, and the slowest step over the median step."""
    spec = result["entries"][-1]["spec"]
    mean = {row["name"]: [statistics.fmean(b) for b in row["seconds"]] for row in result["entries"]}
    theirs = [row for row in result["entries"][1:] if row["spec"] == spec and not row["engine"]]
    ours = [row for row in result["entries"] if row["engine"]]
    if not theirs or not ours:
        return []
    peer = min(theirs, key=lambda row: row["step"]["median"])["name"]
    rows, names = [], shortened(result)
    for row in [*ours, *theirs]:
        each = [second for block in row["seconds"] for second in block]
        over = [a / b for a, b in zip(mean[row["name"]], mean[peer], strict=False)]
        rows.append((names[row["name"]], spread(summary(over)), number(max(each) / statistics.median(each))))
    return [*grid(("", f"x {peer}", "slowest step over median"), rows), ""]


def products(record: Record) -> list[str]:
    rows = [(row["side"], f"{row['ratio']:.2f}", f"{row['low']:.2f}–{row['high']:.2f}") for row in record["rows"]]
    return grid(("side", "bfloat16 over float32", "first to last decile"), rows)


def train_step(record: Record) -> list[str]:
    rows = []
    for result in record["results"]:
        for clock in ("wall", "processor"):
            s = result[clock]
            spread_of = f"{s['ratio_p10']:.2f}–{s['ratio_p90']:.2f}"
            speeds = (f"{s['ours']:,.0f}", f"{s['plain']:,.0f}")
            rows.append((f"{result['model']}, {clock} seconds", *speeds, f"{s['ratio']:.2f}", spread_of))
    return grid(("", "lab, tokens/s", "plain loop, tokens/s", "ratio", "first to last decile"), rows)


def ledger(record: Record) -> list[str]:
    rows = [(row["what"], spread(row["wall"]), spread(row["processor"])) for row in record["rows"]]
    ratios = [f"{name}: {spread(row)}" for name, row in record["ratios"].items()]
    files, rounds = (
        f"{record['bytes'] / 1e9:.2f} GB of headers and results",
        counted(len(record["rounds"]), "round"),
    )
    told = f"{record['runs']:,} runs, {files}, {rounds}:"
    return [told, "", *grid(("", "wall, s", "processor, s"), rows), "", "; ".join(ratios) + "."]


def evidence(record: Record) -> list[str]:
    """Processor seconds: the machine does other things beside, and one process needs no more than one core."""
    rows = [
        (
            f"{row['runs']:,}, {row['cells']} cells",
            *(f"{row['processor'][part]['median']:.2f}" for part in row["processor"]),
            f"{sum(part['median'] for part in row['wall'].values()):.1f}",
            *(size(row["bytes"][name]) for name in ("study.json", "report.html", "runs.csv")),
            size(row["peak_mib"] * 2**20),
        )
        for row in record["rows"]
    ]
    parts = [f"{part}, s" for part in record["rows"][0]["processor"]]
    last = ("all, wall s", "study.json", "report.html", "runs.csv", "memory")
    told = f"Processor seconds of each part, medians of {counted(record['rows'][0]['rounds'], 'round')}:"
    return [told, "", *grid(("runs", *parts, *last), rows)]


def tuners(record: Record) -> list[str]:
    def cell(of: Record) -> str:
        regrets = " / ".join("–" if regret is None else f"{1e3 * regret:.1f}" for regret in of["regret"])
        return f"{regrets} ({of['runs']:g})"

    found = record["surfaces"]
    rows = [(tuner, *(cell(at[tuner]) for at in found.values())) for tuner in next(iter(found.values()))]
    told = f"Regret over {record['seeds']} seeds, 1e-3 nats/token: median / 75 % / 90 %, and the median of runs:"
    return [told, "", *grid(("", *found), rows)]


def gpu(record: Record) -> list[str]:
    told = [
        line for model in record["models"] for line in [f"### {model['stage'].capitalize()}", "", *measured(model)]
    ]
    return told + overhead(record)


SECTIONS: dict[str, Callable[[Record], list[str]]] = {
    "element_rules": element_rules,
    "first_step": first_step,
    "matrix_rules": matrix_rules,
    "kron": all_rules,
    "all_rules": all_rules,
    "products": products,
    "train_step": train_step,
    "ledger": ledger,
    "evidence": evidence,
    "tuners": tuners,
    "gpu_cuda": gpu,
    "gpu_cpu": gpu,
}

if __name__ == "__main__":
    main()
