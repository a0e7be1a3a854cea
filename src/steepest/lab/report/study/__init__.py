"""The report page of a study: its words, its figures, its files."""
