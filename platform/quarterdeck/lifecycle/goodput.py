"""The books of attempts: what an end threw away, and what each incident cost. Pure.

All amounts are rank-seconds. An incident is the end of an attempt that did not finish its job;
it costs what that attempt threw away, the stall that ended it, the time its ranks then waited for
a place, and the next attempt until its first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from quarterdeck.specs.beats import RankSeconds

WORDS = {
    "suspend": "suspended", "preempt": "preempted", "cancel": "cancelled",
    "max_duration": "max_duration reached", "drain": "drained", "regrow": "regrown",
}  # fmt: skip
"""What an end on order is called, by `stopping_for`."""


@dataclass(frozen=True)
class Books:
    """One attempt's accounts; `unsaved` is a part of productive, `lost` one of restart."""

    accounts: RankSeconds
    unsaved: float = 0.0
    lost: float = 0.0


def settle(books: Books, *, silent: float = 0.0) -> Books:
    """The books of an attempt that did not succeed: what was not saved is lost, and so are the
    `silent` rank-seconds that it held between its last word and its end."""
    unsaved = min(max(books.unsaved, 0.0), books.accounts.productive)
    lost = unsaved + max(silent, 0.0)
    accounts = books.accounts.model_copy(
        update={
            "productive": books.accounts.productive - unsaved,
            "restart": books.accounts.restart + lost,
        }
    )
    return replace(books, accounts=accounts, unsaved=0.0, lost=books.lost + lost)


@dataclass(frozen=True)
class Attempt:
    """One run of a job, as far as its costs go."""

    epoch: int
    ranks: int
    phase: str
    books: Books
    created_at: datetime
    ended_at: datetime | None = None
    stopping_for: str | None = None
    failure: dict[str, Any] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Cost:
    """What the end of attempt `epoch` cost, so far."""

    epoch: int
    what: str
    at: datetime
    lost: float
    stalled: float
    waiting: float
    restart: float

    @property
    def total(self) -> float:
        return self.lost + self.stalled + self.waiting + self.restart


def costs(attempts: Sequence[Attempt], now: datetime, *, waits: bool) -> list[Cost]:
    """Each incident of a job, oldest first. `waits` tells that the job still waits for its next
    attempt, whose ranks' time counts up to `now`."""
    ordered = sorted(attempts, key=lambda attempt: attempt.epoch)
    found: list[Cost] = []
    for index, attempt in enumerate(ordered):
        if attempt.phase == "succeeded" or attempt.ended_at is None:
            continue
        following = ordered[index + 1] if index + 1 < len(ordered) else None
        until = following.created_at if following else now if waits else attempt.ended_at
        restart = following.books.accounts.restart - following.books.lost if following else 0.0
        stall = str((attempt.failure or {}).get("message", "")).startswith("stalled")
        found.append(
            Cost(
                epoch=attempt.epoch,
                what=_name(attempt),
                at=attempt.ended_at,
                lost=attempt.books.lost,
                stalled=attempt.books.accounts.stalled if stall else 0.0,
                waiting=max(0.0, (until - attempt.ended_at).total_seconds()) * attempt.ranks,
                restart=max(0.0, restart),
            )
        )
    return found


def _name(attempt: Attempt) -> str:
    if attempt.stopping_for is not None:
        return WORDS.get(attempt.stopping_for, attempt.stopping_for)
    if attempt.failure is not None:
        blame = str(attempt.failure.get("blame", "unknown"))
        return "node lost" if blame == "node" else f"{attempt.phase} ({blame})"
    return attempt.reason or attempt.phase
