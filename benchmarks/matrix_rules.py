"""Newton-Schulz, Muon, SOAP and Kron on a decoder's hidden matrices, over the product bound and beside peers.

    python benchmarks/matrix_rules.py [--models SHAPES ...] [--rounds 5] [--optimizers muon soap:...]

A block is a whole turn of the calendar (ten steps of SOAP and Kron, one of which is a refresh), so that its mean
holds the refreshes; the slowest step is told beside it. All contenders have the same hyperparameters, the peers
their own working types (bfloat16 in Newton-Schulz, all of them). Peers that are not installed are left out, named.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from _script import command, engines_here, options, overhead, save, setting, shown, tell
from torch import Tensor

from steepest.core.rule import hyperparameters
from steepest.lab.bench import table
from steepest.lab.bench.bounds import Types, Work, newton_schulz_flops, side_of
from steepest.lab.bench.deciles import summary
from steepest.lab.bench.entries import contenders
from steepest.lab.bench.measure import Setting, measure, silent
from steepest.lab.bench.peers import timm_module
from steepest.lab.bench.rates import products, rate
from steepest.lab.bench.shapes import Shapes, shapes_of
from steepest.lab.bench.timing import Block, interleaved, timed
from steepest.linalg.newton_schulz import KELLER, fast_dtype, orthogonalise
from steepest.registry import rule_named

MODELS = ["384x384:24,1536x384:6,384x1536:6", "768x768:16,3072x768:4,768x3072:4"]
"""The hidden matrices of 6 layers of width 384, 10.6M weights, and of 4 layers of width 768, 28.3M."""
STEPS = 5
SOAP = "soap:betas=(0.95,0.95),max_precond_dim=10000,precondition_frequency=10"
KRON = "kron:update_probability=0.1,max_size_triangular=2048"
"""One update of the factors in ten steps; beyond 2,048 a factor is diagonal, as timm and heavyball choose."""
SPREAD = [f"{SOAP},spread=True"] if "spread" in hyperparameters(rule_named("soap")) else []
BOTH: Types = ("float32", "bfloat16")
Iteration = Callable[[Tensor], Tensor]


def iterations() -> dict[str, Callable[[], Iteration]]:
    """Newton-Schulz as each package has it, with five steps."""

    def of_module(name: str, function: str, **options: Any) -> Iteration:
        module = timm_module(name) if name.startswith("timm") else importlib.import_module(name)
        return partial(getattr(module, function), **options)

    coefficients = {"ns_coefficients": KELLER, "ns_steps": STEPS, "eps": 1e-7}
    keller = {"steps": STEPS, "coefficients": [KELLER]}
    return {
        "torch": partial(of_module, "torch.optim._muon", "_zeropower_via_newtonschulz", **coefficients),
        "pytorch_optimizer": partial(
            of_module, "pytorch_optimizer.optimizer.utils.matrix", "zero_power_via_newton_schulz_5"
        ),
        "heavyball": partial(of_module, "heavyball.utils", "zeropower_via_newtonschulz5", steps=STEPS),
        "timm": partial(of_module, "timm.optim.muon", "zeropower_via_newtonschulz", **keller),
    }


def newton_schulz(shapes: Shapes, where: Setting) -> dict[str, Any]:
    """The iteration alone on all matrices of the model: seconds, and over the product bound of each round."""
    matrices = [p.detach() for _, p in shapes.allocated(where.device, where.dtype)]
    stacks = [torch.stack([m for m in matrices if m.shape == shape]) for shape in {m.shape for m in matrices}]
    need: dict[tuple[int, Types], float] = {}
    for matrix in matrices:
        key = side_of(tuple(matrix.shape)), BOTH
        need[key] = need.get(key, 0.0) + newton_schulz_flops(tuple(matrix.shape), STEPS)
    work = Work(0.0, need)

    def ours() -> None:
        for stack in stacks:
            orthogonalise(stack, STEPS, dtype=fast_dtype(stack))

    actions: dict[str, Callable[[], object]] = {"steepest": ours}
    skipped = []
    for name, load in iterations().items():
        try:
            with silent():
                actions[name] = quicker(load(), matrices, stacks, where)
        except Exception as error:  # a foreign package may raise anything at all
            skipped.append({"name": name, "reason": f"{type(error).__name__}: {error}".partition("\n")[0]})
            tell(f"left out: Newton-Schulz of {name}: {skipped[-1]['reason']}")
    probes = {key: products(*key, where.device) for key in need}
    blocks: dict[str, Callable[[], Block]] = {
        name: partial(timed, action, 2, where.device) for name, action in actions.items()
    }
    blocks |= {probe.what: partial(probe.block, where.device) for probe in probes.values()}
    ours()
    rounds = interleaved(blocks, where.rounds, until=where.until)
    bounds = [
        work.seconds(1.0, {key: rate(p, block) for (key, p), block in zip(probes.items(), turn, strict=True)})[1]
        for turn in zip(*(rounds.blocks[probe.what] for probe in probes.values()), strict=False)
    ]
    rows = []
    for name in actions:
        means = [block.mean for block in rounds.blocks[name]]
        over = [mean / bound for mean, bound in zip(means, bounds, strict=False)]
        rows.append({"name": name, "step": summary(means), "over_bound": summary(over), "seconds": means})
    what = [probe.what for probe in probes.values()]
    return {
        "steps": STEPS,
        "flops": work.flops,
        "bound": summary(bounds),
        "rates": what,
        "rows": rows,
        "skipped": skipped,
    }


def quicker(
    iterate: Iteration, matrices: list[Tensor], stacks: list[Tensor], where: Setting
) -> Callable[[], object]:
    """The iteration over single matrices, or over stacks if it takes them and is quicker so."""

    def over(tensors: list[Tensor]) -> None:
        for tensor in tensors:
            iterate(tensor)

    forms = [partial(over, matrices)]
    forms[0]()
    with suppress(AssertionError, ValueError, RuntimeError):
        over(stacks)
        forms.append(partial(over, stacks))
    return min(forms, key=lambda form: min(timed(form, 2, where.device).seconds))


def by_rule(specs: list[str]) -> dict[str, list[str]]:
    """Specs of one rule are measured together, beside the peers of the first."""
    found: dict[str, list[str]] = {}
    for spec in specs:
        found.setdefault(spec.partition(":")[0], []).append(spec)
    return found


def main() -> None:
    parser = options(__doc__, "matrix_rules", rounds=5)
    parser.add_argument("--models", nargs="+", default=MODELS, help="presets, gpt2, files or shapes")
    parser.add_argument(
        "--optimizers", nargs="+", default=["muon", SOAP, *SPREAD, KRON], help="as steepest race takes them"
    )
    args = parser.parse_args()
    where = setting(args)
    engines = engines_here()
    record: dict[str, Any] = {"newton_schulz": [], "models": []}
    for model in args.models:
        shapes = shapes_of(model)
        tell(f"{model}: Newton-Schulz alone")
        alone = newton_schulz(shapes, where)
        record["newton_schulz"].append({"model": model, "weights": shapes.weights, **alone})
        for row in alone["rows"]:
            took, over = table.seconds(row["step"]["median"]), table.spread(row["over_bound"])
            print(f"Newton-Schulz of {row['name']:20s} {took:>8s}  x bound {over}")
        for rule, specs in by_rule(args.optimizers).items():
            tell(f"{model}: {rule}")
            entries = contenders(specs, engines, shapes, where.dtype, True)
            result = measure(entries, shapes, where, command(), tell)
            record["models"].append(result)
            save(args.out, record, where.device)
            shown(result)
    tell("what one more matrix costs")
    record["overhead"] = overhead(["muon"], engines, "16x16", where)
    save(args.out, record, where.device)


if __name__ == "__main__":
    main()
