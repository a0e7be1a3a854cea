"""One gradient times 100 in the middle of a small model's training, for every optimizer; a figure for each.

    python benchmarks/robustness.py [--only adamw muon ...] [--threads 1]

Each optimizer trains the same small decoder on the same batches with its recipe and the middle of its first
learning rates, gradients clipped to norm 1, warm-up, then a constant rate. Then there are two twins: what one
of them is given at the next step is its clipped gradient times 100; nothing else differs. The record holds both
losses, that of the weights before the strike on the same batches, and the size of every step (the root of the
mean square over all weights of what they moved by). The struck twin's loss is back when it is again, averaged
over 10 steps, no higher than that of the weights before the strike; how far it ends behind the other twin is
told, too. A few seconds an optimizer; what --only leaves out keeps its numbers. The figures are
docs/robustness/NAME.svg.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _script import RESULTS, save, tell
from torch import Tensor

from steepest.lab import runtime
from steepest.lab.batches import batch
from steepest.lab.bench.figure import asset
from steepest.lab.config import RunConfig
from steepest.lab.corpus import DEFAULT_ROOT, Corpus, CorpusConfig, prepare
from steepest.lab.estimate import Estimator
from steepest.lab.model import Decoder
from steepest.lab.presets import preset
from steepest.lab.report.svg import Board, Scale
from steepest.registry import resolve, rules

FIGURES = Path(__file__).parents[1] / "docs" / "robustness"
MODEL, BATCH, SEQ, SEED = "20k", 8, 64, 0
WARMUP, SPIKE, AFTER, USUAL, SMOOTH = 20, 100, 200, 20, 10
FACTOR = 100.0
CONFIG = RunConfig(batch=BATCH, seq=SEQ, seed=SEED, clip=1.0)
SETTING = {
    "model": f"{MODEL} decoder on bytes, {BATCH} × {SEQ} tokens a step",
    "spike": SPIKE,
    "after": AFTER,
    "factor": FACTOR,
    "smooth": SMOOTH,
}


class Walk:
    """A model in training, with the loss and the size of each of its steps."""

    def __init__(self, name: str, corpus: Corpus) -> None:
        contender = resolve(name).of_run(SPIKE + AFTER)
        self.corpus = corpus
        self.lr = contender.lr_grid[len(contender.lr_grid) // 2]
        self.model = Decoder(replace(preset(MODEL), vocab=corpus.vocab_size), SEED)
        self.optimizer = contender.build(self.model, lr=self.lr)
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.losses: list[float] = []
        self.sizes: list[float] = []

    def step(self, factor: float = 1.0) -> None:
        """One step on the next batch; what the optimizer sees is the clipped gradient times ``factor``."""
        t = len(self.losses)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * min(1.0, (t + 1) / WARMUP)
        loss, _ = runtime.backward(self.model, self.batch(t), 1, "fp32")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        before = self.weights()
        for p in self.model.parameters():
            if p.grad is not None:
                p.grad.mul_(factor)
        Estimator(self.model, CONFIG, self.corpus, torch.device("cpu")).step(self.optimizer, t + 1)
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss)
        self.sizes.append(float((self.weights() - before).square().mean().sqrt()))

    def batch(self, t: int) -> Tensor:
        return batch(self.corpus, seed=SEED, step=t, size=BATCH, seq=SEQ)

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def twin(self) -> Walk:
        """The same moment once more, to go another way from here."""
        other = copy.copy(self)
        other.model, other.optimizer = copy.deepcopy((self.model, self.optimizer))
        other.losses, other.sizes = [*self.losses], [*self.sizes]
        return other


def struck(name: str, corpus: Corpus) -> dict[str, Any]:
    """What one gradient times 100 does to this optimizer."""
    calm = Walk(name, corpus)
    for _ in range(SPIKE):
        calm.step()
    held = copy.deepcopy(calm.model)
    hit, before = calm.twin(), []
    hit.step(FACTOR)
    calm.step()
    for _ in range(AFTER):
        calm.step()
        with torch.no_grad():
            before.append(held.loss(calm.batch(len(calm.losses) - 1)).nll.item())
        if math.isfinite(hit.losses[-1]):
            hit.step()
    usual = statistics.median(calm.sizes[SPIKE - USUAL : SPIKE])
    after = hit.losses[SPIKE + 1 :]
    later = [size / usual for size in hit.sizes[SPIKE + 1 :] if math.isfinite(size)]
    start = SPIKE - USUAL
    return {
        "lr": calm.lr,
        "finite": bool(hit.weights().isfinite().all()),
        "step_over_median": rounded(hit.sizes[SPIKE] / usual),
        "largest_later_over_median": rounded(max(later, default=math.nan)),
        "steps_until_back": steps_until_back([a - b for a, b in zip(after, before, strict=False)]),
        "gap_at_end": rounded(statistics.fmean(after[-SMOOTH:]) - statistics.fmean(calm.losses[-SMOOTH:])),
        "loss": {
            "untouched": shown(calm.losses[start:]),
            "struck": shown(hit.losses[start:]),
            "before": shown(before),
        },
        "step": {
            "untouched": shown([size / usual for size in calm.sizes[start:]]),
            "struck": shown([size / usual for size in hit.sizes[start:]]),
        },
    }


def steps_until_back(gaps: list[float]) -> int | None:
    """The first step after the strike from which :data:`SMOOTH` gaps have a mean of zero or less; None if none."""
    means = (statistics.fmean(gaps[t : t + SMOOTH]) for t in range(len(gaps) - SMOOTH + 1))
    return next((t for t, mean in enumerate(means, start=1) if mean <= 0), None)


def rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def shown(values: list[float]) -> list[float | None]:
    return [rounded(value) for value in values]


def drawn(name: str, found: dict[str, Any]) -> Board:
    """The loss of both twins around the struck step, and below it the size of their steps in median steps."""
    board = Board(420, 384, f"{name}: training loss and size of the steps around a gradient times {FACTOR:g}")
    x = Scale(-USUAL, AFTER, 44, 408)
    panels = (
        ("loss", "training loss, nats/token", 62, 214),
        ("step", "size of the step, in median steps", 262, 336),
    )
    for kind, title, top, bottom in panels:
        curves = {
            twin: [(t, v) for t, v in enumerate(values, 1 if twin == "before" else -USUAL) if v]
            for twin, values in found[kind].items()
        }
        heights = [value for points in curves.values() for _, value in points]
        heights += [0.5, 2.0] if kind == "step" else []  # a step that stays what it was looks so
        y = Scale.around(heights, bottom, top, log=max(heights) > 3 * min(heights))
        words = "steps after the struck one" if kind == "step" else ""
        board.axes(x, y, words, title, "{:g}".format, "{:.3g}".format, range(0, AFTER + 1, 50), 4)
        board.line(x(0), top, x(0), bottom, "flip")
        for twin, css in (("before", "leader"), ("untouched", "curve c0"), ("struck", "curve c2")):
            points = [(x(t), y(value)) for t, value in curves.get(twin, ())]
            if len(points) > 1:
                board.path(points, css)
        if kind == "loss" and found["steps_until_back"]:
            back = found["steps_until_back"]
            board.line(x(back), top, x(back), bottom, "guide")
            board.text(x(back) + 4, top + 10, f"back after {back}", "note")
    for place, words, css in ((2, "gradient × 100", "name c2"), (120, "untouched twin", "name c0")):
        board.text(place, 14, words, css)
    board.text(236, 14, "dotted: weights before", "note")
    return board


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these optimizers (all)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (1)")
    parser.add_argument("--out", type=Path, default=RESULTS / "robustness.json", help="where the results go")
    args = parser.parse_args()
    names = [resolve(name).name for name in args.only] or [*rules()]
    torch.set_num_threads(args.threads)
    corpus = prepare(CorpusConfig(tokenizer="bytes", max_bytes=4 << 20), DEFAULT_ROOT)
    present = json.loads(args.out.read_text(encoding="utf-8"))["rules"] if args.out.exists() else {}
    for name in names:
        present[name] = found = struck(name, corpus)
        tell(
            f"{name}: {'finite' if found['finite'] else 'NOT finite'}, {found['step_over_median']} median steps, "
            f"back after {found['steps_until_back']}, {found['gap_at_end']} nats above at the end"
        )
        whole = {"command": "python benchmarks/robustness.py", "setting": SETTING}  # which remakes all of it
        save(args.out, {**whole, "rules": dict(sorted(present.items()))})
        FIGURES.mkdir(parents=True, exist_ok=True)
        picture = drawn(name, found).standalone(asset("figures.css"))
        (FIGURES / f"{name}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
