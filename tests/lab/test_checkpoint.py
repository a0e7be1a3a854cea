"""A checkpoint is whole or absent; a damaged one is found out, named, and passed over for the one before."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from steepest.core.errors import CorruptFile, SteepestError
from steepest.lab import checkpoint


def content(step: int, identity: str = "a") -> dict[str, Any]:
    weight = torch.full((64, 64), float(step))
    return {
        "identity": identity,
        "step": step,
        "model": {"weight": weight},
        "optimizer": {"state": {0: {"m": weight + 1}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "generators": {"cpu": torch.get_rng_state()},
    }


def saved(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save(folder, content(step))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return bool(one == other)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    loaded = checkpoint.latest(tmp_path, "a", rows=3)
    assert loaded is not None
    assert same(loaded, {"format": 1, **content(3)})


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path, "a", rows=0) is None


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    assert checkpoint.load(tmp_path / checkpoint.NAME)["step"] == 3
    assert checkpoint.load(tmp_path / checkpoint.PREVIOUS)["step"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([checkpoint.NAME, checkpoint.PREVIOUS])


def test_a_truncated_checkpoint_is_passed_over_with_a_notice(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:-100])
    notices: list[str] = []
    found = checkpoint.latest(tmp_path, "a", rows=2, notice=notices.append)
    assert found is not None
    assert found["step"] == 1
    assert notices == [f"{path} is truncated or damaged: going on from {checkpoint.PREVIOUS} at step 1"]


def test_a_truncated_checkpoint_alone_is_named_with_the_next_step(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptFile, match=r"checkpoint\.pt is truncated or damaged: restore it, or delete"):
        checkpoint.latest(tmp_path, "a", rows=1)


def test_no_truncation_and_no_flipped_bit_is_taken_for_other_numbers(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    path = tmp_path / checkpoint.NAME
    whole, draw = path.read_bytes(), random.Random(0)
    found_out = 0
    for _ in range(150):
        damaged = bytearray(whole)
        if draw.random() < 0.5:
            del damaged[draw.randrange(len(damaged)) :]
        else:
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load(path)
        except CorruptFile:
            found_out += 1
        else:  # padding, a date: bits that mean nothing
            assert same({**loaded, "generators": 0}, {"format": 1, **content(1), "generators": 0})
    assert found_out > 100


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.NAME
    torch.save({**content(1), "format": 1, "model": print}, path)
    with pytest.raises(CorruptFile):
        checkpoint.load(path)


def test_a_checkpoint_of_another_run_is_named(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with pytest.raises(CorruptFile, match="belongs to another run"):
        checkpoint.latest(tmp_path, "b", rows=1)


def test_a_checkpoint_that_knows_more_rows_than_the_record_gives_way_to_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path, 1, 5)
    notices: list[str] = []
    found = checkpoint.latest(tmp_path, "a", rows=3, notice=notices.append)
    assert found is not None
    assert found["step"] == 1
    assert "is at step 5, but the record ends at step 3" in notices[0]


def test_a_full_disk_leaves_both_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1, 2)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SteepestError, match=r"cannot write .*checkpoint\.pt: No space left on device"):
        saved(tmp_path, 3)
    assert checkpoint.load(tmp_path / checkpoint.NAME)["step"] == 2
    assert checkpoint.load(tmp_path / checkpoint.PREVIOUS)["step"] == 1
