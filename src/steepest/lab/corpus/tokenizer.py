"""Text to token numbers and back. ``bytes`` needs nothing; the rest is the `tokenizers` library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from steepest.core.errors import BadInput, CorruptFile, MissingExtra, UnknownName

SMALLEST_BPE = 257  # every byte and the separator
SEPARATOR = "<|endoftext|>"
# How published tokenizers spell the token between documents, the most specific first.
KNOWN_SEPARATORS = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>", "<|endofdoc|>", "<|im_end|>", "[SEP]")


class Tokenizer(Protocol):
    """What the lab asks of a tokenizer. ``separator`` ends every document; None where there is none."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def separator(self) -> int | None: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_many(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def serialized(self) -> bytes: ...


def sha256(tokenizer: Tokenizer) -> str:
    """The hash under which a corpus remembers its tokenizer."""
    return hashlib.sha256(tokenizer.serialized()).hexdigest()


class ByteTokenizer:
    """A token is a UTF-8 byte. NUL, which no document holds, ends a document."""

    vocab_size = 256
    separator = 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_many(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in ids if i != self.separator).decode(errors="replace")

    def serialized(self) -> bytes:
        return json.dumps({"steepest": "bytes"}).encode()


class LibraryTokenizer:
    """A tokenizer of the `tokenizers` library: trained here, read from a file, or from the Hub."""

    def __init__(self, inner: Any) -> None:
        inner.encode_special_tokens = (
            True  # a document that spells a special token gets its letters, not its number
        )
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        # Published vocabularies may have holes: the model needs rows up to the largest number.
        self.vocab_size = 1 + max(inner.get_vocab(with_added_tokens=True).values())
        numbers = (inner.token_to_id(name) for name in KNOWN_SEPARATORS)
        self.separator: int | None = next((number for number in numbers if number is not None), None)

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def encode_many(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._inner.decode(list(ids), skip_special_tokens=True))

    def serialized(self) -> bytes:
        return str(self._inner.to_str(pretty=False)).encode()


def check(spec: str) -> None:
    """Raise for a tokenizer that could never be made, before any text is read."""
    kind, _, rest = spec.partition(":")
    if spec == "bytes" or (kind == "hf" and rest):
        return
    if kind == "bpe":
        _bpe_size(spec)
        _library(spec)
        return
    if (path := Path(spec).expanduser()).is_file():
        load(path)
        return
    if spec.endswith(".json") or "/" in spec:
        raise BadInput(f"no such tokenizer file: {spec!r}; give a tokenizer.json, hf:NAME, bpe:SIZE or bytes")
    near = {"bytes": "bytes", "bpe": "bpe:1024", "hf": "hf:NAME"}
    raise UnknownName.among("tokenizer", spec, near.values(), "(or the path of a tokenizer.json)")


def identity(spec: str) -> str:
    """What of ``spec`` determines the tokens, text apart: of a file the content, not the name."""
    path = Path(spec).expanduser()
    if spec == "bytes" or spec.startswith(("bpe:", "hf:")) or not path.is_file():
        return spec
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make(spec: str, training_texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that ``spec`` names; ``training_texts`` is read only to train a BPE."""
    check(spec)
    if spec == "bytes":
        return ByteTokenizer()
    if spec.startswith("bpe:"):
        return train_bpe(_bpe_size(spec), training_texts)
    if spec.startswith("hf:"):
        return _from_hub(spec.removeprefix("hf:"))
    return load(Path(spec).expanduser())


def load(path: Path) -> Tokenizer:
    """Read a saved tokenizer. Raises CorruptFile when the file is not one."""
    content = path.read_bytes()
    if content == ByteTokenizer().serialized():
        return ByteTokenizer()
    library = _library(str(path))
    try:
        return LibraryTokenizer(library.Tokenizer.from_buffer(content))
    except Exception as error:  # the library raises bare Exception
        raise CorruptFile(f"{path} is not a tokenizer.json: {error}; give another file or bpe:SIZE") from error


def train_bpe(size: int, texts: Iterable[str]) -> LibraryTokenizer:
    """Byte-level BPE with GPT-2's word pattern; ``size`` counts the 256 bytes and the separator.

    Source: Sennrich et al. 2016 (arXiv 1508.07909); byte level as in GPT-2. The same texts give the same
    tokenizer.
    """
    library = _library(f"bpe:{size}")
    inner = library.Tokenizer(library.models.BPE())
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return LibraryTokenizer(inner)


def _bpe_size(spec: str) -> int:
    size = spec.removeprefix("bpe").removeprefix(":")
    if not size.isdecimal() or int(size) < SMALLEST_BPE:
        raise BadInput(
            f"tokenizer {spec!r}: bpe:SIZE needs a whole number from {SMALLEST_BPE} on, such as bpe:1024"
        )
    return int(size)


def _from_hub(name: str) -> Tokenizer:
    library = _library(f"hf:{name}")
    try:
        return LibraryTokenizer(library.Tokenizer.from_pretrained(name))
    except Exception as error:  # the library raises bare Exception for every failure of the Hub
        cause = str(error).strip().splitlines()[0]
        raise BadInput(
            f"cannot get tokenizer hf:{name}: {cause}; give a tokenizer.json, bpe:SIZE or bytes"
        ) from error


def _library(spec: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra(
            f"tokenizer {spec!r} needs tokenizers: pip install 'steepest[lab]' "
            '(the tokenizer "bytes" works without it)'
        ) from error
    return tokenizers
