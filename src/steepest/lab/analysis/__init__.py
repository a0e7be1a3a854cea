"""Records to numbers and verdicts. Arrays in, dataclasses out; no torch, so any laptop rebuilds a report."""
