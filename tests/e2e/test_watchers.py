"""No event is lost, doubled or out of order to those who watch while all of it is killed in turn.

Three controllers and two apis on one PostgreSQL; `python -m benchmarks.watchers` with more of it.
"""

from __future__ import annotations

import pytest

from benchmarks.installation import installation
from benchmarks.watchers import SHAPE, compare, watch


@pytest.mark.timeout(900)
def test_every_watcher_sees_every_event_once_in_order() -> None:
    with installation(SHAPE, database="postgresql") as platform:
        outcome = watch(platform, watchers=8, rounds=1, pause=1.0)
    assert outcome.wrong == []
    assert outcome.kills == 7, "two apis, three controllers, the gateway, the database"
    assert outcome.events > 30


def test_lost_doubled_and_disordered_events_are_told() -> None:
    assert compare("x", [1, 3, 2], [1, 3, 2]) == []
    assert "lost" in compare("x", [1, 3, 2], [1, 3])[0]
    assert "twice" in compare("x", [1, 3, 2], [1, 3, 2, 2])[0]
    assert "order" in compare("x", [1, 3, 2], [1, 2, 3])[0]
