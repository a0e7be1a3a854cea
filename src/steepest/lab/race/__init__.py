"""A fair race: which runs it needs, having them run, and what they say."""
