from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.routing.limits import KeyLimits


def test_a_minute_of_requests_and_then_one_each_second() -> None:
    limits = KeyLimits(requests_per_minute=60)
    assert all(limits.enter(1, 0.0) is None for _ in range(60))
    refused = limits.enter(1, 0.0)
    assert refused is not None and (refused.limit, refused.retry_after) == (
        "requests_per_minute", 1,
    )  # fmt: skip
    assert limits.enter(1, 1.0) is None
    assert limits.enter(1, 1.5) is not None


def test_tokens_are_corrected_when_the_answer_has_ended() -> None:
    limits = KeyLimits(tokens_per_minute=600)
    assert limits.enter(500, 0.0) is None
    assert limits.enter(200, 0.0) is not None
    limits.leave(500, 100, 0.0)  # it used less than was guessed
    assert limits.enter(200, 0.0) is None
    limits.leave(200, 900, 0.0)  # and this one far more
    refused = limits.enter(10, 0.0)
    assert refused is not None and refused.retry_after == 41  # 400 below zero, 10 a second


def test_a_request_larger_than_a_minute_goes_when_the_bucket_is_full() -> None:
    limits = KeyLimits(tokens_per_minute=100)
    assert limits.enter(10_000, 0.0) is None
    assert limits.enter(1, 0.0) is not None


def test_streams_at_once() -> None:
    limits = KeyLimits(streams=2)
    assert limits.enter(1, 0.0) is None and limits.enter(1, 0.0) is None
    refused = limits.enter(1, 0.0)
    assert refused is not None and refused.limit == "concurrent_streams"
    limits.leave(1, 1, 0.0)
    assert limits.enter(1, 0.0) is None


def test_a_share_that_changes_keeps_what_is_used_up() -> None:
    limits = KeyLimits(requests_per_minute=100)
    for _ in range(100):
        limits.enter(1, 0.0)
    limits.share = 0.5
    assert limits.enter(1, 0.0) is not None


@given(
    st.lists(st.floats(0, 2), min_size=1, max_size=200),
    st.integers(1, 120),
    st.integers(1, 4),
)
def test_copies_with_shares_never_exceed_the_limit_together(
    pauses: list[float], limit: int, copies: int
) -> None:
    gateways = [KeyLimits(requests_per_minute=limit, share=1 / copies) for _ in range(copies)]
    now, passed = 0.0, 0
    for pause in pauses:
        now += pause
        passed += sum(gateway.enter(1, now) is None for gateway in gateways)
    # A minute's worth at the start, and the rate since; each copy has at least one a minute.
    most = max(limit, copies) * (1 + now / 60)
    assert passed <= most + copies


@pytest.mark.parametrize("now", [0.0, 59.0, 3600.0])
def test_what_remains_is_told(now: float) -> None:
    limits = KeyLimits(requests_per_minute=60, tokens_per_minute=6000)
    limits.enter(1000, now)
    assert limits.remaining() == {"requests": (60, 59, 1.0), "tokens": (6000, 5000, 10.0)}
