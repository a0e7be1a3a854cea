"""Studies: which runs a question needs, asked for by protocols and made by any number of workers."""
