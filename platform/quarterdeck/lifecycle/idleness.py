"""When a service that may sleep does. Pure.

Example: `idle_after` 10 min, the last request at 12:00, created at 9:00: awake until 12:10, asleep
from then on, awake again with the next request.
"""

from __future__ import annotations

from datetime import datetime, timedelta


def asleep(
    idle_after: float | None, active_at: datetime | None, since: datetime, now: datetime
) -> bool:
    """Whether nobody needs it. `idle_after` is in seconds (None: it never sleeps), `active_at` the
    last moment at which a request was under way or waited (None: never), `since` when its newest
    revision was made."""
    if idle_after is None:
        return False
    last = since if active_at is None else max(active_at, since)
    return now - last >= timedelta(seconds=idle_after)
