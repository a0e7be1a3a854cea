"""Checkpoints: written atomically, loaded without running code, checked for damage, with one in reserve.

A checkpoint is a plain ``torch.save`` file of tensors and plain values, which
``torch.load(path, weights_only=True)`` reads anywhere. The one before it stays as ``checkpoint.previous.pt``:
when the newest is damaged, or knows more rows than the record holds, training goes on from the one before.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from steepest.core.errors import CorruptFile
from steepest.lab.files import replace, tell

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
FORMAT = 1
KEYS = {"format", "identity", "step", "model", "optimizer", "generators"}


def save(folder: Path, content: dict[str, Any]) -> None:
    """Writes ``folder/checkpoint.pt`` whole or not at all; on a full disk the old one stays.

    ``content`` holds "identity", "step" (as many rows are on the disk), "model" and "optimizer" (state
    dictionaries) and "generators" (generator states).
    """
    # Into memory first: torch's own writer aborts the process when the disk is full.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    replace(folder / NAME, buffer.getbuffer(), keep=folder / PREVIOUS)


def load(path: Path) -> dict[str, Any]:
    """One checkpoint file, on the CPU; CorruptFile when it is truncated, damaged or something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # every CRC: a flipped bit in a weight is found, too
        if damaged is None:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged file may raise anything at all
        raise CorruptFile(f"{path} is truncated or damaged") from error
    if damaged is not None:
        raise CorruptFile(f"{path} is damaged (in {damaged})")
    if not isinstance(content, dict) or not content.keys() >= KEYS or content["format"] != FORMAT:
        raise CorruptFile(f"{path} is no checkpoint of format {FORMAT}")
    return content


def latest(folder: Path, identity: str, rows: int, notice: Callable[[str], None] = tell) -> dict[str, Any] | None:
    """The newest usable checkpoint of a run whose record holds ``rows`` rows; None when there is none to use.

    One that cannot be used is passed over with a notice. Raises CorruptFile when that leaves none.
    """
    faults = []
    for name in (NAME, PREVIOUS):
        try:
            content = load(folder / name)
        except FileNotFoundError:
            continue
        except CorruptFile as error:
            faults.append(str(error))
            continue
        if content["identity"] != identity:
            faults.append(f"{folder / name} belongs to another run ({content['identity'][:16]})")
        elif content["step"] > rows:
            faults.append(f"{folder / name} is at step {content['step']}, but the record ends at step {rows}")
        else:
            if faults:
                notice(f"{faults[0]}: going on from {name} at step {content['step']}")
            return content
    if faults:
        raise CorruptFile(f"{faults[0]}: restore it, or delete {folder} to train the run from its start")
    return None
