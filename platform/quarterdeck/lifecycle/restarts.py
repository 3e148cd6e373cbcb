"""Whether a failed attempt is followed by another, and when.

Only failures of the job's own making (and unexplained ones) use up `max_restarts`; those of
machines and networks do not. So that a broken machine cannot restart a job for ever, attempts
in a row that kept nothing are bounded too. A job whose attempts fail one after the other waits
ever longer before the next one; an attempt that kept something, or worked for long, ends the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COUNTED = frozenset({"user_code", "data", "memory", "unknown"})
MAX_FRUITLESS = 10
"""Attempts in a row, blamed on machines, that registered no further checkpoint."""

DELAYS_S = (0.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Pause before the next attempt after 1, 2, … failures in a row; the last one for all further."""
LONG_S = 600.0
"""An attempt that worked so long is no crash at the start, whatever it kept."""

_REASONS = {
    "user_code": "UserCodeFailed",
    "data": "DataFailed",
    "memory": "OutOfMemory",
    "node": "NodeFailed",
    "network": "NetworkFailed",
    "disk": "DiskFailed",
    "unknown": "UnknownFailure",
}


@dataclass(frozen=True)
class Attempt:
    """An attempt that failed, was lost, or stopped without being asked to."""

    saved: bool
    """It registered a checkpoint."""
    seconds: float
    """From its claim to its end; 0 when it was never claimed."""


@dataclass(frozen=True)
class Row:
    """Failures in a row up to now."""

    fruitless: int
    """That kept nothing."""
    crashes: int
    """That kept nothing and ended soon."""

    @property
    def delay(self) -> float:
        """Seconds before the next attempt."""
        if self.crashes <= 0:
            return 0.0
        return DELAYS_S[min(self.crashes, len(DELAYS_S)) - 1]


def failures_in_a_row(attempts: Sequence[Attempt]) -> Row:
    """Count `attempts`, newest first, up to one that kept something (fruitless) or worked for
    long (crashes)."""
    fruitless = crashes = 0
    crashing = True
    for attempt in attempts:
        if attempt.saved:
            break
        crashing = crashing and attempt.seconds < LONG_S
        fruitless += 1
        crashes += crashing
    return Row(fruitless, crashes)


@dataclass(frozen=True)
class RestartDecision:
    restart: bool
    restarts_used: int
    reason: str
    message: str


def after_failure(
    blame: str, *, restarts_used: int, max_restarts: int, fruitless: int, excused: str = ""
) -> RestartDecision:
    """Decide on the attempt after a failure blamed on `blame` (protocol.Blame).

    `fruitless` counts the attempts in a row, this one included, that kept no progress; `excused`
    names a log policy by which the failure is not counted.
    """
    counted = blame in COUNTED and not excused
    used = restarts_used + counted
    if counted and used > max_restarts:
        if max_restarts == 0:
            return RestartDecision(False, restarts_used, _REASONS[blame], "max_restarts is 0")
        return RestartDecision(
            False,
            restarts_used,
            "MaxRestartsReached",
            f"{max_restarts} of {max_restarts} restarts used; the last failure was {blame}",
        )
    if not counted and fruitless >= MAX_FRUITLESS:
        return RestartDecision(
            False,
            restarts_used,
            _REASONS.get(blame, "UnknownFailure"),
            f"{fruitless} attempts in a row made no progress; the last failure was {blame}",
        )
    left = f"restart {used} of {max_restarts}" if counted else f"a {blame} failure is not counted"
    if excused:
        left += f" (log policy {excused})"
    return RestartDecision(True, used, "Restarting", left)
