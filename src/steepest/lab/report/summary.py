"""The verdict in words and the table's rows: one text for page, terminal and files."""

from __future__ import annotations

import math
from typing import Any

from steepest.lab.analysis.spikes import SCORED
from steepest.lab.report.words import (
    NOTHING,
    duration,
    interval,
    listed,
    loss,
    lr,
    ratio,
    reason,
    shortened,
    tokens,
    told,
)


def level(race: dict[str, Any]) -> str:
    """The confidence level that the speedups state: ``90 %``, the two held together in a line."""
    for result in race["results"].values():
        for key in ("speedup_tokens", "speedup_seconds"):
            stated = (result.get(key) or {}).get("level")
            if isinstance(stated, int | float):
                return f"{100 * stated:.3g}\N{NO-BREAK SPACE}%"
    return "stated"


def label(race: dict[str, Any], name: str) -> str:
    """The optimizer's name as sentences and figures carry it; the table has it in full."""
    result = race["results"].get(name)
    return shortened(result["label"] if result else name)


def final(result: dict[str, Any]) -> dict[str, Any]:
    """The final losses; all null where no run of the optimizer came to its end."""
    return result["final"] or {"losses": [], "mean": None, "low": None, "high": None, "bits_per_byte": None}


def ranking(race: dict[str, Any]) -> list[str]:
    """The baseline, then the others by final loss, those without one last."""
    others = [name for name in race["optimizers"] if name != race["baseline"]]

    def place(name: str) -> float:
        mean = final(race["results"][name])["mean"]
        return math.inf if mean is None else mean

    return [race["baseline"], *sorted(others, key=place)]


def headline(race: dict[str, Any]) -> str:
    """The verdict of the whole race in one sentence, in tokens; negative results are in it."""
    base = label(race, race["baseline"])
    groups: dict[str, list[str]] = {}
    for name in ranking(race)[1:]:
        result = race["results"][name]
        stated = ratio(result["speedup_tokens"])
        word = label(race, name) + (f" {stated}" if result["verdict"] in ("faster", "slower") else "")
        groups.setdefault(result["verdict"], []).append(word.removesuffix(f" {NOTHING}"))
    if not groups:
        return f"{base} ran alone: this page holds its tuning and its losses, and no comparison."
    rival = f"tuned {base}"
    clauses = []
    if "faster" in groups:
        clauses.append(f"faster than {rival}, token for token: {listed(groups['faster'])}")
        rival = "it"
    if "slower" in groups:
        clauses.append(f"slower{'' if rival == 'it' else f' than {rival}'}: {listed(groups['slower'])}")
        rival = "it"
    if "not told apart" in groups:
        clauses.append(f"not told apart from {rival}: {listed(groups['not told apart'])}")
    refused = [word for verdict, words in groups.items() if verdict not in VERDICTS for word in words]
    if refused:
        clauses.append(f"no verdict: {listed(refused)}")
    sentence = "; ".join(clauses)
    return sentence[0].upper() + sentence[1:] + "."


VERDICTS = ("faster", "slower", "not told apart")


def in_seconds(race: dict[str, Any]) -> str:
    """The same comparison on this machine's clock and in operations; empty for a lone baseline."""
    parts = []
    for name in ranking(race)[1:]:
        speedup = race["results"][name]["speedup_seconds"]
        verdict = told(speedup)
        if verdict != "refused":
            parts.append(f"{label(race, name)} {ratio(speedup)} ({verdict})")
    if not parts:
        return ""
    clock = f"On this machine's clock, step times included: {listed(parts, 5)}."
    stated = {name: race["results"][name].get("speedup_flops") or {} for name in ranking(race)[1:]}
    parts = [f"{label(race, name)} {ratio(found)}" for name, found in stated.items() if found.get("value")]
    return clock + (f" In floating-point operations: {listed(parts, 5)}." if parts else "")


def setting(race: dict[str, Any]) -> str:
    """What was trained on what, in one sentence."""
    setup, corpus = race["setup"], race["setup"]["corpus"]
    seeds = len(setup["seeds"])
    return (
        f"{tokens(setup['tokens'])} tokens per run through a language model with "
        f"{tokens(setup['non_embedding'])} non-embedding weights; {seeds} seed{'s' * (seeds != 1)} each, "
        f"learning rates tuned by one rule, intervals at {level(race)}. "
        f"Text: {shortened(corpus['source'], 80)}."
    )


