"""What a study could have seen with its seeds, and the seeds that it takes to see more.

The evidence (runs, a race.json, a study.json) says how noisy a run is, what tokens are worth and how much was
repeated (:class:`Known`); :func:`planned` turns that into the ``power`` section of the evidence document.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from steepest.core.errors import BadInput
from steepest.lab.analysis.noise import Repeats, sd_interval, seed_noise, tabled
from steepest.lab.analysis.power import Design, gap_of, needed, seen, share_of
from steepest.lab.analysis.runs import Place

CURVE = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)
"""Seeds at which the smallest detectable difference is told."""


@dataclass(frozen=True)
class Known:
    """What is known before seeds are planned.

    sd, freedom: nats/token, of what a run does not share with the others under its seed, and how well that is
    known (None: exactly). seeds: that the study had for each winner, None without a study. optimizers, places:
    over which the noise was pooled. slopes: -dL / d ln D of the baseline's law, by place. source: where from.
    elsewhere: the freedom is not that of the study's own seeds, and adds to theirs.
    """

    sd: float
    freedom: float | None = None
    seeds: int | None = None
    optimizers: int = 2
    places: int = 1
    slopes: Mapping[Place, float] = field(default_factory=dict)
    source: str = "given"
    elsewhere: bool = False


def of_repeats(repeated: Iterable[Repeats], slopes: Mapping[Place, float]) -> Known | None:
    """From settings with repeated seeds; None where nothing was repeated."""
    repeated = [*repeated]
    noise = seed_noise(repeated)
    if noise is None or noise.own_sd == 0:
        return None
    tables = [*tabled(repeated).values()]
    # The commonest number of seeds is the study's: a lone cell may have been given more.
    sizes = Counter(len(row.losses) for row in repeated)
    return Known(
        noise.own_sd,
        noise.own_freedom,
        sizes.most_common(1)[0][0],
        max(2, *map(len, tables)),
        max(1, sum(len(rows) > 1 for rows in tables)),
        slopes,
        f"{sum(len(r.losses) for r in repeated)} runs of {len(repeated)} settings with two seeds or more",
    )


def of_race(race: Mapping[str, Any]) -> Known:
    """From the content of a race.json. BadInput where its seeds tell no noise."""
    noise, law, setup = race.get("noise") or {}, race.get("law"), race["setup"]
    sd = noise.get("own_sd", noise.get("sd"))
    if not sd:
        raise BadInput(
            "this race has one seed, or no optimizer with all of them: its noise is not known, give --sd"
        )
    slopes = {}
    if law is not None and law.get("alpha"):
        slope = law["exponent"] * law["alpha"] * setup["tokens"] ** -law["exponent"]
        slopes = {Place(setup["model_name"], setup["tokens"]): slope}
    ended = sum((result["final"] or {}).get("mean") is not None for result in race["results"].values())
    freedom = noise.get("own_freedom", noise.get("freedom"))
    return Known(sd, freedom, len(setup["seeds"]), max(2, ended), 1, slopes, noise["from"])


def of_study(study: Mapping[str, Any]) -> Known:
    """From the content of a study.json, whose power section holds it. BadInput where it has none."""
    power = study.get("power") or {}
    if not power.get("sd"):
        raise BadInput(
            "this study has no power section, for want of repeated seeds: its noise is not known, give --sd"
        )
    slopes = {Place(p["size"], p["tokens"], p["variant"]): p["slope"] for p in power["at"]}
    kept = ("sd", "freedom", "seeds", "optimizers", "places", "source", "elsewhere")
    return Known(**{key: power[key] for key in kept}, slopes=slopes)


def planned(
    known: Known, design: Design | None = None, *, gap: float | None = None, share: float = 0.01
) -> dict[str, Any]:
    """The ``power`` section: what the study could have seen, and the seeds that ``gap`` or ``share`` take.

    design: its optimizers and places give way to those of ``known``. gap: nats/token; share: of tokens, told at
    every place that has a slope. The curve is told for seeds 2 to 100.
    """
    prior = (known.freedom or 0.0) if known.elsewhere else 0.0
    design = replace(design or Design(), optimizers=known.optimizers, places=known.places, known=prior)
    low, high = (None, None) if known.freedom is None else sd_interval(known.sd, known.freedom, design.level)
    least = None if known.seeds is None else seen(known.sd, known.seeds, design, freedom=known.freedom)
    wanted = None if gap is None else needed(gap, known.sd, design, freedom=known.freedom)
    at = []
    for place, slope in known.slopes.items():
        found = needed(gap_of(share, slope), known.sd, design, freedom=known.freedom)
        row = {**place._asdict(), "slope": slope, **asdict(found), "share": share}
        at.append(row | {"seen_share": None if least is None else _finite(share_of(least.gap, slope))})
    only = next(iter(known.slopes.values())) if len(known.slopes) == 1 else None
    at_seeds = sorted({*CURVE, known.seeds or CURVE[0], 1 if prior else CURVE[0]})
    told: dict[str, Any] = {
        "sd": known.sd,
        "low": low,
        "high": high,
        "freedom": known.freedom,
        "source": known.source,
        **asdict(design),
        "elsewhere": known.elsewhere,
        "seeds": known.seeds,
        "seen": None if least is None else asdict(least),
        "wanted": None if wanted is None else asdict(wanted),
        "at": at,
        "curve": [asdict(seen(known.sd, n, design, freedom=known.freedom, slope=only)) for n in at_seeds],
    }
    return told | {"text": sentences(told)}


def sentences(told: Mapping[str, Any]) -> list[str]:
    """The section in words."""
    said = []
    sure = f"in {_percent(told['power'])} of cases, intervals at {_percent(told['level'])}"
    if told["comparisons"] > 1:
        sure += f", corrected for {told['comparisons']} comparisons"
    seen = told["seen"]
    if seen is not None:
        who = f"{told['seeds']} seeds tell" if told["seeds"] > 1 else "one seed tells"
        worth = [at["seen_share"] for at in told["at"] if at["seen_share"] is not None]
        tokens = f", which is worth {_span(worth)} of the tokens" if worth else ""
        told_apart = f"{who} two optimizers apart that differ by {seen['gap']:.2g} nats/token ({sure}){tokens}"
        said.append(f"{told_apart}; a smaller difference is missed more often")
    if told["at"]:
        most = max(told["at"], key=lambda at: at["slope"])
        least = min(told["at"], key=lambda at: at["slope"])
        words = f"{_percent(least['share'])} of the tokens would take {_seeds(least)} at this noise"
        if most["seeds"] != least["seeds"]:
            words += (
                f" where they are worth least ({least['gap']:.2g} nats/token), {count(most['seeds'])} where most"
            )
        said.append(words)
    if told["wanted"] is not None:
        said.append(f"{told['wanted']['gap']:.2g} nats/token take {_seeds(told['wanted'])} at this noise")
    return said


def count(seeds: int | None) -> str:
    """``551``; past ten million none are counted."""
    return "more than 10,000,000" if seeds is None else f"{seeds:,}"


def _seeds(row: Mapping[str, Any]) -> str:
    known = "" if row["low"] is None else f" ({count(row['low'])} to {count(row['high'])} as far as it is known)"
    return f"{count(row['seeds'])} seed{'' if row['seeds'] == 1 else 's'}{known}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"


def _span(shares: Sequence[float]) -> str:
    low, high = _percent(min(shares)), _percent(max(shares))
    return low if low == high else f"{low} to {high}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
