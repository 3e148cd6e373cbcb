"""Byte-level BPE against the counts themselves, and over all kinds of text."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_workers.data.tokenizer import END_OF_TEXT, pieces, train_bpe

GOLDEN = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
TEXTS = [
    "The quick brown fox, naïve café — “quoted”.\n\tIndented\r\n",
    "Пример русского текста с ёлкой. 日本語の文章と漢字。 한국어 문장입니다.",
    "العربية من اليمين إلى اليسار ﷽ हिन्दी में लिखा हुआ वाक्य। ไทยไม่มีเว้นวรรค",
    "emoji 👩‍👩‍👧‍👦🏳️‍🌈 combining é ﬀ \u200b\u202e zero-width",
    "def f(x):\n    return {'a': [1, 2.5e-3], \"b\": None}  # comment\n\n\n",
    "null \x00 and control \x07 \x1b[0m characters; lone \ufffd \U0010ffff",
]


def merges_of(words: dict[str, int], vocabulary: int) -> list[tuple[str, str]]:
    texts = [word for word, count in words.items() for _ in range(count)]
    trained = train_bpe(texts, vocabulary, min_frequency=1)
    return [tuple(pair) for pair in json.loads(trained.tokenizer.to_str())["model"]["merges"]]


def replay(words: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Check each merge by counting: it must be a most frequent pair of what is then there."""
    split = {word: list(word) for word in words}
    for left, right in merges:
        pairs = Counter[tuple[str, str]]()
        for word, symbols in split.items():
            for pair in pairwise(symbols):
                pairs[pair] += words[word]
        assert pairs[left, right] == max(pairs.values())
        for symbols in split.values():
            at = 0
            while at < len(symbols) - 1:
                if (symbols[at], symbols[at + 1]) == (left, right):
                    symbols[at : at + 2] = [left + right]
                at += 1


def test_the_classic_corpus() -> None:
    merges = merges_of(GOLDEN, 257 + 10)
    assert len(merges) == 10
    replay(GOLDEN, merges)
    # es and st occur nine times each; either may come first, and both give est.
    assert merges[0] in [("e", "s"), ("s", "t")]
    assert "".join(merges[1]) == "est"


@given(
    words=st.dictionaries(
        st.text(alphabet="abcd", min_size=1, max_size=7), st.integers(1, 9), min_size=1, max_size=8
    )
)
@settings(max_examples=40, deadline=None)
def test_every_merge_is_a_most_frequent_pair(words: dict[str, int]) -> None:
    replay(words, merges_of(words, 270))


def test_all_languages_come_back_and_nothing_is_unknown() -> None:
    trained = train_bpe(["only plain ascii was seen in training"] * 3, 300)
    for text in TEXTS:
        ids = trained.tokenizer.encode(text).ids
        assert trained.tokenizer.decode(ids) == text
    assert trained.tokenizer.token_to_id("<unk>") is None


@given(text=st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    tokenizer = _trained().tokenizer
    tokenizer.encode_special_tokens = True
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


_CACHE = []


def _trained():  # type: ignore[no-untyped-def]
    if not _CACHE:
        _CACHE.append(train_bpe(TEXTS * 3, 400))
    return _CACHE[0]


def test_too_large_a_vocabulary_is_reported_honestly() -> None:
    trained = train_bpe(["abc abc"] * 5, 50_000)
    assert trained.requested == 50_000
    assert trained.vocabulary == trained.tokenizer.get_vocab_size() < 300


def test_special_tokens_come_first_and_once() -> None:
    trained = train_bpe(["hello"], 259, ["<|user|>", END_OF_TEXT, "<|user|>"])
    assert trained.tokenizer.token_to_id(END_OF_TEXT) == 0
    assert trained.tokenizer.token_to_id("<|user|>") == 1


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="256 bytes and 2 special tokens need 258"):
        train_bpe(["hello"], 257, ["<|user|>"])


def test_training_does_not_depend_on_the_order_of_texts() -> None:
    forward, backward = train_bpe(TEXTS * 4, 500), train_bpe(TEXTS[::-1] * 4, 500)
    assert forward.tokenizer.to_str() == backward.tokenizer.to_str()


@given(text=st.text(alphabet="ab\n", max_size=60), limit=st.integers(1, 9))
def test_pieces_are_the_text(text: str, limit: int) -> None:
    parts = list(pieces(text, limit))
    assert "".join(parts) == text
    assert all(0 < len(part) <= limit for part in parts)
