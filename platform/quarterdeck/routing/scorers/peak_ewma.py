"""The shorter the wait to expect, the better: latency × (requests in flight + 1) / weight.

The latency is a peak-sensitive moving average (`latency.py`). A replica not measured yet counts
as quick as the quickest, so that it is tried.
Source: Finagle, `PeakEwma` load metric; Linkerd uses the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.routing.replicas import ReplicaView, RouteRequest, Scored

_SMALLEST = 1e-6


def peak_ewma(request: RouteRequest, replicas: Sequence[ReplicaView]) -> Scored:
    """The shortest wait to expect, relative to each one's."""
    known = [replica.latency for replica in replicas if replica.latency is not None]
    quickest = max(min(known, default=1.0), _SMALLEST)
    waits = [
        max(quickest if replica.latency is None else replica.latency, _SMALLEST)
        * (max(replica.in_flight, 0) + 1)
        / max(replica.share, _SMALLEST)
        for replica in replicas
    ]
    shortest = min(waits)
    return Scored([shortest / wait for wait in waits], "the shortest wait to expect")
