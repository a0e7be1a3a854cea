"""The command line: one module per verb, imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from steepest.core.errors import BadInput, SteepestError, UnknownName

VERBS = {
    "race": "compare optimizers fairly on real text and write a report page",
    "study": "ask a whole study's question: price it, run it, see how it stands",
    "report": "draw the page and the files of a finished race or study again",
    "import": "read others' records (CSV, Parquet, W&B) as runs that the lab judges",
    "power": "seeds that a difference takes, and what a study could have seen",
    "recommend": "which optimizer the evidence speaks for at a scale, and how strongly",
    "replay": "judge a published study again from its released numbers",
    "train": "train one model with one optimizer",
    "runs": "list recorded runs, finished or under way",
    "corpus": "build or inspect token shards from text",
    "verify": "replay recorded trajectories of the authors' code",
    "bench": "time optimizer steps on your model's shapes against the machine's bound",
    "memory": "what weights, gradients and state take, and which optimizers fit",
    "list": "the optimizers, one line each",
    "show": "one optimizer: pseudocode, hyperparameters, memory, paper, quirks",
    "info": "torch, compiler, devices, engines usable here",
}


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong option is one line on stderr like every other bad input."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; `{self.prog} --help` tells the options")


def _help() -> str:
    lines = ["usage: steepest VERB [options]", "", "verbs:"]
    lines += [f"  {verb:<9} {summary}" for verb, summary in VERBS.items()]
    lines += ["", "`steepest VERB --help` tells the options of one verb."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``steepest``.

    Exit status: 0 done, 1 the verb's own "no", 2 bad input, 130 interrupted.
    """
    # Not list(): the verb of that name, once imported, is an attribute of this module.
    words = [*(sys.argv[1:] if argv is None else argv)]
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        from steepest import __version__

        print(f"steepest {__version__}")
        return 0
    try:
        if words[0] not in VERBS:
            raise UnknownName.among("verb", words[0], VERBS)
        module = importlib.import_module(f"steepest.cli.{words[0]}")
        parser = Parser(prog=f"steepest {words[0]}", description=module.__doc__)
        module.configure(parser)
        return int(module.run(parser.parse_args(words[1:])))
    except SteepestError as error:
        print(f"steepest: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("steepest: interrupted; the same command again goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `steepest list | head`: the reader has gone; point stdout elsewhere so that the exit stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
