"""The conformance kit: recorded trajectories of the authors' code, replayed through the public classes.

Format of a folder of trajectories: ``inputs.npz`` with ``init/<tensor>`` and ``grad/<ttt>/<tensor>``, shared by
all, and ``<optimizer>/<variant>.json`` with the hyperparameters, beside ``<variant>.npz`` with
``param/<ttt>/<tensor>`` after step ttt and what the rule must be fed, ``extra/...``. Where the JSON tells a loss,
the gradients are its own (``losses.py``), ``extra/loss`` is its value before each step, and a Hessian estimate
that is not recorded is made from its probe, ``extra/z/<ttt>/<tensor>``. A way to run a rule that is recorded under
a name of its own (``WAYS``) makes its own steps, and the losses that it measures are compared too. Gradients of
several workers (``Rule.workers``) are each given to an optimizer of its own.

Beside them lie tables, values of pure functions: ``<what>/<variant>.json`` with the ``keys`` of the arrays in
``<variant>.npz``. Each key whose function is known here (``tables.py``) is computed and compared.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.core.errors import BadInput, CorruptFile, SteepestError, UnknownName
from steepest.core.naming import HIDDEN
from steepest.core.rule import Ask, Rule
from steepest.distributed import simulated
from steepest.engines import ENGINES, why_not_compiled
from steepest.engines.draws import replayed
from steepest.faces import face
from steepest.inside_backward import release
from steepest.losses import Loss, loss_of
from steepest.optimizer import Optimizer
from steepest.registry import rule_of_trajectory
from steepest.tables import TABLES
from steepest.zeroth import replay as zeroth

# The shared inputs' tensors; "matrix" are hidden matrices.
ROLES = {"square": "matrix", "tall": "matrix", "wide": "matrix", "embed": "embed", "head": "head", "bias": "bias"}


@dataclass(frozen=True)
class Verdict:
    """One trajectory under one engine, or one key of a table, which no engine runs.

    ``error``: the largest distance from the trajectory over all tensors and stored steps, in units of the
    tensor's total movement, of a table's key in units of its largest value; None if it was not replayed, or not a
    number. ``tolerance`` is None for a file that cannot be read.
    """

    optimizer: str
    variant: str
    engine: str
    error: float | None
    tolerance: float | None
    status: str
    reason: str = ""


def verify(
    folder: Path,
    *,
    only: str | None = None,
    engine: str = "loop",
    progress: Callable[[Verdict], None] | None = None,
) -> list[Verdict]:
    """Replay every trajectory and compare every known table under ``folder``.

    Args:
        only: an optimizer, or optimizer/variant; a table's folder, or folder/key.
        engine: one engine's name, or "all".

    Raises: BadInput if the folder holds neither, UnknownName for an engine or an ``only`` not there.
    """
    engines = list(ENGINES) if engine == "all" else [engine]
    if engine != "all" and engine not in ENGINES:
        raise UnknownName.among("engine", engine, [*ENGINES, "all"])
    found, tables = _pairs(folder)
    if not found + tables:
        raise BadInput(f"{folder} holds no trajectory: expected OPTIMIZER/VARIANT.json beside VARIANT.npz")
    names = {f"{f.parent.name}/{f.stem}": f for f in found}
    keys = {f"{t.parent.name}/{key}": (t, key) for t in tables for key in _keys(t)}
    if only is not None:
        names = {name: f for name, f in names.items() if only in (f.parent.name, name)}
        keys = {name: pair for name, pair in keys.items() if only in (pair[0].parent.name, name)}
        if not names and not keys:
            known = {f"{f.parent.name}/{f.stem}" for f in found} | {f.parent.name for f in found + tables}
            raise UnknownName.among("trajectory", only, known)
    verdicts = []

    def say(verdict: Verdict) -> None:
        verdicts.append(verdict)
        if progress is not None:
            progress(verdict)

    inputs = _load(folder / "inputs.npz") if names else {}
    for path in names.values():
        for name in engines:
            say(one(path, inputs, name))
    for path, key in keys.values():
        say(compared(path, key))
    return verdicts


def trajectories(folder: Path) -> list[Path]:
    """The JSON files of the trajectories under a folder; tables and other files are passed over."""
    found, _ = _pairs(folder)
    if not found:
        raise BadInput(f"{folder} holds no trajectory: expected OPTIMIZER/VARIANT.json beside VARIANT.npz")
    return found


def _pairs(folder: Path) -> tuple[list[Path], list[Path]]:
    """The JSON files of trajectories, and those of tables that can be computed."""
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}: give the folder that holds inputs.npz and OPTIMIZER/VARIANT.json")
    pairs = [p for p in sorted(folder.glob("*/*.json")) if p.with_suffix(".npz").exists()]
    tables = [p for p in pairs if p.parent.name in TABLES and not _is_trajectory(p)]
    return [p for p in pairs if _is_trajectory(p)], tables


def one(path: Path, inputs: Mapping[str, np.ndarray], engine: str) -> Verdict:
    """Replay one trajectory under one engine."""
    optimizer, variant = path.parent.name, path.stem
    tolerance: float | None = None

    def verdict(status: str, reason: str = "", error: float | None = None) -> Verdict:
        finite = error if error is not None and math.isfinite(error) else None
        return Verdict(optimizer, variant, engine, finite, tolerance, status, reason)

    try:
        told, arrays = json.loads(path.read_text()), _load(path.with_suffix(".npz"))
        tolerance = float(told["rtol_suggested"])
        rule = rule_of_trajectory(told)
        way = next((way for way in WAYS if way.replays(told)), None) if rule is None else None
        if rule is None and way is None:
            return verdict("not implemented", f"no rule named {told['optimizer']!r}")
        if engine == "compiled" and (missing := why_not_compiled()):
            return verdict("not implemented", missing)
        arguments = rule.of_trajectory(told, arrays) if rule is not None else {}
        weights = {
            name: torch.nn.Parameter(torch.tensor(inputs[f"init/{name}"]).to(getattr(torch, told["param_dtype"])))
            for name in told["tensors"]
        }
        loss = loss_of(told, arrays, inputs)
        walk: Callable[[], tuple[float, str]]
        if rule is not None:
            released = arguments.pop("released", None)
            make = partial(_built, rule, arguments, told, engine)
            if senders := rule.workers(told):
                walk = partial(followed, simulated.walk(make, senders, weights, arrays), weights, told, arrays)
            else:
                walk = partial(distance, make(weights), rule, weights, told, arrays, inputs, loss, released)
        else:
            assert way is not None
            walk = partial(followed, way.begun(told, arrays, weights, loss, engine), weights, told, arrays)
    except (ValueError, KeyError, json.JSONDecodeError, CorruptFile) as error:
        return verdict("fail", f"damaged trajectory {path.name}: {type(error).__name__}: {error}")
    except SteepestError as error:
        return verdict("not implemented", str(error))
    try:
        far, where = walk()
    except Exception as failure:  # whatever a rule or an engine does wrong is that trajectory's result
        return verdict("fail", f"{type(failure).__name__}: {str(failure).splitlines()[0]}")
    if tolerance is None or not far <= tolerance:  # also for nan
        return verdict("fail", f"{'not a number' if math.isnan(far) else f'{far:.1e}'} at {where}", far)
    return verdict("pass", "", far)


def _built(
    rule: type[Rule], given: dict[str, Any], told: Any, engine: str, named: Mapping[str, Tensor], group: Any = None
) -> Optimizer:
    arguments = {**given, "engine": engine, "group": group}
    own = arguments.pop("groups", {})
    params = [{"params": [(n, w)], **own.get(n, {})} for n, w in named.items()] if own else list(named.items())
    arguments["roles"] = _roles(told, rule) | arguments.get("roles", {})
    return face(rule)(params, **arguments)


WAYS = (zeroth,)
"""Modules of ways to run a rule that are recorded under names of their own: ``replays(told)`` tells whether a
trajectory is of that way, and ``begun(...)`` gives what makes a step and tells the losses that it measured."""


def compared(path: Path, key: str) -> Verdict:
    """One key of a table, computed here and held against what is recorded."""
    tolerance: float | None = None

    def verdict(status: str, reason: str = "", error: float | None = None) -> Verdict:
        return Verdict(path.parent.name, key, "", error, tolerance, status, reason)

    try:
        told, table = json.loads(path.read_text()), _load(path.with_suffix(".npz"))[key]
        tolerance = float(told["rtol_suggested"])
        made = TABLES[path.parent.name](key, told, table)
    except (ValueError, KeyError, TypeError, CorruptFile) as error:
        return verdict("fail", f"damaged table {path.name}: {type(error).__name__}: {error}")
    except SteepestError as error:
        return verdict("not implemented", str(error))
    if made is None:
        return verdict("not implemented", f"nothing here is known as {key!r}")
    gaps = np.abs(made - table) / (np.abs(table).max(initial=0.0) or 1.0)
    worst = int(gaps.argmax()) if gaps.size else 0
    far = float(gaps.max(initial=0.0))
    if not far <= tolerance:
        return verdict("fail", f"{far:.1e} at entry {worst}", far if math.isfinite(far) else None)
    return verdict("pass", "", far)


def _keys(table: Path) -> list[str]:
    """The keys of a table; those of a damaged one are its name, so that it is told."""
    try:
        return list(json.loads(table.read_text())["keys"])
    except (ValueError, KeyError, TypeError, OSError):
        return [table.stem]


def distance(
    optimizer: Optimizer,
    rule: type[Rule],
    weights: Mapping[str, Tensor],
    told: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    loss: Loss | None = None,
    released: Mapping[str, Any] | None = None,
) -> tuple[float, str]:
    """Walk the trajectory; the largest relative distance from it and where that was. ``released``: inside backward
    of the loss sum of <G, w>, with these options of :func:`steepest.release`."""
    kept = set(told["steps_kept"])
    lrs = arrays.get("extra/lr")
    worst, where = 0.0, "the start"
    hyper = told["hyperparameters"]
    peak = next((hyper[key] for key in ("lr", "lr_params") if hyper.get(key)), None)
    firsts = optimizer.first_pieces()
    places = {firsts[w]: name for name, w in weights.items() if _group_of(optimizer, w)["rule"] == rule.name()}

    def recorded(t: int, index: int) -> dict[str, Tensor]:
        keys = rule.drawn(arrays, t - 1, places[index]) if index in places else {}
        return {draw: torch.tensor(arrays[key]) for draw, key in keys.items()}

    def observe(asked: Iterable[Ask], t: int) -> None:
        for ask in asked:
            keys = {name: rule.observed(t, name).get(ask.kind, "") for name in weights}
            found = {name: torch.tensor(arrays[key]) for name, key in keys.items() if key in arrays}
            probes = {n: key for n in weights if (key := f"extra/z/{t:03d}/{n}") in arrays}
            if not found and loss is not None and ask.kind == "hutchinson" and len(probes) == len(weights):
                found = loss.hutchinson(t, weights, {n: torch.tensor(arrays[key]) for n, key in probes.items()})
            optimizer.observe(ask, {weights[name]: x for name, x in found.items()})

    _feed(optimizer, rule, -1, weights, arrays)
    for t in range(max(kept) + 1):
        # Companion rates follow in the same proportion.
        factor = 1.0 if lrs is None or peak is None else float(lrs[t]) / peak
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        given = {name: torch.tensor(inputs[f"grad/{t:03d}/{name}"]) for name in weights}
        grads = loss.gradient(t, weights) if loss else given
        for name, w in weights.items():
            w.grad = grads[name].to(w.dtype)
        if loss and "extra/loss" in arrays:
            told_loss = float(arrays["extra/loss"][t])
            error = abs(float(loss(t, weights).detach()) - told_loss) / max(1.0, abs(told_loss))
            if not error <= worst:
                worst, where = error, f"the loss before step {t}"
            if math.isnan(error):
                return error, where
        observe(optimizer.owed(), t)
        asked = optimizer.asks()
        with replayed(recorded):
            if released is None:
                optimizer.step()
            else:
                inside(optimizer, weights, released)
        observe(asked, t)
        _feed(optimizer, rule, t, weights, arrays)
        for name, error in apart(weights, told, arrays, t):
            if not error <= worst:
                worst, where = error, f"step {t}, {name}"
            if math.isnan(error):
                return error, where
    return worst, where


def inside(optimizer: Optimizer, weights: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
    """One step inside backward: the loss sum of <G, w>, whose gradients are those that the weights now have."""
    with torch.enable_grad():
        loss = torch.stack([(g * w).sum() for w in weights.values() if (g := w.grad) is not None]).sum()
    for w in weights.values():
        w.grad = None
    with release(optimizer, **options) as released:
        released.backward(loss)


def followed(
    walk: Callable[[int], Sequence[float]],
    weights: Mapping[str, Tensor],
    told: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> tuple[float, str]:
    """The same for a way that makes its own steps: of the weights, and of every loss in ``extra/losses``."""
    worst, where = 0.0, "the start"
    for t in range(max(told["steps_kept"]) + 1):
        losses, recorded = walk(t), arrays.get(f"extra/losses/{t:03d}")
        if recorded is not None and recorded.size and recorded.size != len(losses):
            return math.inf, f"step {t}, which measures {recorded.size} losses, not {len(losses)}:"
        pairs = zip(losses, recorded, strict=True) if recorded is not None and recorded.size else ()
        errors = [(f"loss {i}", abs(x - y) / max(1.0, abs(y))) for i, (x, y) in enumerate(pairs)]
        for what, error in [*errors, *apart(weights, told, arrays, t)]:
            if not error <= worst:
                worst, where = float(error), f"step {t}, {what}"
            if math.isnan(error):
                return error, where
    return worst, where


def apart(
    weights: Mapping[str, Tensor], told: Mapping[str, Any], arrays: Mapping[str, np.ndarray], t: int
) -> Iterator[tuple[str, float]]:
    """How far each weight is after step t from what is recorded, if it is, in units of its total movement."""
    for name, w in weights.items() if t in told["steps_kept"] else ():
        gap = np.abs(w.detach().double().numpy() - arrays[f"param/{t:03d}/{name}"]).max(initial=0.0)
        move = float(told["total_move"][name])
        yield name, float(gap) / move if move else (0.0 if gap == 0 else math.inf)


def _feed(
    optimizer: Optimizer,
    rule: type[Rule],
    t: int,
    weights: Mapping[str, Tensor],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Give the state that the trajectory says after step t."""
    for name, w in weights.items():
        group = _group_of(optimizer, w)
        if group["rule"] != rule.name():
            continue
        own, state = optimizer.rule_of(group), optimizer.state[w]
        slots = own.slots(tuple(w.shape))
        keys = own.fed(t, name, tuple(w.shape), slots)
        fed = {slot: torch.tensor(arrays[key]).to(state[slot]) for slot, key in keys.items() if key in arrays}
        fed = {slot: value.view(slots[slot].shape) for slot, value in fed.items()}
        for slot, value in own.refitted(state, fed).items() if fed else ():
            state[slot].copy_(value)


def _group_of(optimizer: Optimizer, w: Tensor) -> dict[str, Any]:
    return next(g for g in optimizer.param_groups if any(w is p for p in g["params"]))


def _roles(told: Mapping[str, Any], rule: type[Rule]) -> dict[str, str]:
    """The role of each tensor, corrected where the trajectory's groups give it to the other rule."""
    groups: Mapping[str, Iterable[str]] = told.get("groups") or {}
    roles = {}
    for name in told["tensors"]:
        role = ROLES.get(name, "norm")
        mine = {key == rule.name() for key, members in groups.items() if name in members}
        if rule.companion is not None and mine:
            role = (role if role in HIDDEN else "matrix") if True in mine else ("head" if role in HIDDEN else role)
        roles[name] = role
    return roles


def _is_trajectory(path: Path) -> bool:
    try:
        return "steps_kept" in json.loads(path.read_text())
    except (ValueError, OSError):
        return True  # damaged: replayed, so that it is told


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise BadInput(f"no file {path}: a folder of trajectories holds the shared inputs beside its optimizers")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise CorruptFile(f"{path} is damaged ({error}): copy it again") from error
