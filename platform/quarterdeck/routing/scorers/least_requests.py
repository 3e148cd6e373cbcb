"""The fewer requests in flight, the better: Envoy's least-request weight, weight/(active + 1).

Divided by the largest weight so that an idle replica of full weight scores 1.
Source: Envoy, "Supported load balancers", weighted least request.
"""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.routing.replicas import ReplicaView, RouteRequest, Scored


def least_requests(request: RouteRequest, replicas: Sequence[ReplicaView]) -> Scored:
    """share/(in_flight + 1), relative to the largest share."""
    largest = max(replica.share for replica in replicas) or 1.0
    return Scored(
        [replica.share / ((max(replica.in_flight, 0) + 1) * largest) for replica in replicas],
        "fewest requests in flight for its weight",
    )
