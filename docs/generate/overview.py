"""All optimizers in one table, and the smaller tables that hand-written pages take from it."""

from __future__ import annotations

from collections.abc import Mapping

from generate import measured, memory
from generate.optimizer import instance, taken
from generate.text import prose, table
from steepest.core.naming import HIDDEN, ROLES
from steepest.core.rule import Rule
from steepest.lab.bench.table import size

UNKNOWN = "–"


def page(rules: Mapping[str, type[Rule]]) -> str:
    """The index of optimizers."""
    lines = [
        "---",
        "hide: [toc]",
        "---",
        "",
        "# All optimizers",
        "",
        f"{len(rules)} rules, each with the variants that its page tells. A click on a column's head sorts by it.",
        "",
        *comparison(rules),
        "- *state of a matrix*: bytes per weight of a 1024 × 1024 float32 matrix under the defaults; *of a "
        f"model*: of all weights of `{memory.MODEL}` (half of them embedding and head), the companion AdamW's "
        "included.",
        "- *step*: median time of the optimizer's step over that of torch's fused AdamW on the same weights, "
        "default engine, largest model measured; – is not measured. Rules may have been measured on different "
        "models: their pages tell which.",
        "- *spike*: how large the step of a gradient times 100 is, in median steps; *back*: how many steps later "
        "the training loss is back ([how it is measured](../robustness.md)).",
        "",
    ]
    return "\n".join(lines)


def comparison(rules: Mapping[str, type[Rule]]) -> list[str]:
    """The table of all."""
    head = (
        "optimizer",
        "sees",
        "takes",
        "state of a matrix",
        "state of a model",
        "step",
        "spike",
        "back",
        "title",
    )
    rows = []
    for name, rule in rules.items():
        matrix = memory.of_weight(rule, (1024, 1024), memory.HIDDEN)
        cost = measured.usual_cost(name)
        rows.append(
            (
                f"[{rule.__name__}]({name}.md)",
                rule.scope,
                weights(rule),
                f"{matrix.per_weight:.3g}" if matrix else UNKNOWN,
                f"{memory.of_model(rule).per_weight:.3g}",
                f"{cost:.2g}" if cost else UNKNOWN,
                *_spike(name),
                prose(rule.title),
            )
        )
    return ['<div class="sortable" markdown>', "", *table(head, rows), "</div>", ""]


def weights(rule: type[Rule]) -> str:
    """Which weights the rule takes, in two words."""
    own = taken(instance(rule))
    if len(own) == len(ROLES):
        return "all"
    return "hidden matrices" if set(own) == set(HIDDEN) else f"all but {', '.join(set(ROLES) - set(own))}"


def _spike(name: str) -> tuple[str, str]:
    found = measured.robustness_of(name)
    if found is None:
        return UNKNOWN, UNKNOWN
    if not found["finite"]:
        return "not finite", UNKNOWN
    back = found["steps_until_back"]
    return f"{found['step_over_median']:.3g}", str(
        back
    ) if back is not None else f"> {measured.robustness()['setting']['after']}"


def memory_table(rules: Mapping[str, type[Rule]]) -> list[str]:
    """Optimizers by the state of a whole model, least first, with the formula for a matrix."""
    rows = []
    for name, rule in sorted(rules.items(), key=lambda item: memory.of_model(item[1]).state_bytes):
        kept = memory.of_model(rule)
        page = f"[{rule.__name__}](optimizers/{name}.md)"
        fixed = memory.of_model(rule, recipe=True)
        rows.append(
            (
                page,
                memory.formula(rule),
                f"{kept.per_weight:.2f}",
                size(kept.state_bytes),
                f"{fixed.per_weight:.2f}",
            )
        )
    head = ("optimizer", "bytes, m × n matrix", "bytes per weight", "of the model", "per weight, recipe")
    return table(head, rows, numbers_from=2)


def cost_table(rules: Mapping[str, type[Rule]]) -> list[str]:
    """Optimizers by models: each one's step over fused AdamW's, float32 weights, default engine."""
    found: dict[str, dict[str, float]] = {}
    machines: dict[str, str] = {}
    for cost in measured.costs():
        ratio = cost.entry["over_reference"].get("median")
        usual = cost.entry["engine"] == "auto" and cost.setting["dtype"] == "float32"
        if cost.rule in rules and usual and ratio:
            model = f"{cost.model['source'].replace(',', ', ')} ({cost.model['weights'] / 1e6:.3g}M)"
            found.setdefault(model, {}).setdefault(cost.rule, ratio)
            machines[model] = cost.machine
    models = sorted(found, key=lambda model: -len(found[model]))
    rows = [
        (
            f"[{rule.__name__}](optimizers/{name}.md)",
            *(f"{found[model][name]:.2g}" if name in found[model] else UNKNOWN for model in models),
        )
        for name, rule in rules.items()
    ]
    made = [f"Measured on {', '.join(sorted(set(machines.values())))}.", ""] if machines else []
    return table(("optimizer", *models), rows, numbers_from=1) + made


def onebit_table(rules: Mapping[str, type[Rule]]) -> list[str]:
    """Bytes between workers and the loss that they end at, for each way to average."""
    rows = []
    for name, found in measured.onebit().get("methods", {}).items():
        end, (warm, later) = found["best"]["curve"][-1], found["bytes_a_step"]
        sizes = (f"{later / 1000:.1f}", f"{warm / later:.1f}", f"{end['bytes'] / 1e6:.1f}")
        rows.append((name, *sizes, f"{found['best']['lr']:g}", f"{end['loss']:.3f}"))
    titles = ("", "kB a step after the warm-up", "times less than before", "MB in all", "learning rate", "loss")
    return table(titles, rows, numbers_from=1)


def robustness_table(rules: Mapping[str, type[Rule]]) -> list[str]:
    """What one gradient times 100 does to each optimizer, in the order of their names."""
    rows = []
    for name, rule in rules.items():
        found = measured.robustness_of(name)
        page = f"[{rule.__name__}](optimizers/{name}.md)"
        if found is None:
            rows.append((page, *[UNKNOWN] * 5))
            continue
        later, behind = found["largest_later_over_median"], found["gap_at_end"]
        rows.append(
            (
                page,
                "yes" if found["finite"] else "**no**",
                _spike(name)[0],
                UNKNOWN if later is None else f"{later:.3g}",
                _spike(name)[1],
                UNKNOWN if behind is None else f"{behind:.2g}",
            )
        )
    return table(
        ("optimizer", "finite", "spike", "later", "back, steps", "behind, nats/token"), rows, numbers_from=2
    )
