"""Whether a replica that runs still works: probes through the real request path. Pure.

Three probes in a row that fail mean unhealthy. One that came too late or was refused for load does
not count while the engine's token counters grow (it is busy); one that was answered wrongly does.
"""

from __future__ import annotations

from dataclasses import dataclass

PROBE_EVERY = 5.0
PROBE_TIMEOUT = 5.0
MOST_FAILURES = 3


@dataclass(frozen=True)
class ProbeOutcome:
    """`busy` is a failure that load explains: no answer in time, or 429."""

    ok: bool
    why: str = ""
    busy: bool = False


class Liveness:
    """Takes each probe's outcome with the counters as they stood then."""

    def __init__(self, progress: float | None = None) -> None:
        self._progress = progress
        self._failures = 0
        self.why = ""
        """Why it is unhealthy; empty while it is healthy."""

    @property
    def healthy(self) -> bool:
        return not self.why

    def probed(self, outcome: ProbeOutcome, progress: float | None) -> None:
        """`progress`: tokens generated and read since the start; None: not known now, which is
        like standing still."""
        moved = progress is not None and progress != self._progress
        self._progress = progress if progress is not None else self._progress
        if outcome.ok or (outcome.busy and moved):
            self._failures = 0
            if outcome.ok:
                self.why = ""
            return
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self.why = f"{self._failures} probes in a row failed, the last: {outcome.why}"
