"""Copy trajectories into this folder without what their replay does not read.

Run: python tests/oracles/compact.py FOLDER OPTIMIZER...

What goes: arrays that neither the kit compares (param/...) nor a rule is fed at or before the first step.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

UNREAD = ("extra/GG/", "extra/exp_avg", "extra/exp_avg_sq")
HERE = Path(__file__).parent


def read_by_replay(key: str) -> bool:
    """Bases after the first step are the rule's own work, and are not injected."""
    later_basis = key.startswith("extra/Q/") and not key.startswith("extra/Q/000/")
    return not key.startswith(UNREAD) and not later_basis


def compact(folder: Path, optimizer: str) -> None:
    for told in sorted((folder / optimizer).glob("*.json")):
        target = HERE / optimizer / told.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(told, target)
        with np.load(told.with_suffix(".npz")) as arrays:
            np.savez_compressed(
                target.with_suffix(".npz"), **{key: arrays[key] for key in arrays.files if read_by_replay(key)}
            )


if __name__ == "__main__":
    source = Path(sys.argv[1])
    shutil.copyfile(source / "inputs.npz", HERE / "inputs.npz")
    for name in sys.argv[2:]:
        compact(source, name)
