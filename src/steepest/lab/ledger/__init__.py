"""Recorded runs as evidence: ``read_runs(folder)`` lists them, ``runs_of(folder, ids)`` takes some. No torch."""

from steepest.lab.ledger.entry import Entry
from steepest.lab.ledger.ledger import Ledger, read_runs, runs_of

__all__ = ["Entry", "Ledger", "read_runs", "runs_of"]