def certificates(race: dict[str, Any]) -> list[str]:
    """What stands behind the best learning rates: whose are certified local optima, and what others lack."""
    said: dict[str, list[str]] = {}
    for name in ranking(race):
        stated = race["results"][name].get("certificate") or {"text": "uncertified"}
        said.setdefault(stated["text"], []).append(label(race, name))
    return [f"{listed(names, 12)}: {text}" for text, names in said.items()]


def limits(race: dict[str, Any]) -> list[str]:
    """What this evidence does not allow, sentence by sentence; what went wrong comes first."""
    setup = race["setup"]
    said = [f"{warning[:1].upper()}{warning[1:]}" for warning in race["warnings"]]
    if race["law"] is None:
        said.append(f"No speedup is stated, for want of a law: {race.get('law_reason') or 'no reason recorded'}")
    for name in ranking(race):
        said += _limits_of(race, name)
    said += [
        f"The law of {label(race, race['baseline'])}: {flag}" for flag in (race["law"] or {}).get("flags", [])
    ]
    spent = {name: race["results"][name]["tuning"]["runs"] for name in race["optimizers"]}
    if len(set(spent.values())) > 1:
        least, most = min(spent, key=spent.__getitem__), max(spent, key=spent.__getitem__)
        said.append(
            f"Tuning was not equal: from {spent[least]:g} runs ({label(race, least)}) "
            f"to {spent[most]:g} ({label(race, most)})"
        )
    said += ((race.get("power") or {}).get("text") or [])[:1]
    if setup["passes"] > 1:
        said.append(
            f"The longest run passed over the training text {setup['passes']:.3g} times: "
            "past one pass, losses also measure memory of the text"
        )
    if len(setup["seeds"]) < 3:
        said.append(
            f"{len(setup['seeds'])} seed{'s' * (len(setup['seeds']) > 1)} per optimizer measure noise poorly"
        )
    said += [
        f"One model size ({tokens(setup['non_embedding'])} weights), one corpus, one budget "
        f"({tokens(setup['tokens'])} tokens): nothing here says how the order stands at other sizes",
        "Only the learning rate was tuned; every other hyperparameter was fixed beforehand, "
        "and another choice could move any optimizer",
        "Seconds hold for this machine and these implementations",
    ]
    return [f"{sentence.strip().rstrip('.')}." for sentence in said]


def _limits_of(race: dict[str, Any], name: str) -> list[str]:
    """What weakens the evidence on one optimizer."""
    result, who, said = race["results"][name], label(race, name), []
    in_tokens, in_time = result["speedup_tokens"] or {}, result["speedup_seconds"] or {}
    contender = name != race["baseline"]
    if final(result)["mean"] is None:
        said.append(f"{who} has no final loss: not every seed came to the end of its schedule")
    elif contender and told(in_tokens) == "refused" and race["law"]:
        said.append(f"{who}'s speedup is refused: {reason(in_tokens)}")
    elif contender and told(in_time) == "refused" and race["law"]:
        said.append(f"{who}'s speedup in seconds is refused: {reason(in_time)}")
    if _inside_noise(result):
        said.append(
            f"{who}'s speedup interval leaves 1 out, but its final loss lies within seed noise of "
            f"{label(race, race['baseline'])}'s: not told apart"
        )
    if not result["lr"]["bracketed"]:
        where = f"at the {result['lr']['edge']} edge of its grid" if result["lr"]["edge"] else "not bracketed"
        said.append(f"{who}'s best learning rate is {where}: a better one may lie beyond")
    if told(in_tokens) != "refused":
        said += [f"{who}'s speedup: {flag}" for flag in in_tokens.get("flags") or []]
    return said


def _inside_noise(result: dict[str, Any]) -> bool:
    """Whether the verdict is a tie although the speedup's interval leaves 1 out."""
    return result["verdict"] == "not told apart" and told(result["speedup_tokens"]) in ("faster", "slower")


