"""Random draws from counters: the published numbers, and the same draw wherever a piece is cut."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

from steepest.core.rule import Rule, choice
from steepest.engines.draws import drawn
from steepest.linalg.philox import BLOCK, draw, philox

WORD = 0xFFFFFFFF
KNOWN = [  # Random123 1.14, tests/kat_vectors, philox4x32 10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD, WORD), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_words_are_those_that_random123_publishes(counter, key, words):
    assert tuple(int(word) for word in philox(counter, key)) == words
    rows = [torch.tensor([word, 0]) for word in counter]
    assert tuple(int(word[0]) for word in philox(rows, key)) == words


@pytest.mark.parametrize("kind", ["uniform", "normal", "rademacher"])
def test_a_draw_belongs_to_its_element_not_to_the_cut(kind):
    whole = draw(kind, BLOCK + 100, seed=3, t=5, piece=2, stream=1)
    for start, end in ((0, 7), (7, 900), (BLOCK - 1, BLOCK + 100)):
        part = draw(kind, end - start, seed=3, t=5, piece=2, stream=1, start=start)
        assert torch.equal(part, whole[start:end])


def test_every_part_of_the_counter_and_key_changes_the_draw():
    base = {"seed": 1, "t": 2, "piece": 3, "stream": 4, "start": 0}
    reference = draw("uniform", 100, **base)
    for name in base:
        assert (draw("uniform", 100, **base | {name: 2**20}) != reference).float().mean() > 0.9, name
    assert (draw("uniform", 100, **base | {"start": 2**32}) != reference).float().mean() > 0.9


def test_the_distributions_are_what_their_names_say():
    n, tolerance = 400_000, 5 / math.sqrt(400_000)
    uniform = draw("uniform", n, seed=0, t=1, dtype=torch.float64)
    assert uniform.min() >= 0 and uniform.max() < 1 and torch.equal(uniform * 2**24, (uniform * 2**24).floor())
    assert abs(uniform.mean() - 0.5) < tolerance and abs(uniform.var() - 1 / 12) < tolerance
    signs = draw("rademacher", n, seed=0, t=1)
    assert set(signs.unique().tolist()) == {-1.0, 1.0} and abs(signs.mean()) < tolerance
    normal = draw("normal", n, seed=0, t=1, dtype=torch.float64)
    moments = [(normal**k).mean().item() for k in (1, 2, 3, 4)]
    for found, true, spread in zip(moments, (0, 1, 0, 3), (1, 2**0.5, 15**0.5, 96**0.5), strict=True):
        assert abs(found - true) < tolerance * spread
    assert normal.abs().max() < math.sqrt(48 * math.log(2)) + 1e-9


def test_a_piece_has_one_tensor_for_each_declared_draw():
    class Noisy(Rule):
        draws: ClassVar = {"noise": "normal", "mask": "rademacher"}
        seed = choice(0, "seed of the random draws", low=0)

    rule = Noisy()
    object.__setattr__(rule, "seed", 7)
    whole = drawn(rule, 3, torch.zeros(4, 5, dtype=torch.bfloat16), index=2)
    assert {name: (t.shape, t.dtype) for name, t in whole.items()} == {
        "noise": ((4, 5), torch.float32),
        "mask": ((4, 5), torch.float32),
    }
    assert torch.equal(whole["mask"].view(-1), draw("rademacher", 20, seed=7, t=3, piece=2, stream=1))
    rows = drawn(rule, 3, torch.zeros(2, 5, dtype=torch.bfloat16), index=2, start=10)
    assert torch.equal(rows["noise"], whole["noise"][2:])
