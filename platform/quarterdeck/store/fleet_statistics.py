"""What the fleet's history says of its reliability."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from quarterdeck.store.columns import database_now
from quarterdeck.store.tables import RunRow

FEWEST_FAILURES = 3
WINDOW_S = 30 * 86_400.0


def mean_time_to_failure(session: Session, cluster: str, ranks: int) -> float | None:
    """Seconds that a gang of `ranks` can expect between failures of its machines.

    Rank-seconds that gangs held ÷ failures, over the last 30 days of a cluster, ÷ ranks; None
    while fewer than three failures were seen. Failures of the user's code, data and memory do not
    count: no machine is to blame for them.
    """
    ended = (RunRow.cluster == cluster) & (RunRow.created_at > database_now(-WINDOW_S))
    held = session.scalar(select(func.sum(RunRow.held_seconds)).where(ended)) or 0.0
    failures = [
        failure
        for failure in session.scalars(
            select(RunRow.failure).where(ended, RunRow.phase.in_(("failed", "lost")))
        )
        if (failure or {}).get("blame") not in ("user_code", "data", "memory")
    ]
    if len(failures) < FEWEST_FAILURES:
        return None
    return float(held) / len(failures) / ranks
