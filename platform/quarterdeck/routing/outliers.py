"""Which replicas of a service rest because they fail, after Envoy's outlier detection.

Three kinds of rest. *Unreachable*: a refused or broken connection rests a replica at once, for
seconds, since with few requests in flight a dead replica looks idle and would draw every request;
an answer forgives. *Ejected*: five failures in a row, or at the end of an interval a success rate
below mean - 1.9 σ of the replicas, for 30 s × the number of ejections, at most 300 s; each
interval without one takes one back. No more than a tenth of the replicas are ejected at a time,
but one always may be. *Failing*: one with five failures in a row that may not be ejected rests for
seconds, longer each time, unless more than half of the replicas would rest then: who refuses at
once looks idle, draws most requests, and uses up the retries of all. 4xx are the client's and never
count.

With σ over n replicas the worst lies at most √(n - 1) σ below the mean, so the rate tells nothing
of fewer than five; and a single failure among many answers is no outlier whatever σ says.
Source: Envoy, "Outlier detection".
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["answered", "server_error", "unreachable"]
Ejection = Literal["consecutive_errors", "success_rate", "failing"]
Rest = Literal["", "unreachable", "ejected", "failing"]

_NEVER = float("-inf")


@dataclass(frozen=True)
class OutlierSettings:
    """Counts, shares, and seconds."""

    consecutive_errors: int = 5
    interval: float = 10.0
    deviations: float = 1.9
    minimum_replicas: int = 5
    minimum_requests: int = 20
    minimum_failures: int = 5
    rest: float = 30.0
    longest_rest: float = 300.0
    most_ejected: float = 0.1
    short_rest: float = 2.0
    longest_short_rest: float = 30.0


@dataclass
class _Health:
    errors: int = 0
    ejections: int = 0
    ejected_until: float = _NEVER
    breaks: int = 0
    unreachable_until: float = _NEVER
    failing_until: float = _NEVER
    answered: int = 0
    failed: int = 0


@dataclass
class Outliers:
    """What one gateway remembers of one service. Times are seconds on the caller's clock."""

    settings: OutlierSettings = field(default_factory=OutlierSettings)
    _health: dict[str, _Health] = field(default_factory=dict)
    _runs: frozenset[str] = frozenset()
    _interval_ends: float | None = None

    def keep(self, runs: frozenset[str]) -> None:
        """These are the service's replicas: forget all others."""
        self._runs = runs
        self._health = {run: health for run, health in self._health.items() if run in runs}

    def rest_of(self, run_id: str, now: float) -> Rest:
        """Whether a replica rests at `now`."""
        health = self._health.get(run_id)
        if health is None:
            return ""
        if now < health.unreachable_until:
            return "unreachable"
        if now < health.ejected_until:
            return "ejected"
        return "failing" if now < health.failing_until else ""

    def record(self, run_id: str, outcome: Outcome, now: float) -> list[tuple[str, Ejection]]:
        """Remember how a try ended; the replicas that are ejected because of it."""
        ends = self._interval_ends
        ejected = self._end_interval(now) if ends is None or now >= ends else []
        if run_id not in self._runs:
            return ejected
        health = self._health.get(run_id)
        if health is None:
            health = self._health[run_id] = _Health()
        if outcome == "answered":
            health.answered += 1
            health.errors = health.breaks = 0
            health.unreachable_until = _NEVER
            return ejected
        health.failed += 1
        if self.rest_of(run_id, now):
            # Requests that were under way when its rest began tell nothing new.
            return ejected
        if outcome == "unreachable":
            health.unreachable_until = now + self._short_rest(health)
        health.errors += 1
        if health.errors >= self.settings.consecutive_errors:
            health.errors = 0
            if self._eject(health, now):
                ejected.append((run_id, "consecutive_errors"))
            elif outcome == "server_error" and self._half_stays(now):
                health.failing_until = now + self._short_rest(health)
                ejected.append((run_id, "failing"))
        return ejected

    def _half_stays(self, now: float) -> bool:
        """Whether at least half of the replicas do not rest when one more does."""
        resting = sum(bool(self.rest_of(run_id, now)) for run_id in self._health)
        return 2 * (resting + 1) <= len(self._runs)

    def _short_rest(self, health: _Health) -> float:
        """Seconds, more each time until the replica answers."""
        health.breaks += 1
        return min(self.settings.short_rest * health.breaks, self.settings.longest_short_rest)

    def _eject(self, health: _Health, now: float) -> bool:
        resting = sum(now < other.ejected_until for other in self._health.values())
        if resting >= max(1, int(self.settings.most_ejected * len(self._runs))):
            return False
        health.ejections += 1
        rest = self.settings.rest * health.ejections
        health.ejected_until = now + min(rest, self.settings.longest_rest)
        return True

    def _end_interval(self, now: float) -> list[tuple[str, Ejection]]:
        if self._interval_ends is None:
            self._interval_ends = now + self.settings.interval
        if now < self._interval_ends:
            return []
        passed = 1 + int((now - self._interval_ends) / self.settings.interval)
        self._interval_ends += passed * self.settings.interval
        for health in self._health.values():
            if health.ejections and now >= health.ejected_until:
                quiet = min(float(passed), (now - health.ejected_until) // self.settings.interval)
                health.ejections = max(0, health.ejections - int(quiet))
        ejected: list[tuple[str, Ejection]] = []
        for run_id in self._below_the_others():
            if not self.rest_of(run_id, now) and self._eject(self._health[run_id], now):
                ejected.append((run_id, "success_rate"))
        for health in self._health.values():
            health.answered = health.failed = 0
        return ejected

    def _below_the_others(self) -> list[str]:
        """Outliers of the interval that ends, the worst first."""
        settings = self.settings
        rates = {
            run_id: health.answered / (health.answered + health.failed)
            for run_id, health in self._health.items()
            if health.answered + health.failed >= settings.minimum_requests
        }
        if len(rates) < settings.minimum_replicas:
            return []
        mean, deviation = statistics.fmean(rates.values()), statistics.pstdev(rates.values())
        threshold = mean - settings.deviations * deviation
        return [
            run_id
            for run_id, rate in sorted(rates.items(), key=lambda item: item[1])
            if rate < threshold and self._health[run_id].failed >= settings.minimum_failures
        ]
