"""A corpus and a run that take a second: random words, bytes as tokens, a model of 2,000 weights."""

from __future__ import annotations

import importlib.util
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import chromium
import pytest

from steepest.lab import corpus as corpora
from steepest.lab.config import EvaluationConfig, ModelChoice, OptimizerConfig, RunConfig
from steepest.lab.corpus import Corpus, CorpusConfig


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """About 60 kB of words in 40 documents, as bytes."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(300)]
    folder = tmp_path_factory.mktemp("text")
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(draw.choices(words, k=300)))
    return corpora.prepare(CorpusConfig(str(folder), tokenizer="bytes"), tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="session")
def tiny_config(tiny_corpus: Corpus) -> RunConfig:
    """30 steps of AdamW."""
    return RunConfig(
        optimizer=OptimizerConfig("adamw", 3e-3),
        model=ModelChoice("20k", {"layers": 1, "width": 16, "heads": 2, "ffn": 16}),
        corpus=CorpusConfig(str(tiny_corpus.path)),
        evaluation=EvaluationConfig(tokens=256, points=3),
        tokens=30 * 4 * 16,
        batch=4,
        seq=16,
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where the records of a test lie."""
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def browser() -> Iterator[chromium.Browser]:
    """One browser for all pages of a test process."""
    program = chromium.program()
    if program is None:
        pytest.skip(chromium.INSTALL)
    if shutil.which(program) is None:
        pytest.fail(f"STEEPEST_CHROMIUM={program} is no program")
    driven = chromium.Browser(program)
    yield driven
    driven.close()


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """benchmarks/_made.py: runs of a study whose laws, bowls and noise are known."""
    path = Path(__file__).parents[2] / "benchmarks" / "_made.py"
    spec = importlib.util.spec_from_file_location("made_study", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
