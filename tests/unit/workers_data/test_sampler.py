"""The order of samples: complete, proportionate, and a function of seed and index alone."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_workers.data.sampler import (
    DataOrder,
    Domain,
    effective_weights,
    make_schedule,
    permute,
)


@given(size=st.integers(1, 300), key=st.integers(0, 2**64 - 1))
def test_a_permutation_reaches_every_position_once(size: int, key: int) -> None:
    assert sorted(permute(i, size, key) for i in range(size)) == list(range(size))


def test_permutations_stir() -> None:
    size = 1000
    values = [permute(i, size, 7) for i in range(size)]
    assert sum(value == i for i, value in enumerate(values)) < 10
    neighbours = sum(abs(a - b) < 50 for a, b in pairwise(values))
    assert neighbours < 0.2 * size
    # Spearman's rank correlation with the identity, about N(0, 1/999) for a random one.
    correlation = 1 - 6 * sum((i - v) ** 2 for i, v in enumerate(values)) / (size**3 - size)
    assert abs(correlation) < 0.15


@given(size=st.integers(1, 10**15), key=st.integers(0, 2**64 - 1), data=st.data())
def test_huge_permutations_need_no_table(size: int, key: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, size - 1))
    assert 0 <= permute(position, size, key) < size


@given(windows=st.integers(1, 60), passes=st.integers(1, 4), seed=st.integers(0, 5))
def test_every_window_exactly_once_in_each_pass(windows: int, passes: int, seed: int) -> None:
    order = DataOrder([Domain("d", windows, passes=passes)], seed)
    assert order.available == windows * passes
    for number in range(passes):
        samples = [order.sample(i) for i in range(number * windows, (number + 1) * windows)]
        assert sorted(s.window for s in samples) == list(range(windows))
        assert {s.pass_number for s in samples} == {number}


def test_passes_and_seeds_differ() -> None:
    order, other = (DataOrder([Domain("d", 100)], seed) for seed in (1, 2))
    first = [order.sample(i).window for i in range(100)]
    assert first != [order.sample(i).window for i in range(100, 200)]
    assert first != [other.sample(i).window for i in range(100)]


@given(weights=st.lists(st.integers(1, 200), min_size=1, max_size=7))
@settings(deadline=None)
def test_every_prefix_holds_each_domain_its_share(weights: list[int]) -> None:
    total = sum(weights)
    schedule = make_schedule(tuple((n, Fraction(w, total)) for n, w in enumerate(weights)))
    counts = [0] * len(weights)
    for step, domain in enumerate(schedule.order, start=1):
        assert schedule.before[step - 1] == counts[domain]
        counts[domain] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(Fraction(count) - Fraction(weight * step, total)) < 1
    assert len(schedule.order) * weights[0] == counts[0] * total


@given(
    domains=st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])),
        min_size=1, max_size=4,
    ),
    weighted=st.booleans(),
    data=st.data(),
)  # fmt: skip
@settings(deadline=None)
def test_passes_are_used_up_whatever_the_weights(
    domains: list[tuple[int, float]], weighted: bool, data: st.DataObject
) -> None:
    mixture = [
        Domain(f"d{n}", windows, data.draw(st.integers(1, 9)) if weighted else None, passes)
        for n, (windows, passes) in enumerate(domains)
    ]
    order = DataOrder(mixture, 3)
    limits = [int(windows * passes) for windows, passes in domains]
    assert order.available == sum(limits)
    seen = Counter(
        (s.domain, s.pass_number, s.window) for s in map(order.sample, range(order.available))
    )
    assert set(seen.values()) <= {1}
    for n, limit in enumerate(limits):
        assert sum(count for (domain, _, _), count in seen.items() if domain == n) == limit
    with pytest.raises(IndexError, match="allow more passes"):
        order.sample(order.available)


def test_a_domain_that_is_used_up_leaves_its_part_to_the_others() -> None:
    order = DataOrder(
        [Domain("a", 100, 0.5, passes=1), Domain("b", 1000, 0.25), Domain("c", 1000, 0.25)], 0
    )
    early = Counter(order.sample(i).domain for i in range(200))
    late = Counter(order.sample(i).domain for i in range(200, 600))
    assert early[0] in (99, 100) and abs(early[1] - 50) <= 1
    assert late[0] <= 1 and abs(late[1] - late[2]) <= 2
    assert order.available is None


def test_without_weights_domains_count_by_size_and_passes() -> None:
    assert effective_weights([Domain("a", 300), Domain("b", 100)]) == [
        Fraction(3, 4), Fraction(1, 4),
    ]  # fmt: skip
    assert effective_weights([Domain("a", 100, passes=2), Domain("b", 100, passes=1)]) == [
        Fraction(2, 3), Fraction(1, 3),
    ]  # fmt: skip


@given(
    sizes=st.lists(st.integers(10**6, 10**9), min_size=2, max_size=5),
    at=st.integers(1, 10**5),
)
@settings(deadline=None, max_examples=20)
def test_crooked_weights_are_met_closely(sizes: list[int], at: int) -> None:
    order = DataOrder([Domain(f"d{n}", size) for n, size in enumerate(sizes)], 0)
    counts = Counter(order.sample(i).domain for i in range(0, at, 1 + at // 3000))
    drawn = sum(counts.values())
    share = sizes[0] / sum(sizes)
    # A regular subsample of a nearly regular sequence: a coarse bound that a biased order breaks.
    assert abs(counts[0] / drawn - share) < 0.1 + 2 / drawn


def test_samples_of_a_step_are_the_same_on_any_degree() -> None:
    """Ranks take strided or blocked shares of the indices; the union is what one rank reads."""
    order = DataOrder([Domain("a", 50, 3), Domain("b", 70, 1)], 9)
    alone = [order.sample(i) for i in range(32, 64)]
    for degree in (2, 4, 8):
        fresh = DataOrder([Domain("a", 50, 3), Domain("b", 70, 1)], 9)
        share = 32 // degree
        blocks = [
            fresh.sample(32 + rank * share + i)
            for rank in reversed(range(degree))
            for i in range(share)
        ]
        assert Counter(blocks) == Counter(alone)


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ([], "datasets is empty"),
        ([Domain("a", 0)], "a has fewer tokens than one sequence"),
        ([Domain("a", 5, 1.0), Domain("b", 5)], "b have no weight while a have"),
    ],
)
def test_impossible_mixtures_are_named(domains: list[Domain], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataOrder(domains, 0)


def test_decimal_passes_are_exact() -> None:
    assert DataOrder([Domain("a", 100, passes=0.29)], 0).available == 29
