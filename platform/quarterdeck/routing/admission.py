"""Who goes on to a replica, who waits, and who is turned away.

A service takes `capacity` requests at once. Beyond that they wait, the highest priority first and
within one the oldest. Requests of a priority below normal are turned away by chance long before
the waiting room is full, with p = min(300 · saturation⁵, 1), which is 1 at a third of it
(llm-d's saturation shedding). In a full room a newcomer takes the place of the last of a lower
priority.

Example: room for 2, waiting (high, t=1) and (low, t=2). A normal request at t=3 takes the place
of the low one, which is turned away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

NORMAL = 0
_STEEPNESS = 300.0

Verdict = Literal["goes", "waits", "shed", "full"]


@dataclass(eq=False)
class Ticket:
    """One request that waits. `deadline` is on the caller's clock."""

    priority: int
    number: int
    deadline: float


@dataclass(frozen=True)
class Answer:
    """`ticket` of a request that waits; `evicted` is who lost the place to it."""

    verdict: Verdict
    ticket: Ticket | None = None
    evicted: Ticket | None = None


def shed_probability(saturation: float) -> float:
    """How likely a low priority is turned away; `saturation` is waiting ÷ room, 0 to 1."""
    return min(_STEEPNESS * saturation**5, 1.0)


class WaitingRoom:
    """The requests of one service in one gateway. No I/O: the caller wakes who is let in."""

    def __init__(self, room: int, capacity: int) -> None:
        self.room = room
        self.capacity = capacity
        self.in_flight = 0
        self._waiting: list[Ticket] = []
        self._number = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def goes(self) -> bool:
        """Take a place if one is free and nobody waits for it; to be given back by `leave`."""
        if self.in_flight < self.capacity and not self._waiting:
            self.in_flight += 1
            return True
        return False

    def offer(self, priority: int, deadline: float, draw: Callable[[], float]) -> Answer:
        """A request arrives; `draw` gives a number from 0 to 1 and is called only for low
        priorities. `goes` takes a place, to be given back by `leave`."""
        if self.goes():
            return Answer("goes")
        saturation = len(self._waiting) / max(self.room, 1)
        if priority < NORMAL and self._waiting and draw() < shed_probability(saturation):
            return Answer("shed")
        evicted = None
        if len(self._waiting) >= self.room:
            last = max(self._waiting, key=_order, default=None)
            if last is None or last.priority >= priority:
                return Answer("full")
            self._waiting.remove(last)
            evicted = last
        self._number += 1
        ticket = Ticket(priority, self._number, deadline)
        self._waiting.append(ticket)
        return Answer("waits", ticket, evicted)

    def leave(self) -> None:
        """A request that had a place has ended."""
        self.in_flight -= 1

    def give_up(self, ticket: Ticket) -> None:
        """It waits no more; without effect when it was let in or evicted."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)

    def let_in(self) -> list[Ticket]:
        """Those who have a place from now on, first come first, by priority."""
        free = max(0, self.capacity - self.in_flight)
        chosen = sorted(self._waiting, key=_order)[:free]
        for ticket in chosen:
            self._waiting.remove(ticket)
        self.in_flight += len(chosen)
        return chosen


def _order(ticket: Ticket) -> tuple[int, int]:
    return (-ticket.priority, ticket.number)
