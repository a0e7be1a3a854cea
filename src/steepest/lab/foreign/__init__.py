"""Records of others as runs: one importer for CSV, Parquet, JSON and exports of Weights & Biases.

    found = read("sweep.csv", {"loss": "eval/c4/loss", "size": "=130m", "weights": "=134217728"})
    found.runs          # list[Run], what studies, power, recommend and reports take
    found.complaints    # what was wrong, with file, row and column; all that could be read was

docs/importing.md lists the columns. ``write`` puts runs into the one table that ``read`` gives back unchanged.
"""

from steepest.lab.foreign.read import Complaint, Imported, read
from steepest.lab.foreign.write import write

__all__ = ["Complaint", "Imported", "read", "write"]
