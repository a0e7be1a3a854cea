"""Real processes over gloo: they do what the simulation does, and the page's example runs under torchrun."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 240
pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="no gloo here")

WORKER = """
import hashlib, json, sys
from datetime import timedelta

import torch
import torch.distributed as dist
from cases import give_gradients, weights

import steepest
from steepest.core.errors import BadInput
from steepest.distributed import simulated

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
limit = timedelta(seconds=120)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world, timeout=limit)
told = {"hashes": [], "errors": []}


def hashed(named):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in named.values())).hexdigest()


def stepped(optimizer, named, t):
    give_gradients(named, 100 * t + rank)
    optimizer.step()
    told["hashes"].append(hashed(named))


for fusion in ("tensor", "joined"):
    named = weights(torch.float32)
    options = {"lr": 0.01, "freeze_step": 2, "fusion": fusion}
    optimizer = steepest.OneBitAdam(list(named.items()), group="world", **options)
    for t in range(4):
        stepped(optimizer, named, t)
    # Saved and loaded by everyone, and on.
    again = {n: torch.nn.Parameter(p.detach().clone()) for n, p in named.items()}
    resumed = steepest.OneBitAdam(list(again.items()), group=dist.group.WORLD, **options)
    resumed.load_state_dict(optimizer.state_dict())
    stepped(resumed, again, 4)
    told[fusion] = {"sent": optimizer.workers.sent, "last": {n: p.tolist() for n, p in again.items()}}

adamw = steepest.AdamW(list((plain := weights(torch.bfloat16)).items()), lr=0.01, group="world")
give_gradients(plain, rank)
adamw.step()
told["hashes"].append(hashed({n: p.float() for n, p in plain.items()}))

give_gradients(again, rank)
if rank == 1:
    again["norm.weight"].grad = None
for what in ("gradient", "start"):
    try:
        if what == "start":
            again = weights(torch.float32, seed=rank)
            resumed = steepest.OneBitAdam(list(again.items()), group="world", **options)
            give_gradients(again, 0)
        resumed.step()
    except BadInput as why:
        told["errors"].append(str(why))

if rank == 0:  # the same walk, all workers in this process
    for fusion in ("tensor", "joined"):
        options["fusion"] = fusion
        models = [weights(torch.float32) for _ in range(world)]
        made = [
            steepest.OneBitAdam(list(m.items()), group=w, **options)
            for m, w in zip(models, simulated.workers(world), strict=True)
        ]
        for t in range(5):
            for r, mine in enumerate(models):
                give_gradients(mine, 100 * t + r)
            simulated.step(made)
            if t == 3:
                told[fusion]["simulated_sent"] = dict(made[0].workers.sent)
        told[fusion]["simulated"] = {n: p.tolist() for n, p in models[0].items()}
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(told, file)
dist.barrier()
dist.destroy_process_group()
"""


def ended(commands: list[list[str]], folder: Path, **environment: str) -> list[str]:
    """What processes print, which run together; all are killed when one fails or none ends in time."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    given = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""} | environment
    running = [
        subprocess.Popen(
            command,
            cwd=folder,
            env=given,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for command in commands
    ]
    try:
        told = [one.communicate(timeout=PATIENCE)[0] for one in running]
    finally:
        for one in running:
            if one.poll() is None:
                os.killpg(one.pid, signal.SIGKILL)
    for one, text in zip(running, told, strict=True):
        assert one.returncode == 0, text[-3000:]
    return told


@pytest.mark.parametrize("world", [3])
def test_processes_walk_together_as_the_simulation_does(world: int, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-W", "error", "worker.py"]
    ended([[*command, str(rank), str(world), str(tmp_path)] for rank in range(world)], tmp_path)
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    for other in told[1:]:
        assert other["hashes"] == told[0]["hashes"] and len(other["hashes"]) == 11
    for fusion in ("tensor", "joined"):
        found = told[0][fusion]
        assert found["sent"] == found["simulated_sent"] and set(found["sent"]) == {"dense", "onebit", "check"}
        for name, expected in found["simulated"].items():  # gloo adds three numbers in an order of its own
            torch.testing.assert_close(
                torch.tensor(found["last"][name]), torch.tensor(expected), rtol=1e-5, atol=1e-6, msg=name
            )
    for other in told:
        lacking, apart = other["errors"]
        assert "norm.weight has a gradient at some of the 3 workers" in lacking
        assert "differs between the 3 workers" in apart


def test_the_pages_example_runs_under_torchrun_and_all_end_with_the_same_weights(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "one-bit-adam.md").read_text()
    (tmp_path / "train.py").write_text(re.findall(r"```python\n(.*?)```", page, re.S)[0])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    (text,) = ended([command], tmp_path)
    sums = dict(re.findall(r"worker (\d): (\S+)", text))
    assert set(sums) == {"0", "1"} and sums["0"] == sums["1"], text
    assert "'onebit'" in text
