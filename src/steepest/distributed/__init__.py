"""How the processes that train one model average what each of them has: dense, or one bit a number.

``means.py`` is the arithmetic, as conversations; ``workers.py`` holds them over a torch process group and keeps
the bill; ``simulated.py`` holds those of several workers within one process.
"""
