"""Text to token numbers and back."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.core.errors import BadInput, CorruptFile, MissingExtra, UnknownName
from steepest.lab.corpus import tokenizer as tokenizers

TEXTS = [f"def f{i}(x):\n    return x + {i}  # naïve\n" for i in range(200)]


def _bpe(size: int = 300) -> tokenizers.Tokenizer:
    pytest.importorskip("tokenizers", reason="needs tokenizers: pip install 'steepest[lab]'")
    return tokenizers.make(f"bpe:{size}", TEXTS)


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_bytes_give_every_text_back(text: str) -> None:
    plain = tokenizers.ByteTokenizer()
    ids = plain.encode(text)
    assert plain.decode([*ids, plain.separator]) == text
    assert plain.encode_many([text])[0].tolist() == ids
    assert all(0 < i < plain.vocab_size for i in ids)


def test_bpe_gives_every_text_back_and_has_the_asked_size() -> None:
    bpe = _bpe()
    assert bpe.vocab_size == 300
    for text in (*TEXTS, "unseen: 語 🙂\t\r\n  x", " leading and trailing  "):
        ids = bpe.encode(text)
        assert bpe.decode(ids) == text
        assert bpe.encode_many([text])[0].tolist() == ids
        assert max(ids) < bpe.vocab_size
    assert len(bpe.encode(TEXTS[0])) < len(TEXTS[0].encode())


def test_the_same_texts_train_the_same_bpe() -> None:
    assert tokenizers.sha256(_bpe()) == tokenizers.sha256(_bpe())


def test_a_text_that_spells_the_separator_does_not_get_its_number() -> None:
    bpe = _bpe()
    ids = bpe.encode("a<|endoftext|>b")
    assert bpe.separator is not None and bpe.separator not in ids
    assert bpe.decode(ids) == "a<|endoftext|>b"


def test_a_tokenizer_file_is_the_tokenizer_that_wrote_it(tmp_path: Path) -> None:
    bpe = _bpe()
    path = tmp_path / "tokenizer.json"
    path.write_bytes(bpe.serialized())
    again = tokenizers.make(str(path), [])
    assert tokenizers.sha256(again) == tokenizers.sha256(bpe)
    assert again.encode(TEXTS[0]) == bpe.encode(TEXTS[0])
    assert tokenizers.identity(str(path)) == tokenizers.identity(str(path.rename(tmp_path / "other.json")))


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("bpee:1024", UnknownName, "did you mean 'bpe:1024'"),
        ("bytez", UnknownName, "did you mean 'bytes'"),
        ("bpe:12", BadInput, "needs a whole number from 257 on"),
        ("bpe:many", BadInput, "needs a whole number from 257 on"),
        ("nowhere/tokenizer.json", BadInput, "no such tokenizer file"),
    ],
)
def test_an_unknown_tokenizer_is_told_before_any_text_is_read(
    spec: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tokenizers.check(spec)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs tokenizers: pip install 'steepest[lab]'")
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": "none"}')
    with pytest.raises(CorruptFile, match=r"tokenizer\.json is not a tokenizer\.json"):
        tokenizers.check(str(path))


def test_without_the_library_bpe_names_the_install_line_and_bytes_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'steepest\[lab\]'.*\"bytes\" works without it"):
        tokenizers.check("bpe:1024")
    assert tokenizers.make("bytes", []).encode("a") == [97]
