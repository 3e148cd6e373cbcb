"""Golden figures of preference learning and of tokenizers' first merges."""

from __future__ import annotations

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.planner.merges import merge, pair_counts, symbol_counts, wordpiece_scores
from quarterdeck.planner.preferences import comparisons, pairwise_loss

CORPUS = {
    (*word, "</w>"): count
    for word, count in {"low": 5, "lower": 2, "newest": 6, "widest": 3}.items()
}


def test_pairwise_loss_at_equal_scores() -> None:
    assert round(pairwise_loss(0), 6) == 0.693147
    assert comparisons(4) == 6


@given(st.floats(-30, 30))
def test_pairwise_loss_is_minus_log_sigmoid(difference: float) -> None:
    assert pairwise_loss(difference) == pytest.approx(-log(1 / (1 + exp(-difference))), abs=1e-12)


def test_pairwise_loss_of_extremes_stays_finite() -> None:
    assert pairwise_loss(-1e6) == 1e6
    assert pairwise_loss(1e6) == 0


def _brute_force_pairs() -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for word, occurrences in CORPUS.items():
        for index in range(len(word) - 1):
            pair = (word[index], word[index + 1])
            counts[pair] = counts.get(pair, 0) + occurrences
    return counts


def test_bpe_merges_es_then_est_then_the_end_of_the_word() -> None:
    counts = pair_counts(CORPUS)
    assert dict(counts) == _brute_force_pairs()
    most = max(counts.values())
    assert most == 9
    assert counts["e", "s"] == counts["s", "t"] == counts["t", "</w>"] == most
    corpus = merge(CORPUS, ("e", "s"))
    assert pair_counts(corpus).most_common(1)[0][1] == pair_counts(corpus)["es", "t"] == 9
    corpus = merge(corpus, ("es", "t"))
    assert pair_counts(corpus).most_common(1)[0] == (("est", "</w>"), 9)
    corpus = merge(corpus, ("est", "</w>"))
    assert ("n", "e", "w", "est</w>") in corpus


def test_wordpiece_merges_something_else_first() -> None:
    scores = wordpiece_scores(CORPUS)
    single = symbol_counts(CORPUS)
    counts = _brute_force_pairs()
    for (left, right), score in scores.items():
        assert score == counts[left, right] / (single[left] * single[right])
    first = max(scores, key=lambda pair: scores[pair])
    assert counts[first] < max(counts.values())
    assert first == ("i", "d")


def test_merging_goes_from_the_left() -> None:
    assert merge({("a", "a", "a"): 2}, ("a", "a")) == {("aa", "a"): 2}
    assert merge({("a", "b"): 1, ("ab",): 2}, ("a", "b")) == {("ab",): 3}
