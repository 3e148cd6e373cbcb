"""The fewer requests in flight, the better: Envoy's least-request weight, weight/(active + 1).

Divided by the largest weight so that an idle replica of full weight scores 1.
Source: Envoy, "Supported load balancers", weighted least request.
"""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.routing.replicas import ReplicaView, RouteRequest


def least_in_flight(request: RouteRequest, replicas: Sequence[ReplicaView]) -> list[float]:
    """weight/(in_flight + 1), relative to the largest weight."""
    largest = max((max(replica.weight, 0) for replica in replicas), default=0) or 1
    return [
        max(replica.weight, 0) / ((max(replica.in_flight, 0) + 1) * largest) for replica in replicas
    ]
