"""Zeroth order: a way to run a rule on an estimate of the gradient that losses alone give.

``optimizer.py`` is the step, ``probes.py`` what it measures, ``directions.py`` the random directions,
``streamed.py`` the rule on an estimate that is never whole, ``parts.py`` the blocks of block-wise descent,
``sparsity.py`` masks, ``ways.py`` the published methods by name, ``log.py`` a run in a few bytes a step,
``replay.py`` what the conformance kit does with recorded trajectories.
"""
