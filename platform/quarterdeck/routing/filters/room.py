"""Prefers replicas that carry fewer requests than they can take at once.

Else a replica that has just started, whose share is still small, would stay idle beside a full
one. When all are full, all are considered.
"""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.routing.replicas import ReplicaView, RouteRequest


def has_place(request: RouteRequest, replicas: Sequence[ReplicaView]) -> list[ReplicaView]:
    """Replicas below their limit."""
    return [
        replica
        for replica in replicas
        if replica.limit is None or replica.in_flight < replica.limit
    ]


def full(replica: ReplicaView) -> str:
    """That a replica is at its limit; empty when it is not."""
    if replica.limit is None or replica.in_flight < replica.limit:
        return ""
    return f"it is full: {replica.in_flight} of {replica.limit} requests"
