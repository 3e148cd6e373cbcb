"""When a spot group counts as short of machines, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from quarterdeck.controller.pool_machines import SPOT_PATIENCE_S, SPOT_RETRY_S, patience
from quarterdeck.specs.pools import WorkerGroup

START = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)
SPOT = WorkerGroup(name="spot", slots=8, max_replicas=4, spot=True)


class Looks:
    """Looks at a group, one after the other, each with what the last one stored."""

    def __init__(self, group: WorkerGroup = SPOT) -> None:
        self.group, self.stored = group, dict[str, Any]()

    def at(self, seconds: float, coming: int, joined: int = 0) -> bool:
        facts = {"coming": coming, "joined": joined}
        now = START + timedelta(seconds=seconds)
        self.stored = {**facts, **patience(self.group, facts, self.stored, now)}
        return "short" in self.stored


def test_machines_that_do_not_come_for_long_make_it_short_until_they_are_tried_again() -> None:
    looks = Looks()
    assert not looks.at(0, coming=2)
    assert not looks.at(SPOT_PATIENCE_S - 1, coming=2)
    assert looks.at(SPOT_PATIENCE_S, coming=2)
    assert "others come in their place, until 13:20 UTC at least" in looks.stored["short"]
    assert looks.at(SPOT_PATIENCE_S + 600, coming=2)  # still ordered, and still not here
    given_back = SPOT_PATIENCE_S + 601
    assert looks.at(given_back, coming=0)
    assert looks.at(given_back + SPOT_RETRY_S - 2, coming=0)
    assert not looks.at(given_back + SPOT_RETRY_S, coming=0)
    assert not looks.at(given_back + SPOT_RETRY_S + 1, coming=1)  # patient anew


def test_one_that_comes_ends_it() -> None:
    looks = Looks()
    looks.at(0, coming=2)
    assert looks.at(SPOT_PATIENCE_S, coming=2)
    assert not looks.at(SPOT_PATIENCE_S + 1, coming=1, joined=1)
    assert not looks.at(SPOT_PATIENCE_S + 60, coming=1, joined=1)
    assert looks.at(2 * SPOT_PATIENCE_S + 1, coming=1, joined=1)


def test_others_are_never_short() -> None:
    looks = Looks(SPOT.model_copy(update={"spot": False}))
    assert not any(looks.at(seconds, coming=2) for seconds in (0, 1000, 2000))
    assert "waits_since" not in looks.stored
