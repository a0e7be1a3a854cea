"""Verdicts to terminal table, self-contained page, CSV and JSON; no torch, so any laptop can redraw."""
