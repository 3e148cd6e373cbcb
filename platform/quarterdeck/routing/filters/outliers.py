"""Prefers replicas that have not failed lately; below half of them healthy, all take traffic.

Ejection rests on few observations: where it would put the load of most replicas on a few, the
fault is likely not theirs, and the few would break down too (Envoy's panic threshold, 50 %). A
replica that refused a connection a moment ago stays out even then, since it can carry nothing.
A preference only: a small chance is better than a sure refusal.
Source: Envoy, "Panic threshold".
"""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.routing.replicas import ReplicaView, RouteRequest

PANIC_BELOW = 0.5


def not_ejected(request: RouteRequest, replicas: Sequence[ReplicaView]) -> list[ReplicaView]:
    """Replicas that are not resting after failures."""
    for replica in replicas:
        if replica.unreachable or replica.ejected:
            break
    else:
        return list(replicas)
    reachable = [replica for replica in replicas if not replica.unreachable]
    healthy = [replica for replica in reachable if not replica.ejected]
    if len(healthy) < PANIC_BELOW * len(replicas):
        return reachable
    return healthy


def unwell(replica: ReplicaView) -> str:
    """Why a replica rests; empty when it does not."""
    if replica.unreachable:
        return "its connection broke a moment ago"
    return "it rests after failed answers" if replica.ejected else ""
