"""Whether a failed attempt is followed by another.

Only failures of the job's own making (and unexplained ones) use up `max_restarts`; those of
machines and networks do not. So that a broken machine cannot restart a job for ever, attempts
in a row that brought no step forward are bounded too.
"""

from __future__ import annotations

from dataclasses import dataclass

COUNTED = frozenset({"user_code", "data", "memory", "unknown"})
MAX_FRUITLESS = 10
"""Attempts in a row, blamed on machines, that registered no further checkpoint."""

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
class RestartDecision:
    restart: bool
    restarts_used: int
    reason: str
    message: str


def after_failure(
    blame: str, *, restarts_used: int, max_restarts: int, fruitless: int
) -> RestartDecision:
    """Decide on the attempt after a failure blamed on `blame` (protocol.Blame).

    `fruitless` counts the attempts in a row, this one included, that kept no progress.
    """
    counted = blame in COUNTED
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
    return RestartDecision(True, used, "Restarting", left)
