"""Tuners judged by regret: how far above the lowest loss of a synthetic surface the configuration they choose is.

    python benchmarks/tuners.py [--seeds 100] [--surfaces ridge noise ...]

Every surface of ``lab/study/surfaces.py`` is drawn anew with every seed. Coordinate descent (arXiv 2509.02046,
threshold 3e-3) runs until it ends; on the same drawing the bowl (``lab/study/tuners/surrogate.py``) gets a third
of those runs, rounded down, and quasi-random search as many as the descent. ``certified``: the bowl again with
what its certificate takes, every neighbour one step away run. ``5 x as steep``: where losses are five times as
steep as the bowl's prior expects. Its constants were chosen on seeds from 1000 on, not on these.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tables
from _script import RESULTS, save, tell

from steepest.lab.study.ruler import Ruler
from steepest.lab.study.search import key, lowest, tried
from steepest.lab.study.surfaces import SURFACES, Surface, solved
from steepest.lab.study.tuners.coordinate import descend
from steepest.lab.study.tuners.found import Found, certified
from steepest.lab.study.tuners.surrogate import Surrogate, fit_bowl

QUANTILES = (0.5, 0.75, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="drawings of every surface (100)")
    parser.add_argument("--surfaces", nargs="+", default=list(SURFACES), choices=list(SURFACES), metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULTS / "tuners.json", help="where the results go")
    args = parser.parse_args()
    found = {}
    for name in args.surfaces:
        found[name] = judged(SURFACES[name], range(args.seeds))
        tell(f"{name} done")
        save(args.out, {"seeds": args.seeds, "quantiles": QUANTILES, "surfaces": found})
    print("\n".join(tables.tuners({"seeds": args.seeds, "surfaces": found})))


def judged(surface: Callable[[int], Surface], seeds: range) -> dict[str, Any]:
    """Regret quantiles and runs of every tuner on one surface."""
    regrets: dict[str, list[float]] = {}
    runs: dict[str, list[int]] = {}

    def note(tuner: str, drawn: Surface, values: Any, spent: int) -> None:
        regrets.setdefault(tuner, []).append(drawn.regret(values))
        runs.setdefault(tuner, []).append(spent)

    for seed in seeds:
        drawn = surface(seed)
        steep = replace(drawn, bend=tuple(5 * b for b in drawn.bend))
        for end, on in (("", drawn), (", 5 x as steep", steep)):
            descent, spent = solved(on, descend(on.space, on.start, key))
            note(f"coordinate descent{end}", on, descent.values, spent)
            rule = Surrogate(runs=max(2, spent // 3), seed=seed)
            found, few = solved(on, fit_bowl(on.space, on.start, key, rule))
            note(f"bowl, a third of the runs{end}", on, found.values, few)
            if on is drawn:
                note("quasi-random, the same runs", on, *quasi_random(on, spent, seed))
                whole, more = solved(on, certified(on.space, found, key, most=8 * len(on.space)))
                note("bowl, certified", on, whole.values, few + more)
    return {
        tuner: {
            "regret": [_finite(np.quantile(own, q, method="higher")) for q in QUANTILES],
            "runs": float(np.median(runs[tuner])),
            "regrets": [_finite(value) for value in own],
        }
        for tuner, own in regrets.items()
    }


def quasi_random(surface: Surface, runs: int, seed: int) -> tuple[Any, int]:
    """The start and scrambled Sobol points, evenly in grid steps; values with nothing between get equal parts."""
    from scipy.stats import qmc

    rulers = {name: Ruler(tuple(grid)) for name, grid in surface.space.items()}
    sobol = qmc.Sobol(len(rulers), seed=np.random.default_rng(seed))
    rows = sobol.random_base2(math.ceil(math.log2(runs)))[: runs - 1].tolist()

    def value(ruler: Ruler, part: float) -> Any:
        last = len(ruler.grid) - 1
        return ruler.value(part * last) if ruler.continuous else ruler.grid[int(part * (last + 1))]

    points = [{n: value(r, p) for (n, r), p in zip(rulers.items(), row, strict=True)} for row in rows]

    def search() -> Any:
        losses = yield from tried(key, [surface.start, *points])
        return Found(lowest(losses), losses)

    found, spent = solved(surface, search())
    return found.values, spent


def _finite(value: float) -> float | None:
    """To six decimals; None for a choice that diverges, or none."""
    return round(float(value), 6) if math.isfinite(value) else None


if __name__ == "__main__":
    main()
