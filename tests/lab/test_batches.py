"""Batches are a pure function of corpus, seed, step, rank and world."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.core.errors import BadInput
from steepest.lab import batches
from steepest.lab.corpus import Corpus, Tokens


def _tokens(count: int, shards: int = 1) -> Tokens:
    """Token i is i, so that a batch tells where it was read."""
    return Tokens(np.array_split(np.arange(count, dtype=np.uint32), shards))


def _corpus(train: int = 1000, val: int = 300, shards: int = 1) -> Corpus:
    return Corpus(Path("none"), {}, _tokens(train, shards), _tokens(val))


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_the_order_of_an_epoch_is_a_permutation(count: int, key: int) -> None:
    order = batches._permuted(np.arange(count), count, np.uint64(key))
    assert np.array_equal(np.sort(order), np.arange(count))


def test_the_order_of_an_epoch_looks_random() -> None:
    count = 10_000
    order = batches._permuted(np.arange(count), count, np.uint64(7))
    steps = np.diff(order)
    assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.05
    assert len(np.unique(steps)) > count // 2
    again = batches._permuted(np.arange(count), count, np.uint64(8))
    assert (order == again).sum() < 10


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10_000),
    size=st.integers(1, 33),
    world=st.integers(1, 9),
    shards=st.integers(1, 7),
)
def test_the_ranks_together_are_the_batch_of_one(seed: int, step: int, size: int, world: int, shards: int) -> None:
    corpus = _corpus(shards=shards)
    options = {"seed": seed, "step": step, "size": size, "seq": 13}
    parts = [batches.batch(corpus, rank=rank, world=world, **options) for rank in range(world)]
    whole = batches.batch(_corpus(), **options)
    assert whole.shape == (size, 14) and whole.dtype == torch.int64
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(whole[:, 1:], whole[:, :-1] + 1), "windows are consecutive text"


@settings(max_examples=30, deadline=None)
@given(train=st.integers(60, 800), seq=st.integers(1, 30), seed=st.integers(0, 100), epoch=st.integers(0, 3))
def test_an_epoch_predicts_every_token_of_its_windows_once(train: int, seq: int, seed: int, epoch: int) -> None:
    corpus = _corpus(train)
    count = batches.windows_per_epoch(corpus.train, seq)
    steps = range(epoch * count, (epoch + 1) * count)
    targets = torch.cat([batches.batch(corpus, seed=seed, step=s, size=1, seq=seq)[:, 1:] for s in steps])
    values = targets.flatten().sort().values
    assert torch.equal(values, torch.arange(values[0], values[0] + count * seq)), "no gap, no repeat"
    assert train - len(values) < 2 * seq, "little is left out"


def test_seeds_and_epochs_give_different_orders_and_offsets() -> None:
    corpus = _corpus(10_000)
    count = batches.windows_per_epoch(corpus.train, 16)
    firsts = {
        tuple(batches.batch(corpus, seed=seed, step=step, size=4, seq=16)[:, 0].tolist())
        for seed in range(3)
        for step in (0, count // 4, 2 * (count // 4))
    }
    assert len(firsts) == 9
    offsets = {first % 16 for rows in firsts for first in rows}
    assert len(offsets) > 1


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    corpus = _corpus()
    forward = [batches.batch(corpus, seed=1, step=s, size=3, seq=9) for s in range(50)]
    backward = [batches.batch(corpus, seed=1, step=s, size=3, seq=9) for s in reversed(range(50))]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 20), st.none() | st.integers(1, 5000))
def test_validation_is_the_same_whole_batches_without_overlap(
    val: int, seq: int, size: int, tokens: int | None
) -> None:
    corpus = _corpus(val=val + seq)
    found = batches.validation_batches(corpus, size, seq, tokens)
    again = batches.validation_batches(corpus, size, seq, tokens)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert {len(b) for b in found} == {size} or len(found) == 1
    targets = torch.cat(found)[:, 1:].flatten()
    assert len(targets.unique()) == len(targets)
    assert tokens is None or len(targets) <= max(tokens, seq)


def test_too_little_text_is_told_with_what_is_needed() -> None:
    with pytest.raises(BadInput, match="has 15 tokens, sequence 8 needs 16"):
        batches.batch(_corpus(15), seed=0, step=0, size=1, seq=8)
    with pytest.raises(BadInput, match="has 8 tokens, sequence 8 needs 9"):
        batches.validation_batches(_corpus(val=8), 4, 8)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"seq": 0}, {"world": 0}, {"step": -1}, {"rank": 1}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        batches.batch(_corpus(), **{"seed": 0, "step": 0, "size": 2, "seq": 4, **wrong})


def test_passes_count_the_training_text() -> None:
    assert batches.passes(_corpus(1000), 2500) == 2.5


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(-130, 130), st.integers(-130, 130))
def test_tokens_slice_like_one_array_across_shards(sizes: list[int], start: int, stop: int) -> None:
    whole = np.arange(sum(sizes), dtype=np.uint16)
    tokens = Tokens(np.split(whole, np.cumsum(sizes)[:-1]))
    assert len(tokens) == len(whole) and tokens.dtype == whole.dtype
    assert np.array_equal(tokens[start:stop], whole[start:stop])
    assert np.array_equal(np.asarray(tokens), whole)
    assert tokens[-1] == whole[-1]
    with pytest.raises(IndexError):
        tokens[len(whole)]
