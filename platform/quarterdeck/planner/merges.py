"""Which pair of symbols a tokenizer's trainer joins first: BPE's and WordPiece's choices.

A corpus maps each word, as a tuple of symbols, to how often it occurs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

Word = tuple[str, ...]
Pair = tuple[str, str]


def pair_counts(corpus: Mapping[Word, int]) -> Counter[Pair]:
    """How often each pair of neighbours occurs."""
    counts: Counter[Pair] = Counter()
    for word, occurrences in corpus.items():
        for pair in pairwise(word):
            counts[pair] += occurrences
    return counts


def symbol_counts(corpus: Mapping[Word, int]) -> Counter[str]:
    """How often each symbol occurs."""
    counts: Counter[str] = Counter()
    for word, occurrences in corpus.items():
        for symbol in word:
            counts[symbol] += occurrences
    return counts


def wordpiece_scores(corpus: Mapping[Word, int]) -> dict[Pair, float]:
    """f(ab) ÷ (f(a)·f(b)) of every pair (Schuster and Nakajima 2012): how much likelier the
    corpus becomes with the pair as one symbol."""
    single = symbol_counts(corpus)
    return {
        (left, right): count / (single[left] * single[right])
        for (left, right), count in pair_counts(corpus).items()
    }


def merge(corpus: Mapping[Word, int], pair: Pair) -> dict[Word, int]:
    """The corpus with every occurrence of `pair`, from the left, joined to one symbol."""
    joined: dict[Word, int] = {}
    for word, occurrences in corpus.items():
        symbols: list[str] = []
        for symbol in word:
            if symbols and (symbols[-1], symbol) == pair:
                symbols[-1] += symbol
            else:
                symbols.append(symbol)
        joined[tuple(symbols)] = joined.get(tuple(symbols), 0) + occurrences
    return joined
