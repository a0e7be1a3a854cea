"""Optimizer steps measured: shapes of real models, interleaved rounds, ratios to a bound and to peers."""
