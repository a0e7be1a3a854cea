"""Coefficients of Newton-Schulz steps fitted to a matrix's size, one (a, b, c) for all steps.

He et al., ROOT, arXiv 2511.20626: Newton-Schulz iteration divides a matrix by its Frobenius norm, so that its
singular values begin near ``1 / sqrt(smaller side)``, and how far the small ones lie below depends on how square
the matrix is. Coefficients that reach just so far bring all of them nearer to 1 than Muon's, which reach for
every shape alike. The authors print coefficients for four shapes; here they are fitted for all.

Run ``python -m steepest.linalg.fitted_newton_schulz`` to print the table anew (a minute); the fitter for spectra
of your own is :func:`fitted`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from steepest.core.errors import BadInput
from steepest.linalg.fitted_newton_schulz_table import FITS, LAW

if TYPE_CHECKING:
    import numpy as np

Quintic = tuple[float, float, float]

LEFT_OUT = 0.05
"""Share of the singular values, the smallest, that a fit leaves out: a square matrix has some as near to 0 as one
likes, and a fit that counted them would give up all others for what no five steps can lift."""

MISS = 0.25
"""No fit misses 1 by more on what it counts. Where it would, more of the smallest are left out; Muon's
coefficients miss by 0.32."""

TOP = 1.01
"""Upper end of every fit: rounding in bfloat16 may carry a value beyond 1."""

UNEVEN, STRONG = 0.625, 0.5
"""What makes a random matrix like a momentum: the spread of its rows' and columns' sizes (standard deviation of
their logarithms), and the share of one direction in the squared norm. Chosen so that the quantiles are those of
clipped momenta of a model with 49,000 weights, steps 30 to 400 of its training."""


def coefficients(rows: int, cols: int, steps: int = 5) -> Quintic:
    """The fitted (a, b, c) for matrices of this shape, by the table. Raises: BadInput for steps it does not have.

    The next fit that reaches at least as far down: its error is then a bound for every value above.
    """
    if steps not in FITS:
        raise BadInput(
            f"fitted coefficients for {steps} steps: the table has {min(FITS)} to {max(FITS)}: give (a, b, c) "
            "instead"
        )
    lower, found = reach(rows, cols), FITS[steps][-1]
    for fit in reversed(FITS[steps]):
        if fit[0] <= lower:
            found = fit
    return found[1], found[2], found[3]


def reach(rows: int, cols: int) -> float:
    """What all but :data:`LEFT_OUT` of a momentum's singular values exceed, in units of its norm."""
    short, long = max(1, min(rows, cols)), max(rows, cols)
    quantile = LAW[0][1]
    for aspect, value in LAW:
        if long >= aspect * short:
            quantile = value
    return quantile / math.sqrt(short)


def fitted(
    spectra: Any, steps: int = 5, left_out: float = LEFT_OUT, miss: float = MISS
) -> tuple[Quintic, float, float]:
    """The (a, b, c) for matrices with these singular values: least worst ``|f(f(...f(s))) - 1|`` over what is
    counted.

    Args: singular values of one or many matrices of a shape, each matrix divided by its Frobenius norm (of
    recorded momenta, say); what is left out and what may be missed, see the constants.
    Returns: the coefficients, the smallest value that they are fitted from, and the worst there.

    The fit is over the whole interval from there to :data:`TOP` and not over the given values alone, so that it
    holds for whatever lies between; that costs nothing, as what is hard is the smallest.
    """
    import numpy as np

    values = np.asarray(spectra, dtype=float).ravel()
    if values.size == 0 or not ((values >= 0) & (values < 1 + 1e-6)).all():
        raise BadInput("singular values must lie in [0, 1]: divide each matrix by its Frobenius norm first")
    lower = min(max(float(np.quantile(values, left_out)), 1e-9), 0.99)
    reached, found = 1.0, None
    while (
        reached > lower
    ):  # from above, each fit the start of the next: a simplex alone does not find the deep ones
        reached = max(reached / 2, lower)
        before = found
        found, error = nearest(reached, steps, [*STARTS, *([before] if before else [])])
        if error > miss and before is not None:
            return _at_bound(reached, steps, before, miss)
    assert found is not None
    return found, lower, error


def _at_bound(lower: float, steps: int, start: Quintic, miss: float) -> tuple[Quintic, float, float]:
    """The fit that reaches farthest down while it misses by no more than ``miss``; it does not at ``lower``."""
    above, found, error = 2 * lower, start, 0.0
    while above / lower > 1.004:
        middle = math.sqrt(above * lower)
        tried, missed = nearest(middle, steps, [found])
        if missed <= miss:
            above, found, error = middle, tried, missed
        else:
            lower = middle
    return found, above, error


STARTS: tuple[Quintic, ...] = ((3.4445, -4.7750, 2.0315), (2.5, -2.5, 1.0), (1.875, -1.25, 0.375))


def nearest(lower: float, steps: int, starts: Sequence[Quintic] = STARTS) -> tuple[Quintic, float]:
    """The (a, b, c) whose ``steps``-fold composition differs least from 1 on [lower, TOP], and by how much."""
    import numpy as np

    coarse, fine = (np.geomspace(lower, TOP, n) for n in (150, 2000))
    tried = [simplex(lambda c: worst(c, coarse, steps), np.array(s)) for s in starts]
    best = min((found for found, _ in tried), key=lambda c: worst(c, fine, steps))
    found, error = simplex(lambda c: worst(c, fine, steps), best, (0.02, 0.005, 0.001))
    a, b, c = (float(x) for x in found)
    return (a, b, c), float(error)


