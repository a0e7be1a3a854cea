"""One optimizer's page, from its rule's declarations and what was measured of it."""

from __future__ import annotations

import inspect
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from generate import measured, memory
from generate.text import block, code, pairs, prose, table, value
from steepest.core.errors import SteepestError
from steepest.core.naming import ROLES
from steepest.core.rule import Rule, defaults, hyperparameters
from steepest.engines import ENGINES
from steepest.engines.native import Inexpressible, text_of
from steepest.lab.bench.table import number, seconds, size, spread

STEPS = 100


def page(name: str, rule: type[Rule]) -> str:
    """The whole page as Markdown, of a rule by the name that the registry has for it."""
    sections = {
        "When to use it": [prose(rule.advice) or "Nobody has written this yet.", ""],
        "The update": block(inspect.cleandoc(rule.pseudocode)),
        "Hyperparameters": _hyperparameters(rule),
        "Tuned values": _tuned(rule),
        "Variants": _variants(rule),
        "Which weights it takes": _weights(rule),
        "State and memory": _memory(rule),
        "Cost of a step": _cost(name),
        "What a step needs": _needs(rule),
        "Engines": _engines(name, rule),
        "Where it departs from paper or code": [*(f"- {prose(quirk)}" for quirk in rule.quirks), ""],
        "One gradient times 100": _robustness(name),
    }
    lines = [*_head(name, rule)]
    for title, told in sections.items():
        if any(told):
            lines += [f"## {title}", "", *told]
    return "\n".join(lines)


def instance(rule: type[Rule], variant: str | None = None) -> Rule:
    """The rule with its defaults, or a variant's, in a run of :data:`STEPS` where it wants to know."""
    values = defaults(rule, variant)
    if values.get("total_steps", 0) is None:
        values["total_steps"] = STEPS
    return rule(**values)


def taken(rule: Rule) -> list[str]:
    """The roles of the weights that the rule itself takes."""
    return [role for role in ROLES if rule.takes(role)]


def _head(name: str, rule: type[Rule]) -> list[str]:
    return [
        f"# {prose(rule.title)}",
        "",
        prose(inspect.cleandoc(rule.__doc__ or "")),
        "",
        *block(f"optimizer = steepest.{rule.__name__}(model, lr={value(instance(rule).lr)})", "python"),
        f"`steepest race {name}` compares it with a tuned AdamW; `steepest show {name}` prints what it declares.",
        "",
        f"**Paper.** {prose(rule.paper)}",
        "",
        f"**Compared with.** {prose(rule.code)}" if rule.code else "",
        "",
    ]


def _hyperparameters(rule: type[Rule]) -> list[str]:
    given = defaults(rule)
    rows = [
        (code(name), code(value(given[name])), _grid(hyper), prose(hyper.meaning))
        for name, hyper in hyperparameters(rule).items()
    ]
    return table(("name", "default", "first search grid, or choices", "meaning"), rows)


def _grid(hyper: Any) -> str:
    if hyper.grid and isinstance(hyper.grid[0], tuple):
        return " × ".join(f"({', '.join(map(value, each))})" for each in hyper.grid)
    return ", ".join(map(value, hyper.grid or hyper.options or ())) or "–"


def _tuned(rule: type[Rule]) -> list[str]:
    if not rule.recipe:
        return ["No study has tuned it: a race fixes the defaults and searches the learning rate.", ""]
    told = [f"What a race of language models fixes unless told otherwise, from: {prose(rule.recipe_source)}.", ""]
    return [*told, pairs(rule.recipe) + ".", ""]


def _variants(rule: type[Rule]) -> list[str]:
    rows = [
        (code(name), pairs(changed) if changed else "the constructor's defaults", *_variant_bytes(rule, name))
        for name, changed in rule.variants.items()
    ]
    if not rows:
        return []
    told = [
        f"`steepest.{rule.__name__}(model, variant=...)`; the first is what the constructor does by default.",
        "",
    ]
    head = ("name", "differs in", "bytes, m × n matrix", "per weight at 1024²")
    return told + table(head, rows)


def _variant_bytes(rule: type[Rule], variant: str) -> tuple[str, str]:
    kept = memory.of_weight(rule, (1024, 1024), memory.HIDDEN, variant)
    return memory.formula(rule, variant), "–" if kept is None else f"{kept.per_weight:.3g}"


