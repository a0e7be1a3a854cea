"""What a corpus is made of: the request, as a plain value."""

from __future__ import annotations

from dataclasses import dataclass

from steepest.core.errors import BadInput


@dataclass(frozen=True)
class CorpusConfig:
    """A request for token shards. All fields are plain values, so that it lives in TOML and JSON as it is.

    - source: ``"stdlib"`` (the running interpreter's standard library), a text file, a folder, a glob, a
      JSONL, Parquet or Arrow file, ``"hf:NAME[@REVISION][:SUBSET[:SPLIT]]"``, a folder that already holds a
      prepared corpus, or several of these. A folder that holds files of rows is read by those alone.
    - tokenizer: ``"bpe:SIZE"`` (byte-level BPE trained on the training documents), ``"bytes"``, the path of
      a ``tokenizer.json``, or ``"hf:NAME"``.
    - validation: share of the text, in bytes, that is held out; between 0 and 0.5.
    - seed: of the shuffle and the split.
    - text_field: the column that holds the text, in sources made of rows.
    - pattern: which files of a folder are read.
    - max_bytes: stop reading the sources after this much text.
    """

    source: str | tuple[str, ...] = "stdlib"
    tokenizer: str = "bpe:1024"
    validation: float = 0.05
    seed: int = 0
    text_field: str = "text"
    pattern: str = "**/*"
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.source, str):
            several = tuple(self.source)
            object.__setattr__(self, "source", several[0] if len(several) == 1 else several)
        if not self.sources or not all(self.sources):
            raise BadInput("the corpus names no source: give a file, a folder, a glob, hf:NAME or stdlib")
        if not 0 < self.validation <= 0.5:
            raise BadInput(f"validation share {self.validation} is outside (0, 0.5]: 0.05 is usual")
        if self.seed < 0:
            raise BadInput(f"corpus seed {self.seed} is negative: give 0 or more")
        if self.max_bytes is not None and self.max_bytes <= 0:
            raise BadInput(f"max_bytes {self.max_bytes} leaves no text: give a positive number of bytes")

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources as a tuple, also when there is one."""
        return (self.source,) if isinstance(self.source, str) else self.source
