from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.lifecycle.goodput import Attempt, Books, costs, settle
from quarterdeck.specs.beats import RankSeconds

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = st.floats(0, 1e9)


def attempt(epoch: int, phase: str, start: float, end: float | None, **fields: Any) -> Attempt:
    books = {"restart": fields.pop("restart", 0.0), "stalled": fields.pop("stalled", 0.0)}
    return Attempt(
        epoch, 4, phase, Books(RankSeconds(**books), lost=fields.pop("lost", 0.0)),
        T0 + timedelta(seconds=start), None if end is None else T0 + timedelta(seconds=end),
        **fields,
    )  # fmt: skip


@given(
    accounts=st.builds(
        RankSeconds, productive=SECONDS, checkpoint=SECONDS, restart=SECONDS, stalled=SECONDS,
        starting=SECONDS,
    ),
    unsaved=SECONDS, lost=SECONDS, silent=SECONDS,
)  # fmt: skip
def test_settling_moves_and_never_makes_or_loses_time(
    accounts: RankSeconds, unsaved: float, lost: float, silent: float
) -> None:
    after = settle(Books(accounts, unsaved, lost), silent=silent)
    assert after.accounts.held == pytest.approx(accounts.held + silent)
    assert 0 <= after.accounts.productive <= accounts.productive
    moved = accounts.productive - after.accounts.productive
    assert after.lost == pytest.approx(lost + moved + silent)
    assert settle(after) == after


def test_an_incident_costs_what_was_lost_the_wait_and_the_restart() -> None:
    attempts = [
        attempt(1, "failed", 0, 100, lost=40.0, restart=40.0, failure={"blame": "node"}),
        attempt(2, "preempted", 110, 200, restart=25.0, lost=5.0, stopping_for="suspend"),
        attempt(3, "lost", 260, 300, stalled=8.0, failure={"blame": "unknown", "message": ""}),
        attempt(4, "failed", 300, 400, restart=12.0, stalled=90.0,
                failure={"blame": "unknown", "message": "stalled: no step"}),
        attempt(5, "running", 400, None, restart=16.0),
    ]  # fmt: skip
    found = costs(attempts, T0 + timedelta(seconds=900), waits=False)
    assert [(c.what, c.lost, c.stalled, c.waiting, c.restart) for c in found] == [
        ("node lost", 40.0, 0.0, 40.0, 20.0),
        ("suspended", 5.0, 0.0, 240.0, 0.0),
        ("lost (unknown)", 0.0, 0.0, 0.0, 12.0),
        ("failed (unknown)", 0.0, 90.0, 0.0, 16.0),
    ]
    assert found[0].total == 100.0


def test_an_incident_goes_on_costing_while_the_job_waits() -> None:
    one = [attempt(1, "failed", 0, 100, failure={"blame": "data"})]
    now = T0 + timedelta(seconds=130)
    assert costs(one, now, waits=True)[0].waiting == 120.0
    assert costs(one, now, waits=False)[0].waiting == 0.0
    assert costs([attempt(1, "succeeded", 0, 10)], now, waits=True) == []
