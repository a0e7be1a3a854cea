"""Pure batched tensor functions and the formulas that several rules share."""
