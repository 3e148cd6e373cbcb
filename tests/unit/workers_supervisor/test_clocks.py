"""Machines whose clocks differ: which failure came first, whatever their clocks say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.specs.protocol import RankPlacement
from quarterdeck_workers.rank.process import RankNews
from quarterdeck_workers.supervisor.clocks import HostClock
from quarterdeck_workers.supervisor.failures import first_failure
from quarterdeck_workers.supervisor.ledger import Ledger
from quarterdeck_workers.supervisor.spool import Spool

skews = st.floats(-30.0, 30.0)
trips = st.lists(st.tuples(st.floats(0.0, 0.2), st.floats(0.0, 0.2)), min_size=1, max_size=9)


def measured(skew: float, exchanges: list[tuple[float, float]], start: float = 1e9) -> HostClock:
    clock = HostClock()
    for index, (there, back) in enumerate(exchanges):
        sent = start + 30.0 * index
        clock.exchange(sent, sent + there + skew, sent + there + back)
    return clock


@given(skew=skews, exchanges=trips)
def test_the_offset_is_known_within_its_bound(
    skew: float, exchanges: list[tuple[float, float]]
) -> None:
    clock = measured(skew, exchanges)
    assert abs(clock.offset - skew) <= clock.error + 1e-6
    assert clock.correction in (0.0, clock.offset)


def test_a_clock_that_was_set_is_followed() -> None:
    clock = measured(-30.0, [(0.001, 0.001)] * 5)
    clock.exchange(2e9, 2e9 + 0.002, 2e9 + 0.004)
    assert abs(clock.offset) < 0.01 and clock.correction == 0.0


def test_a_right_clock_is_left_alone() -> None:
    news = RankNews(messages=[{"type": "exit", "at": 5.0}])
    assert measured(0.0, [(0.1, 0.05)]).corrected(news) is news
    assert HostClock().corrected(news) is news


@given(
    skew=st.tuples(skews, skews), exchanges=st.tuples(trips, trips), first=st.sampled_from([0, 1])
)
def test_the_first_failure_is_the_first_whatever_the_clocks_say(
    skew: tuple[float, float], exchanges: tuple[list[tuple[float, float]], ...], first: int
) -> None:
    """Two ranks on two machines fail a second apart, each by its own machine's clock."""
    places = [RankPlacement(rank=rank, node_id=f"n{rank}") for rank in (0, 1)]
    ledger = Ledger("command", places, Spool(), 0.0)
    for rank in (0, 1):
        clock = measured(skew[rank], exchanges[rank])
        really = 1e9 + (0.0 if rank == first else 1.0)
        news = RankNews(messages=[{"type": "exit", "at": really + skew[rank], "code": 1}])
        for message in clock.corrected(news).messages:
            ledger.apply(rank, message, 0.0)
    found = first_failure(ledger.failures)
    assert found is not None and found.rank == first


def test_times_of_lines_are_corrected_too() -> None:
    news = RankNews(lines=[(130.0, "a"), (131.0, "b")], setup_lines=[(129.0, "s")])
    corrected = measured(30.0, [(0.0, 0.0)]).corrected(news)
    assert corrected.lines == [(pytest.approx(100.0), "a"), (pytest.approx(101.0), "b")]
    assert corrected.setup_lines == [(pytest.approx(99.0), "s")]