def _weights(rule: type[Rule]) -> list[str]:
    own, companion = taken(instance(rule)), rule.companion
    others = [role for role in ROLES if role not in own]
    told = ["Every weight." if not others else f"It takes the roles {_listed(own)}."]
    if others and companion is not None:
        told[0] += f" The roles {_listed(others)} go to a companion AdamW with {pairs(companion)}."
    told.append("`steepest.explain_routing(optimizer)` says which weight got which role, and why.")
    if rule.by_role:
        told[-1] += " By role it has other hyperparameters:"
        alike: dict[str, list[str]] = {}
        for role, changed in rule.by_role.items():
            alike.setdefault(pairs(changed), []).append(role)
        rows = [(_listed(roles), changed) for changed, roles in alike.items()]
        return [" ".join(told), "", *table(("roles", "differ in"), rows)]
    return [" ".join(told), ""]


def _listed(words: Iterable[str]) -> str:
    return ", ".join(map(code, words))


def _memory(rule: type[Rule]) -> list[str]:
    rows = []
    for what, (shape, role) in memory.EXAMPLES.items():
        kept = memory.of_weight(rule, shape, role)
        if kept is None:
            continue
        by = "" if kept.rule == rule.name() else f" ({kept.rule})"
        half = memory.of_weight(rule, shape, role, dtype=torch.bfloat16)
        rows.append(
            (
                f"{what}, {_sides(shape)}{by}",
                _slots(kept.slots),
                f"{kept.state_bytes:,}",
                f"{kept.per_weight:.3g}",
                f"{half.per_weight:.3g}" if half else "–",
            )
        )
    whole, fixed = memory.of_model(rule), memory.of_model(rule, recipe=True)
    tuned = "" if fixed.state_bytes == whole.state_bytes else f", under its recipe {fixed.per_weight:.3g}"
    total = (
        f"A Llama of {whole.weights:,} weights (`{memory.MODEL}`, half of them embedding and head) keeps "
        f"{size(whole.state_bytes)}: {whole.per_weight:.3g} bytes per weight, companions included{tuned}. "
        "Each weight has a step counter of 4 bytes besides."
    )
    told = [f"For a hidden matrix of m × n weights, m ≤ n: **{memory.formula(rule)}** bytes.", ""]
    head = ("float32 weight", "slots", "bytes", "per weight", "per bfloat16 weight")
    return [*told, *table(head, rows, numbers_from=2), total, ""]


