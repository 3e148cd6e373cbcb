from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from quarterdeck.lifecycle.idleness import asleep

MADE = datetime(2026, 1, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("idle_after", "active", "now", "sleeps"),
    [
        (None, None, 1000.0, False),
        (600.0, None, 9.9, False),
        (600.0, None, 10.0, True),
        (600.0, 180.0, 189.9, False),
        (600.0, 180.0, 190.0, True),
        (600.0, -60.0, 9.0, False),  # asked before the newest revision was made
    ],
)
def test_a_service_sleeps_so_long_after_it_was_last_needed(
    idle_after: float | None, active: float | None, now: float, sleeps: bool
) -> None:
    """Minutes since the newest revision."""
    last = None if active is None else MADE + timedelta(minutes=active)
    assert asleep(idle_after, last, MADE, MADE + timedelta(minutes=now)) is sleeps
