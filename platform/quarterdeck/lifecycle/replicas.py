"""Which replicas of each revision are kept, drained, replaced and missing. Pure.

A crash loop is slowed, never given up: the n-th failure in a row of a revision waits
BACKOFF_S · 2^(n−1) seconds, at most MAX_BACKOFF_S, counted from the last end. A replica that was
ready between ends the row.

Replicas on a cordoned machine serve until as many others are ready; one that has been unhealthy
for UNHEALTHY_S is stopped, which counts as a failure, and replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

BACKOFF_S = 2.0
MAX_BACKOFF_S = 300.0
MIN_DRAIN_S = 3.0
"""Gateways get at least this long to stop sending before an idle replica is stopped."""
UNHEALTHY_S = 30.0
_LEAVING = ("draining", "stopping")


@dataclass(frozen=True)
class ReplicaFacts:
    """One run of a service."""

    run_id: str
    epoch: int
    revision: int
    phase: str
    was_ready: bool = False
    in_flight: int = 0
    drain_deadline: datetime | None = None
    ended_at: datetime | None = None
    cordoned: bool = False
    """Its machine takes nothing new."""
    unhealthy_since: datetime | None = None

    @property
    def serving(self) -> bool:
        """Nobody has told it to leave."""
        return self.phase not in _LEAVING


@dataclass(frozen=True)
class ReplicaPlan:
    """`drain` leaves traffic (why by run id); `stop` has left it, or never answers again, and ends
    (why by run id)."""

    drain: Mapping[str, str]
    stop: Mapping[str, str]
    unhealthy: frozenset[str]
    """Of those to stop: they count as failures."""


@dataclass(frozen=True)
class Crashes:
    """Failures in a row of one revision, and when its next replica may be tried."""

    count: int = 0
    retry_at: datetime | None = None
    last: str | None = None
    """The run that failed last."""


def plan_replicas(
    live: Sequence[ReplicaFacts],
    wanted: Mapping[int, int],
    *,
    now: datetime,
    drain_seconds: float,
    slack: int = 0,
) -> ReplicaPlan:
    """Decide on a service's living runs, of which `wanted` are to serve by revision. `slack` is
    how many may be missing while cordoned ones are replaced."""
    drain: dict[str, str] = {}
    sick = frozenset(
        run.run_id
        for run in live
        if run.unhealthy_since is not None
        and run.phase == "unhealthy"
        and now - run.unhealthy_since >= timedelta(seconds=UNHEALTHY_S)
    )
    serving = [run for run in live if run.serving and run.run_id not in sick]
    for revision in sorted({run.revision for run in serving}):
        mine = [run for run in serving if run.revision == revision]
        count = wanted.get(revision, 0)
        stay = [run for run in mine if not run.cordoned]
        order = sorted(stay, key=lambda run: (run.phase == "ready", -run.epoch))
        why = "ScaledDown" if count or not wanted else "Replaced"
        drain |= {run.run_id: why for run in order[: max(len(stay) - count, 0)]}
        left = [run for run in stay if run.run_id not in drain]
        needed = count - slack - sum(run.phase == "ready" for run in left)
        leave = sorted(
            (run for run in mine if run.cordoned),
            key=lambda run: (run.phase == "ready", -run.epoch),
        )
        drain |= {run.run_id: "Cordoned" for run in leave[: max(len(leave) - max(needed, 0), 0)]}
    stop = {run.run_id: "Drained" for run in live if _drained(run, now, drain_seconds)}
    return ReplicaPlan(drain, {**stop, **dict.fromkeys(sick, "Unhealthy")}, sick)


def missing(
    live: Sequence[ReplicaFacts], wanted: Mapping[int, int], most: int
) -> Mapping[int, int]:
    """How many replicas of each revision are to be created: cordoned ones are replaced ahead, but
    never more than `most` live at once."""
    serving = [run for run in live if run.serving]
    room = most - len(serving)
    found: dict[int, int] = {}
    for revision, count in sorted(wanted.items()):
        there = sum(run.revision == revision and not run.cordoned for run in serving)
        lack = max(min(count - there, room), 0)
        if lack:
            found[revision] = lack
            room -= lack
    return found


def _drained(run: ReplicaFacts, now: datetime, drain_seconds: float) -> bool:
    if run.phase != "draining" or run.drain_deadline is None:
        return False
    since = run.drain_deadline - timedelta(seconds=drain_seconds)
    idle = run.in_flight == 0 and now - since >= timedelta(seconds=MIN_DRAIN_S)
    return idle or now >= run.drain_deadline


def crashes(ended: Sequence[ReplicaFacts], revision: int, since: datetime | None = None) -> Crashes:
    """Failures in a row of a revision; `ended` is newest first. Those before `since` are
    forgiven."""
    count, last, name = 0, None, None
    for run in ended:
        if run.revision != revision or run.phase not in ("failed", "lost"):
            continue
        if since is not None and run.ended_at is not None and run.ended_at < since:
            break
        count += 1
        last, name = last or run.ended_at, name or run.run_id
        if run.was_ready:
            break
    if not count or last is None:
        return Crashes(count)
    wait = min(BACKOFF_S * 2.0 ** min(count - 1, 30), MAX_BACKOFF_S)
    return Crashes(count, last + timedelta(seconds=wait), name)
