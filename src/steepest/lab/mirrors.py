"""TensorBoard and Weights & Biases as further places that see a record; ``rows.jsonl`` stays the record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steepest.core.errors import MissingExtra, UnknownName
from steepest.lab.train import Mirror


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "step" and value is not None}


class TensorBoard:
    """Scalars under ``<run>/tensorboard``; a continued run supersedes the points past its checkpoint."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra.of("the TensorBoard mirror", "tensorboard", "mirrors") from error
        self._writer_class = SummaryWriter

    def start(self, folder: Path, header: dict[str, Any], step: int) -> None:
        """Opens the event file and notes the configuration."""
        self._writer = self._writer_class(str(folder / "tensorboard"), purge_step=step + 1)
        if step == 0:
            self._writer.add_text("config", f"```\n{json.dumps(header['config'], indent=1)}\n```")

    def row(self, row: dict[str, Any]) -> None:
        """Every number of a row as a scalar at its step."""
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()


class WandB:
    """A Weights & Biases run named by the identity; without a login, ``WANDB_MODE=offline`` keeps it local."""

    def __init__(self, project: str = "steepest") -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra.of("the Weights & Biases mirror", "wandb", "mirrors") from error
        self._wandb, self._project = wandb, project

    def start(self, folder: Path, header: dict[str, Any], step: int) -> None:
        """Opens the run, or goes on with it."""
        self._run = self._wandb.init(
            project=self._project,
            id=header["identity"][:16],
            dir=str(folder),
            config=header["config"],
            resume="allow",
        )
        # W&B refuses a step that it saw before; with a step of its own, the rows after a kill overwrite.
        self._run.define_metric("*", step_metric="training_step")

    def row(self, row: dict[str, Any]) -> None:
        """Every number of a row."""
        self._run.log({"training_step": row["step"], **_numbers(row)})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


MIRRORS: dict[str, Callable[[], Mirror]] = {"tensorboard": TensorBoard, "wandb": WandB}


def mirror(name: str) -> Mirror:
    """The mirror of that name. Raises UnknownName, and MissingExtra with the install line."""
    if name not in MIRRORS:
        raise UnknownName.among("mirror", name, MIRRORS)
    return MIRRORS[name]()
