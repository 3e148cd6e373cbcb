"""Resting replicas that fail, after Envoy's outlier detection.

A refused or broken connection rests a replica at once, since with least-in-flight a dead replica
would look idle and draw every request; answers of 5xx rest it after five in a row. Each rest is
longer than the one before, until an answer forgives. 4xx are the client's and never count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Outcome = Literal["answered", "server_error", "unreachable"]


@dataclass(frozen=True)
class OutlierSettings:
    """Counts, and seconds of the first rest and of the longest."""

    consecutive_errors: int = 5
    unreachable_rest: float = 2.0
    error_rest: float = 30.0
    longest_rest: float = 300.0


@dataclass(frozen=True)
class Health:
    """What a gateway remembers of a replica; `rests_until` is on the caller's clock."""

    errors: int = 0
    rests: int = 0
    rests_until: float = float("-inf")

    def ejected(self, now: float) -> bool:
        """It rests now."""
        return now < self.rests_until


def after(health: Health, outcome: Outcome, now: float, settings: OutlierSettings) -> Health:
    """Health after one more outcome at `now`."""
    if outcome == "answered":
        return Health()
    errors = health.errors + 1
    if outcome == "server_error" and errors < settings.consecutive_errors:
        return replace(health, errors=errors)
    if health.ejected(now):
        # Requests that were under way when it was ejected tell nothing new.
        return replace(health, errors=errors)
    first = settings.unreachable_rest if outcome == "unreachable" else settings.error_rest
    rest = min(first * (health.rests + 1), settings.longest_rest)
    return Health(errors=0, rests=health.rests + 1, rests_until=now + rest)
