"""Train one model with one optimizer; killed or interrupted, the same command goes on where it was."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.cli import settings
from steepest.cli.corpus import progress as corpus_progress
from steepest.core.errors import BadInput

if TYPE_CHECKING:
    from steepest.lab.config import Plan, RunConfig
    from steepest.lab.corpus import Corpus
    from steepest.lab.train import Progress, RunResult

SUMMARY = "train one model with one optimizer"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``steepest train``."""
    add = parser.add_argument
    add("config", nargs="?", type=Path, help="TOML file with the settings; flags go over it")
    add("--optimizer", metavar="SPEC", help="muon, muon:momentum=0.9, ./mine.py:MyRule, torch:AdamW (adamw)")
    add("--lr", help="learning rate (the middle of the optimizer's first search grid)")
    add("--model", metavar="PRESET", help="20k, 50k, ... by non-embedding weights (50k)")
    add("--tokens", help="training tokens; or --ratio")
    add("--ratio", help="tokens / (20 x non-embedding weights) (1)")
    settings.configure(
        parser,
        seed="of the weights and the order of the text (0)",
        sets="any setting: schedule.warmup=0.05, clip=0",
    )
    add("--threads", type=int, default=1, help="of torch; the same number gives the same bits (1)")
    add("--out", type=Path, default=Path("runs"), help="where the records lie (runs)")
    add("--mirror", action="append", default=[], help="show the record in tensorboard or wandb, too")
    add("--sample", metavar="N", type=int, default=0, help="at the end print N tokens of the model's own text")
    add("--prompt", default="", help="what that text goes on from")
    add("--json", action="store_true", help="print the result as JSON")
    add("--dry-run", action="store_true", help="print what would be trained, and stop")


def run(args: argparse.Namespace) -> int:
    """0: finished; 1: diverged."""
    from steepest.lab import corpus as corpora
    from steepest.lab.config import plan
    from steepest.lab.mirrors import mirror
    from steepest.lab.train import load_model, sample_text, train
    from steepest.registry import resolve

    if args.sample < 0:
        raise BadInput(f"--sample {args.sample}: give the number of tokens to print, or leave it out")
    config = _config(args)
    resolve(config.optimizer.spec)  # a misspelt name is answered before a corpus is built
    mirrors = [mirror(name) for name in args.mirror]
    with corpus_progress() as preparing:
        corpus = corpora.prepare(config.corpus, args.out / "corpora", preparing)
    planned = plan(config, corpus.manifest)
    if args.dry_run:
        _print(_facts(planned, corpus, args.out), args.json)
        return 0
    with _training_bar(planned) as progress:
        result = train(config, args.out, corpus=corpus, progress=progress, threads=args.threads, mirrors=mirrors)
    text = None
    if args.sample and result.status == "finished":
        model = load_model(result.folder)
        text = sample_text(model, corpus, args.sample, prompt=args.prompt, context=config.seq, seed=config.seed)
    _print(_facts(planned, corpus, args.out) | _ending(result) | ({"sample": text} if text else {}), args.json)
    return 0 if result.status == "finished" else 1


def _config(args: argparse.Namespace) -> RunConfig:
    """The file, the flags over it, and ``--set`` over both.

    ``--optimizer`` and ``--model`` replace the file's whole table: a rate belongs to its optimizer.
    """
    from steepest.lab.config import RunConfig
    from steepest.lab.settings import merged, read_toml

    values = read_toml(args.config) if args.config else {}
    settings.put_flags(values, args)
    return RunConfig.from_mapping(merged(values, args.set))


def _facts(planned: Plan, corpus: Corpus, out: Path) -> dict[str, Any]:
    from steepest.lab.batches import passes
    from steepest.lab.model import Decoder, non_embedding

    model = Decoder(planned.model, device="meta")
    return {
        "optimizer": planned.contender.name,
        "lr": planned.lr,
        "model": planned.config.model.preset,
        "non_embedding": non_embedding(planned.model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "corpus": corpus.manifest["source"],
        "vocab_size": corpus.vocab_size,
        "steps": planned.steps,
        "tokens": planned.tokens,
        "passes": passes(corpus, planned.tokens),
        "record": str(out / planned.identity[:16]),
    }


def _ending(result: RunResult) -> dict[str, Any]:
    return {
        "status": result.status,
        "reason": result.reason,
        "present": result.present,
        "val_loss": result.val_loss,
        "val_bits_per_byte": result.val_bits_per_byte,
        "seconds": result.seconds,
        "optimizer_seconds": result.optimizer_seconds,
        "estimate_seconds": result.estimate_seconds,
        "tokens_per_second": result.tokens / max(result.seconds, 1e-9),
        "spikes": result.spikes,
    }


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    f = facts
    print(f"{f['optimizer']}, lr {f['lr']:g}")
    print(f"model {f['model']}: {f['non_embedding']:,} non-embedding weights, {f['parameters']:,} in all")
    print(f"corpus: {f['corpus']}, vocabulary {f['vocab_size']:,}")
    print(f"{f['steps']:,} steps, {f['tokens']:,} tokens, {f['passes']:.2f} passes over the training text")
    if "status" in f:
        if f["status"] == "finished":
            again = " (before; a finished run is not trained again)" if f["present"] else ""
            share, asked = (f[k] / max(f["seconds"], 1e-9) for k in ("optimizer_seconds", "estimate_seconds"))
            print(
                f"finished{again} in {f['seconds']:.1f} s: {f['tokens_per_second']:,.0f} tokens/s, "
                f"{share:.0%} of the time in the optimizer"
                + (f", {asked:.0%} in what it asks for beside the gradient" if asked else "")
            )
            print(f"validation {f['val_loss']:.4f} nats/token, {f['val_bits_per_byte']:.4f} bits/byte")
        else:
            print(f"diverged: {f['reason']}; a smaller lr or a longer warm-up may help")
        print(_spikes(f["spikes"]))
    print(f"record: {f['record']}")
    if "sample" in f:
        print(f"\n{f['sample']}")


def _spikes(found: dict[str, Any]) -> str:
    """``spikes: loss 0.25 %, gradient norm 0.75 % of the steps ...``."""
    shares = {"loss": found["loss"]["spike_score"], "gradient norm": found["gradient_norm"]["spike_score"]}
    if None in shares.values():
        return "spikes: the run is too short to say"
    told = ", ".join(f"{what} {share:.3g} %" for what, share in shares.items())
    return f"spikes: {told} of the steps, 7 sigma from the mean of those before"


@contextmanager
def _training_bar(planned: Plan) -> Iterator[Callable[[Progress], None]]:
    """rich's bar in a terminal; elsewhere a plain line now and then. On stderr."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
    except ImportError:
        yield _plain_line
        return
    if not console.is_terminal:
        yield _plain_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("starting", total=planned.steps)

        def progress(now: Progress) -> None:
            bar.update(task, completed=now.step, description=_words(now))

        yield progress


def _plain_line(now: Progress) -> None:
    end = "\n"
    if sys.stderr.isatty():
        end = "\n" if now.step == now.steps else "\r"
    elif now.step % max(1, now.steps // 10) and now.step != now.steps:
        return
    print(f"{now.step}/{now.steps}  {_words(now)}  {now.seconds_left:.0f} s left ", end=end, file=sys.stderr)


def _words(now: Progress) -> str:
    return f"loss {now.loss:.3f}  lr {now.lr:.2e}  {now.tokens_per_second:,.0f} tokens/s"
