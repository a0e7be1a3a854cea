"""Independent float64 numpy texts of options that no recorded trajectory covers.

Written from the papers and the authors' formulas, without the library: one file a rule, each with ``OPTIONS``,
the constructor arguments to check, and ``walk(w, grads, **arguments)``, the weight after each step.
"""
