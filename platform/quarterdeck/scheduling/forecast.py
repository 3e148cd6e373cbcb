"""When waiting gangs can start, from the `max_duration` of what runs.

The estimate is pessimistic about ends (everything runs for its whole `max_duration`) and keeps
the order: a gang never starts before one that waits ahead of it in the same pool. One that needs
several pools starts when all of them have room and everything ahead of it in each has started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from quarterdeck.scheduling.placement import Pool
from quarterdeck.scheduling.snapshot import Hold, Request
from quarterdeck.scheduling.spread import PoolState, Wait, take
from quarterdeck.scheduling.topology import place


class _Future:
    """One pool from now on."""

    def __init__(self, pool: Pool, holds: Sequence[Hold], now: datetime) -> None:
        self.pool = pool.copy()
        self.clock = now
        """The start of the last gang."""
        self.known = True
        self._ends = [(hold.ends_at, hold) for hold in holds if hold.ends_at is not None]
        self._ends.sort(key=lambda pair: pair[0])

    @property
    def next_end(self) -> datetime | None:
        return self._ends[0][0] if self._ends else None

    def end_one(self) -> None:
        self.pool.hold(self._ends.pop(0)[1], sign=-1)

    def add(self, hold: Hold, ends_at: datetime) -> None:
        self._ends.append((ends_at, replace(hold, ends_at=ends_at)))
        self._ends.sort(key=lambda pair: pair[0])


def starts(
    states: Sequence[PoolState], waiting: Sequence[Wait], now: datetime
) -> list[datetime | None]:
    """The start of each waiting gang, in order; None where no known end makes room.

    `states` are all pools of the waiting gangs, with what runs taken already. Once one start is
    unknown, all later ones in its pools are.
    """
    futures = {state.key: _Future(state.pool, state.holds, now) for state in states}
    return [
        _start(wait.request, [futures[state.key] for state in wait.site.states], now)
        for wait in waiting
    ]


def _start(request: Request, futures: Sequence[_Future], now: datetime) -> datetime | None:
    clock = max(future.clock for future in futures)
    pools = [future.pool for future in futures]
    placed = None
    if all(future.known for future in futures):
        placed = place(pools, request)
        while placed is None and (ending := [one for one in futures if one.next_end]):
            first = min(ending, key=lambda one: one.next_end or now)
            clock = max(clock, first.next_end or now)
            first.end_one()
            placed = place(pools, request)
    if placed is None:
        for future in futures:
            future.known = False
        return None
    hold = take(pools, request, placed)
    for future in futures:
        future.clock = clock
        if request.max_duration is not None:
            future.add(hold, clock + timedelta(seconds=request.max_duration))
    return clock


def delays(before: Sequence[datetime | None], after: Sequence[datetime | None]) -> bool:
    """Whether a start moved back, or cannot be proven not to have."""
    return any(
        old is None or new is None or new > old for old, new in zip(before, after, strict=True)
    )
