"""Which replicas a service keeps, drains and replaces. Pure.

A crash loop is slowed, never given up: the n-th failure in a row waits BACKOFF_S · 2^(n−1)
seconds, at most MAX_BACKOFF_S, counted from the last end. A replica that was ready between ends
the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

BACKOFF_S = 2.0
MAX_BACKOFF_S = 300.0
MIN_DRAIN_S = 3.0
"""Gateways get at least this long to stop sending before an idle replica is stopped."""


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


@dataclass(frozen=True)
class ServicePlan:
    """`drain` leaves traffic (why by run id); `stop` has left it and may end."""

    drain: dict[str, str]
    stop: tuple[str, ...]
    ready: int
    """Ready replicas of the wanted revision."""
    ready_any: int
    crashes: int
    retry_at: datetime | None


def plan_replicas(
    live: Sequence[ReplicaFacts],
    ended: Sequence[ReplicaFacts],
    *,
    wanted: int,
    revision: int,
    now: datetime,
    drain_seconds: float,
) -> ServicePlan:
    """Decide on a service's runs. `ended` is newest first; `wanted` is 0 when it stops."""
    serving = [run for run in live if run.phase not in ("draining", "stopping")]
    current = [run for run in serving if run.revision == revision]
    older = [run for run in serving if run.revision != revision]
    ready = sum(run.phase == "ready" for run in current)
    drain: dict[str, str] = {}
    if wanted == 0 or ready >= wanted:
        # Old revisions answer until the new one is ready in full.
        drain |= {run.run_id: "Replaced" if wanted else "ScaledDown" for run in older}
    surplus = len(current) - wanted
    if surplus > 0:
        order = sorted(current, key=lambda run: (run.phase == "ready", -run.epoch))
        drain |= {run.run_id: "ScaledDown" for run in order[:surplus]}
    crashes, retry_at = _back_off(ended, revision)
    return ServicePlan(
        drain=drain,
        stop=tuple(run.run_id for run in live if _drained(run, now, drain_seconds)),
        ready=ready,
        ready_any=sum(run.phase == "ready" for run in serving),
        crashes=crashes,
        retry_at=retry_at,
    )


def _drained(run: ReplicaFacts, now: datetime, drain_seconds: float) -> bool:
    if run.phase != "draining" or run.drain_deadline is None:
        return False
    since = run.drain_deadline - timedelta(seconds=drain_seconds)
    idle = run.in_flight == 0 and now - since >= timedelta(seconds=MIN_DRAIN_S)
    return idle or now >= run.drain_deadline


def _back_off(ended: Sequence[ReplicaFacts], revision: int) -> tuple[int, datetime | None]:
    crashes, last = 0, None
    for run in ended:
        if run.revision != revision:
            break
        if run.phase not in ("failed", "lost"):
            continue
        crashes += 1
        last = last or run.ended_at
        if run.was_ready:
            break
    if not crashes or last is None:
        return crashes, None
    wait = min(BACKOFF_S * 2.0 ** min(crashes - 1, 30), MAX_BACKOFF_S)
    return crashes, last + timedelta(seconds=wait)
