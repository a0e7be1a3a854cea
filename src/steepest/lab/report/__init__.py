"""Verdicts to terminal table, self-contained page, CSV and JSON. No torch: a page is drawn again on any laptop."""
