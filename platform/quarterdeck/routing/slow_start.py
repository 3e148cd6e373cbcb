"""A replica that has just become ready gets its share little by little: its caches are cold.

Linear from a tenth to all of it, as Envoy's slow start with aggression 1.
Source: Envoy, "Slow start mode".
"""

from __future__ import annotations

LEAST = 0.1


def ramp(ready_since: float, now: float, window: float) -> float:
    """The part of its weight that a replica gets, from LEAST to 1. Times and window are
    seconds on one clock; no window: 1."""
    if window <= 0:
        return 1.0
    return min(1.0, max(LEAST, (now - ready_since) / window))
