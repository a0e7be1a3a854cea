"""Tuners: how one cell's configuration is searched, each a generator over a space, a start and ``ask``."""
