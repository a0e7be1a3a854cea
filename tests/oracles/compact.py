"""Copy trajectories into this folder without what their replay does not read.

Run: python tests/oracles/compact.py FOLDER OPTIMIZER...

What goes: arrays that neither the kit compares (param/...) nor a rule is fed at or before the first step, and the
later steps of optimizers that are given many random numbers, which do not compress.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

UNREAD = ("extra/GG/", "extra/exp_avg", "extra/exp_avg_sq")
UNREAD_OF = {"psgd_kron": ("extra/Q/", "extra/L/")}
LAST = {"psgd_kron": 2, "adahessian": 5}
LAST |= dict.fromkeys(
    ("mezo", "zo_sgd", "zo_sgd_mmt", "zo_sgd_sign", "zo_adam", "zo_block", "forward_grad"), 2
) | {"zo_sgd_cons": 5}
"""The last step that is kept; all are kept of the others."""
HERE = Path(__file__).parent


def read_by_replay(key: str) -> bool:
    """Bases after the first step are the rule's own work, and are not injected."""
    later_basis = key.startswith("extra/Q/") and not key.startswith("extra/Q/000/")
    return not key.startswith(UNREAD) and not later_basis


def step_of(key: str) -> int:
    """The step that an array is of, 0 for one that is of none."""
    return next((int(word) for word in key.split("/") if len(word) == 3 and word.isdigit()), 0)


def compact(folder: Path, optimizer: str) -> None:
    unread, last = UNREAD_OF.get(optimizer, ()), LAST.get(optimizer)
    for path in sorted((folder / optimizer).glob("*.json")):
        target = HERE / optimizer / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        with np.load(path.with_suffix(".npz")) as arrays:
            keys = [key for key in arrays.files if read_by_replay(key) and not key.startswith(unread)]
            if last is not None:
                keys = [key for key in keys if step_of(key) <= last]
                told = json.loads(path.read_text())
                told["steps_kept"] = [t for t in told["steps_kept"] if t <= last]
                target.write_text(json.dumps(told, indent=1))
            np.savez_compressed(target.with_suffix(".npz"), **{key: arrays[key] for key in keys})


if __name__ == "__main__":
    source = Path(sys.argv[1])
    shutil.copyfile(source / "inputs.npz", HERE / "inputs.npz")
    for name in sys.argv[2:]:
        compact(source, name)
