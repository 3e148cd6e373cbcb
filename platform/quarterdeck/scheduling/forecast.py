"""When waiting gangs can start, from the `max_duration` of what runs.

The estimate is pessimistic about ends (everything runs for its whole `max_duration`) and keeps
the order: a gang never starts before one that waits ahead of it in the same pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from quarterdeck.scheduling.placement import Pool
from quarterdeck.scheduling.snapshot import Hold, Request


def starts(
    pool: Pool, holds: Sequence[Hold], waiting: Sequence[Request], now: datetime
) -> list[datetime | None]:
    """The start of each waiting gang, in order; None where no known end makes room.

    `pool` is as it is now, with `holds` taken already. Once one start is unknown, all later are.
    """
    future = pool.copy()
    open_holds = sorted(
        (hold for hold in holds if hold.ends_at is not None),
        key=lambda hold: hold.ends_at or now,
    )
    clock = now
    answers: list[datetime | None] = []
    for request in waiting:
        placed = future.place(request)
        while placed is None and open_holds:
            ended = open_holds.pop(0)
            future.hold(ended, sign=-1)
            clock = max(clock, ended.ends_at or now)
            placed = future.place(request)
        if placed is None:
            return answers + [None] * (len(waiting) - len(answers))
        answers.append(clock)
        taken = future.take(request, placed)
        if request.max_duration is not None:
            ends_at = clock + timedelta(seconds=request.max_duration)
            open_holds.append(replace(taken, ends_at=ends_at))
            open_holds.sort(key=lambda hold: hold.ends_at or now)
    return answers


def delays(before: Sequence[datetime | None], after: Sequence[datetime | None]) -> bool:
    """Whether a start moved back, or cannot be proven not to have."""
    return any(
        old is None or new is None or new > old for old, new in zip(before, after, strict=True)
    )
