"""Halton's sequence with permuted digits: points that fill a cube evenly, however many of them are taken.

Point n has in dimension j the digits of n to the j-th prime as base, mirrored at the point (Halton 1960). In high
dimensions the plain sequence lies on lines; a random permutation of each digit ends that and keeps every dimension
as even as before (Owen, arXiv 1706.02808). The additive R sequence has no such cure: from about ten dimensions on
its neighbouring points lie close together.
"""

from __future__ import annotations

import numpy as np

BITS = 32
"""Digits are permuted down to 2^-32; below it no grid tells points apart."""


def halton(start: int, count: int, dimensions: int, seed: int) -> np.ndarray:
    """Points start to start + count - 1, (count, dimensions), each at least 0 and below 1.

    A dimension's numbers depend on its place, the seed and the point alone: more dimensions change none of them.
    """
    points = np.zeros((count, dimensions))
    for j, base in enumerate(primes(dimensions)):
        left = np.arange(start, start + count)
        rng, scale = np.random.default_rng([seed, j]), 1.0
        while scale > 2.0**-BITS:
            scale /= base
            points[:, j] += rng.permutation(base)[left % base] * scale
            left //= base
    return np.minimum(points, np.nextafter(1.0, 0.0))


def primes(count: int) -> list[int]:
    """The first prime numbers."""
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found):
            found.append(number)
        number += 1
    return found
