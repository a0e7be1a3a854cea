"""Text to token shards: sources, tokenizers, manifest.

``prepare(CorpusConfig(...), root)`` builds or reuses a corpus, ``open(path)`` opens one, ``verify(corpus)``
re-hashes it.
"""

from steepest.lab.corpus.build import prepare
from steepest.lab.corpus.config import CorpusConfig
from steepest.lab.corpus.shards import Corpus, Tokens, verify
from steepest.lab.corpus.shards import open_corpus as open

DEFAULT_ROOT = "runs/corpora"

__all__ = ["DEFAULT_ROOT", "Corpus", "CorpusConfig", "Tokens", "open", "prepare", "verify"]
