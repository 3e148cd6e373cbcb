from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.lifecycle.elastic import RegrowFacts, decide_regrow

READY = RegrowFacts(
    ranks=4, full=8, free=8, fits_for=31.0, since_regrow=None, eta=3600.0, restart=60.0
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fits_for": None, "free": 6}, "regrows when 8 slots have been free for it for 30 s (6"),
        ({"since_regrow": 599.0}, "regrew less than 600 s ago"),
        ({"eta": None}, "after its first steps"),
        ({"eta": 119.0}, "would save only 60 s, less than a restart (60 s)"),
        ({"fits_for": 29.0}, "once they have for 30 s"),
    ],
)
def test_what_it_waits_for_is_said(change: dict[str, float | None], words: str) -> None:
    decision = decide_regrow(replace(READY, **change))  # type: ignore[arg-type]
    assert not decision.order and words in decision.message
    assert decision.message.startswith("running on 4 of 8 ranks: ")


def test_it_regrows_when_nothing_speaks_against_it() -> None:
    decision = decide_regrow(READY)
    assert decision.order and "saves about 1800 s of 3600 s" in decision.message
    assert decide_regrow(replace(READY, since_regrow=600.0)).order


TIMES = st.none() | st.floats(0, 1e6)


@given(
    ranks=st.integers(1, 63), more=st.integers(1, 64), fits_for=TIMES, since=TIMES, eta=TIMES,
    restart=st.floats(0, 1e4), after=st.floats(0, 1e3), every=st.floats(0, 1e4),
)  # fmt: skip
def test_no_order_without_room_gain_and_patience(
    ranks: int,
    more: int,
    fits_for: float | None,
    since: float | None,
    eta: float | None,
    restart: float,
    after: float,
    every: float,
) -> None:
    full = ranks + more
    decision = decide_regrow(
        RegrowFacts(ranks, full, full, fits_for, since, eta, restart, after, every)
    )
    assert decision.message
    if decision.order:
        assert fits_for is not None and fits_for >= after
        assert since is None or since >= every
        assert eta is not None and eta * (1 - ranks / full) > restart
