"""A moving average of latency that believes bad news at once and good news slowly.

A sample above the average replaces it; one below is mixed in by the time that has passed. Without
samples it decays towards zero, so that a replica that was slow is tried again after a while.
Source: Finagle, `PeakEwma`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DECAY_S = 10.0


# Not frozen, which would treble the cost of what is made for each answer.
@dataclass(slots=True)
class PeakEwma:
    """An average of `seconds` as of `stamp`, on the caller's clock."""

    seconds: float
    stamp: float

    def at(self, now: float) -> float:
        """The estimate at `now`, in seconds."""
        return self.seconds * _kept(now - self.stamp)


def observe(average: PeakEwma | None, seconds: float, now: float) -> PeakEwma:
    """The average after one more sample at `now`."""
    if average is None or seconds >= average.seconds:
        return PeakEwma(seconds, now)
    kept = _kept(now - average.stamp)
    return PeakEwma(average.seconds * kept + seconds * (1.0 - kept), now)


def _kept(elapsed: float) -> float:
    return math.exp(-max(elapsed, 0.0) / DECAY_S)