def worst(quintic: Any, values: Any, steps: int) -> float:
    """The largest distance from 1 at which singular values of these sizes end; inf where they run away."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        distance = float(np.abs(image(quintic, values, steps) - 1).max())
    return distance if math.isfinite(distance) else math.inf


def image(quintic: Any, x: Any, steps: int) -> Any:
    """Where singular values end."""
    a, b, c = quintic
    for _ in range(steps):
        square = x * x
        x = x * (a + square * (b + square * c))
    return x


def simplex(
    of: Callable[[np.ndarray], float], start: np.ndarray, sizes: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01)
) -> tuple[np.ndarray, float]:
    """The minimum near a point by Nelder and Mead's method (1965), begun again around what it finds until that
    helps no more: the worst of many values has kinks, where slopes mislead."""
    import numpy as np

    best, value = start, of(start)
    for size in sizes:
        corners = [best] + [best + size * row for row in np.eye(len(start))]
        values = [of(c) for c in corners]
        for _ in range(200):
            order = np.argsort(values, kind="stable")
            corners, values = [corners[i] for i in order], [values[i] for i in order]
            if max(np.abs(c - corners[0]).max() for c in corners) < 1e-8:
                break
            centre = np.mean(corners[:-1], axis=0)

            def along(t: float, centre: Any = centre, last: Any = corners[-1]) -> tuple[np.ndarray, float]:
                point = centre + t * (last - centre)
                return point, of(point)

            moved = along(-1.0)
            if moved[1] < values[0]:
                moved = min(moved, along(-2.0), key=lambda m: m[1])
            elif moved[1] >= values[-2]:
                moved = min(along(-0.5), along(0.5), key=lambda m: m[1])
            if moved[1] < values[-1]:
                corners[-1], values[-1] = moved
            else:
                corners = [corners[0]] + [(c + corners[0]) / 2 for c in corners[1:]]
                values = [values[0]] + [of(c) for c in corners[1:]]
        i = int(np.argmin(values))
        if values[i] <= value:
            best, value = corners[i], values[i]
    return best, value


def sampled(rows: int, cols: int, matrices: int = 20, seed: int = 0, quantile: float = 0.9) -> np.ndarray:
    """Singular values of random clipped matrices of this shape in units of their norms, one row a matrix: of every
    four one with independent entries, three like momenta (the paper mixes random and recorded ones 1 : 3)."""
    import numpy as np

    draw = np.random.default_rng((seed, rows, cols))
    found = []
    for i in range(matrices):
        x = draw.normal(size=(rows, cols))
        if i % 4:
            x *= np.exp(UNEVEN * draw.normal(size=(rows, 1))) * np.exp(UNEVEN * draw.normal(size=(1, cols)))
            strong = np.outer(draw.normal(size=rows), draw.normal(size=cols))
            x *= math.sqrt(1 - STRONG) / np.linalg.norm(x)
            x += strong * (math.sqrt(STRONG) / np.linalg.norm(strong))
        threshold = np.quantile(np.abs(x), quantile)
        values = np.linalg.svd(np.clip(x, -threshold, threshold), compute_uv=False)
        found.append(values / np.linalg.norm(values))
    return np.array(found)


ASPECTS = (1.0, 1.19, 1.42, 1.69, 2.0, 2.83, 4.0, 5.66, 8.0, 16.0)
STEPS = (3, 4, 5, 6)


def law(aspect: float, side: int = 96) -> float:
    """:func:`reach` for this aspect ratio, in units of ``1 / sqrt(smaller side)``: singular values scale so."""
    import numpy as np

    values = sampled(side, round(side * aspect), matrices=40)
    return float(np.quantile(values, LEFT_OUT)) * math.sqrt(side)


def fits(steps: int) -> list[tuple[float, float, float, float, float]]:
    """(from, a, b, c, miss): fits that each reach a factor sqrt(2) farther down, the last to :data:`MISS`."""
    rows: list[tuple[float, float, float, float, float]] = []
    start, lower = None, 2.0**-1.5
    while True:
        found, error = nearest(lower, steps, [*([start] if start else []), *STARTS])
        last = error > MISS
        if last:
            found, lower, error = _at_bound(lower, steps, start or found, MISS)
        start = found
        rows.append((lower, *found, error))
        if last:
            return rows
        lower /= math.sqrt(2)


def main() -> None:
    import numpy as np

    print("LAW = (")
    for aspect in ASPECTS:
        print(f"    ({aspect}, {law(aspect):.4f}),")
    print(")\n\nFITS = {")
    for steps in STEPS:
        print(f"    {steps}: (")
        for lower, *found, _ in fits(steps):
            kept = [round(x, 5) for x in found]
            lower = math.ceil(lower * 1e6) / 1e6
            error = worst(kept, np.geomspace(lower, TOP, 20001), steps)
            print(f"        ({lower:.6f}, {kept[0]}, {kept[1]}, {kept[2]}, {error:.4f}),")
        print("    ),")
    print("}")


if __name__ == "__main__":
    main()