def rows(race: dict[str, Any]) -> list[dict[str, Any]]:
    """The table in bare numbers: one row per optimizer, the baseline first, then the best."""
    table = []
    for name in ranking(race):
        result = race["results"][name]
        ended, step = final(result), result["step"] or {}
        in_tokens, in_time = result["speedup_tokens"] or {}, result["speedup_seconds"] or {}
        table.append(
            {
                "optimizer": name,
                "label": result["label"],
                "verdict": result["verdict"],
                "final_loss": ended["mean"],
                "final_low": ended["low"],
                "final_high": ended["high"],
                "bits_per_byte": ended["bits_per_byte"],
                "seeds": len([entry for entry in ended["losses"] if entry["loss"] is not None]),
                "speedup_tokens": in_tokens.get("value"),
                "speedup_tokens_low": in_tokens.get("low"),
                "speedup_tokens_high": in_tokens.get("high"),
                "speedup_seconds": in_time.get("value"),
                "speedup_seconds_low": in_time.get("low"),
                "speedup_seconds_high": in_time.get("high"),
                **_in_flops(result),
                **_spikes(result),
                "best_lr": result["lr"]["best"],
                "bracketed": result["lr"]["bracketed"],
                "edge": result["lr"]["edge"],
                "tuning_runs": result["tuning"]["runs"],
                "tuning_tokens": result["tuning"]["tokens"],
                "tuning_seconds": result["tuning"]["seconds"],
                "step_seconds": step.get("seconds"),
                "optimizer_share": step.get("optimizer_share"),
                "estimate_share": step.get("estimate_share"),
                "step_flops": step.get("flops"),
                "state_bytes_per_weight": result["state_bytes_per_weight"],
                "verdict_text": result["verdict_text"],
            }
        )
    return table


def _in_flops(result: dict[str, Any]) -> dict[str, Any]:
    """Nothing in races from before operations were counted."""
    stated = result.get("speedup_flops") or {}
    return {
        f"speedup_flops{end}": stated.get(key) for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _spikes(result: dict[str, Any]) -> dict[str, Any]:
    """Nothing in races from before spikes were scored."""
    found = result.get("spikes") or {}
    return {
        f"{series}_{score}": found.get(series, {}).get(score)
        for series, scores in SCORED.items()
        for score in scores
    }


def spikes(race: dict[str, Any]) -> list[dict[str, str]]:
    """The table of spikes in words; empty where none were scored."""
    table = []
    for name in ranking(race):
        found = race["results"][name].get("spikes")
        if found is None:
            continue
        row = {"optimizer": name, "label": race["results"][name]["label"], "runs": f"{found['runs']:g}"}
        for key, value in _spikes(race["results"][name]).items():
            unit = "\N{NO-BREAK SPACE}%" if key.endswith("spike_score") else ""
            row[key] = NOTHING if value is None else f"{value:.2g}{unit}" if value < 100 else f"{value:.0f}{unit}"
        table.append(row | {"diverged": f"{found['diverged']:g} of {found['of']:g}"})
    return table


def bracket(result: dict[str, Any]) -> str:
    """``bracketed``, ``at the high edge`` or ``not bracketed``."""
    if result["lr"]["bracketed"]:
        return "bracketed"
    return f"at the {result['lr']['edge']} edge" if result["lr"]["edge"] else "not bracketed"


def cells(race: dict[str, Any]) -> list[dict[str, str]]:
    """The table in words, for page and terminal: every value with its small print beside it."""
    table = []
    for row in rows(race):
        result, name = race["results"][row["optimizer"]], row["optimizer"]
        share, step, state = row["optimizer_share"], row["step_seconds"], row["state_bytes_per_weight"]
        text = {
            "optimizer": name,
            "label": row["label"],
            "verdict": row["verdict"],
            "note": _note(race, name),
            "loss": "none" if row["final_loss"] is None else loss(row["final_loss"]),
            "loss_interval": interval(row["final_low"], row["final_high"]),
            "lr": lr(row["best_lr"]),
            "bracket": bracket(result),
            "runs": f"{row['tuning_runs']:g} runs",
            "spent": duration(row["tuning_seconds"]),
            "share": NOTHING if share is None else f"{100 * share:.2g}\N{NO-BREAK SPACE}%",
            "step": "" if step is None else f"of {1000 * step:.3g} ms",
            "state": NOTHING if state is None else f"{state:.3g}",
        }
        for kind in ("tokens", "seconds"):
            stated, key = result[f"speedup_{kind}"] or {}, f"speedup_{kind}"
            if name == race["baseline"]:
                value, span = "1", "by definition"
            elif stated.get("value") is None:
                value, span = "refused", ""
            else:
                value = ratio(stated) + ("*" if stated.get("flags") else "")
                span = interval(row[f"{key}_low"], row[f"{key}_high"], 2)
            text |= {kind: value, f"{kind}_interval": span}
        table.append(text)
    return table


def _note(race: dict[str, Any], name: str) -> str:
    """What stands beside the verdict: a tie by seed noise, or a clock that tells otherwise than the tokens."""
    result = race["results"][name]
    in_time = told(result["speedup_seconds"])
    if _inside_noise(result):
        return "within seed noise"
    if name == race["baseline"] or in_time in ("refused", result["verdict"]):
        return ""
    return f"{in_time} in seconds"