def _slots(slots: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> str:
    words = {torch.float32: "", torch.bfloat16: " bfloat16"}
    told = (
        f"{code(name)} {_sides(shape)}{words.get(dtype, f' {dtype}'.replace('torch.', ''))}"
        for name, (shape, dtype) in slots.items()
    )
    return ", ".join(told) or "none"


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{side:,}" for side in shape) or "one number"


def _cost(name: str) -> list[str]:
    found = measured.costs_of(name)
    if not found:
        return [f"Not measured yet: `steepest bench {name}` measures it on your machine.", ""]
    told = [
        "Median time of the optimizer's step alone, calendar included; the bound is what the machine's memory and "
        "products allow, fused AdamW is torch's on the same weights. In brackets first and last decile.",
        "",
    ]
    head = ("engine", "step", "ns/weight", "× bound", "× fused AdamW", "extra memory")
    for what, group in itertools.groupby(found, key=_what):
        rows = [
            (
                code(cost.entry["engine"]),
                seconds(cost.entry["step"].get("median")),
                number(cost.entry["ns_per_weight"].get("median")),
                spread(cost.entry["over_bound"]),
                spread(cost.entry["over_reference"]),
                size(cost.entry["extra_bytes"]),
            )
            for cost in group
        ]
        told += [f"On {what}:", "", *table(head, rows, numbers_from=1)]
    made = sorted({f"{c.machine} (`{c.command}`)" for c in found})
    return [*told, f"Measured on {'; '.join(made)}.", ""]


def _what(cost: measured.Cost) -> str:
    model, setting, spec = cost.model, cost.setting, str(cost.entry["spec"])
    where = f"{setting['threads']} threads" if setting["device"] == "cpu" else setting["device"]
    shown = model["source"].replace(",", ", ").replace(":", " × ")
    under = f", under `{spec}`" if ":" in spec else ""
    return f"**{shown}**, {model['weights'] / 1e6:.3g}M {setting['dtype']} weights, {where}{under}"


def _needs(rule: type[Rule]) -> list[str]:
    made = instance(rule)
    phases = Counter(made.phase(t) for t in range(1, STEPS + 1))
    told = []
    if len(phases) > 1:
        days = ", ".join(f"{code(word)} {count} times" for word, count in phases.items())
        told.append(f"- A calendar: of the first {STEPS} steps {days}.")
    drawn = _drawn(made, phases)
    if drawn:
        told.append(f"- Random draws from a counter, so that every engine draws the same: {drawn}.")
    for what, variants in _asked(rule).items():
        of = (
            ""
            if "" in variants
            else f"Variants {_listed(variants)}: a"
            if variants[1:]
            else f"Variant {code(variants[0])}: a"
        )
        told.append(
            f"- {of or 'A'} measurement by the trainer, {what}. [How a loop supplies it](../recipes/estimates.md)."
        )
    if made.totals:
        words = ", ".join(f"{code(name)} ({how})" for name, how in made.totals.items())
        told.append(f"- Numbers over all of its weights, before any of them moves: {words}.")
    if made.writes_weight:
        told.append(
            "- It writes the weight itself: learning rate and decay act as its paper says, not as elsewhere."
        )
    return [*(told or ["The gradient, and nothing else."]), ""]


def _asked(rule: type[Rule]) -> dict[str, list[str]]:
    """What must be measured, in words, and which variants want it; "" is the constructor's default."""
    found: dict[str, list[str]] = {}
    for variant in (None, *rule.variants):
        made = instance(rule, variant)
        steps = range(1, STEPS + 1)
        told = [(ask, "before the step, which reads it itself") for t in steps for ask in made.needs(t)]
        told += [(ask, f"at the weights {ask.at} the step's move") for t in steps for ask in made.asks(t)]
        for (ask, when), count in Counter(told).items():
            on = ", on the whole batch" if ask.whole else ""
            what = f"{code(ask.kind)} {when}{on}, {count} times in the first {STEPS} steps"
            found.setdefault(what, []).append(variant or "")
    return found


def _drawn(made: Rule, phases: Iterable[str]) -> str:
    found = {}
    for phase in phases:
        for name, draw in made.randoms((memory.UNIT, memory.UNIT), phase).items():
            found[name] = f"{code(name)} ({draw.kind})"
    return ", ".join(found.values())


def _engines(name: str, rule: type[Rule]) -> list[str]:
    rows = [("`auto`", _auto(name, rule)), *((code(engine), _engine(rule, engine)) for engine in ENGINES)]
    return table(("engine", "how it runs this rule"), rows)


def _auto(name: str, rule: type[Rule]) -> str:
    if rule.scope != "element":
        return f"batched: the rule sees a whole {rule.scope}"
    try:
        text_of(instance(rule))
    except (Inexpressible, SteepestError) as why:
        return f"batched: {prose(str(why))}"
    return f"one native kernel on a processor with a C++ compiler (`steepest show {name} --kernel`), else batched"


def _engine(rule: type[Rule], engine: str) -> str:
    how = {
        "element": {
            "loop": "one weight at a time: the reference",
            "batched": "small weights joined, large ones cut",
        },
        "tensor": {
            "loop": "one weight at a time: the reference",
            "batched": "weights of equal shape in one stack",
        },
        "matrix": {
            "loop": "one matrix at a time: the reference",
            "batched": "matrices of equal shape in one stack",
        },
    }
    usual = {"compiled": "through torch.compile; needs a C++ compiler"}
    return how.get(rule.scope, {}).get(engine) or usual.get(engine) or "yes"


def _robustness(name: str) -> list[str]:
    found = measured.robustness_of(name)
    if found is None:
        return [f"Not measured yet: `python benchmarks/robustness.py --only {name}`.", ""]
    setting = measured.robustness()["setting"]
    back, gap = found["steps_until_back"], found["gap_at_end"]
    if not found["finite"]:
        told = "The weights **do not stay finite**."
    else:
        told = (
            f"The weights stay finite. That step is **{found['step_over_median']:.3g} times** the median step "
            f"before it, the largest of the later ones {found['largest_later_over_median']:.3g} times. "
        )
        told += (
            f"The training loss is back where it was **{back} steps** later"
            if back is not None
            else f"The training loss is **not back** where it was after {setting['after']} steps"
        )
        told += (
            f"; after {setting['after']} steps it is {gap:.2g} nats above the untouched twin's." if gap else "."
        )
    told += (
        f" (A {setting['model']}, step {setting['spike']}, lr {value(found['lr'])} and the recipe above, "
        f"gradients clipped to norm 1 before the one is multiplied by {setting['factor']:g}: "
        "[how it is measured](../robustness.md).)"
    )
    figure = measured.FIGURES / f"{name}.svg"
    drawn = [f"![Training loss around the struck step](../robustness/{figure.name}){{ .figure }}", ""]
    return [told, "", *(drawn if figure.exists() else [])]
