"""Ready, not draining, not yet tried by this request."""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.routing.replicas import Refusal, ReplicaView, RouteRequest


def takes_traffic(request: RouteRequest, replicas: Sequence[ReplicaView]) -> list[ReplicaView]:
    """Replicas that answered a probe, are not being stopped, and have not failed this request."""
    return [
        replica
        for replica in replicas
        if replica.ready and not replica.draining and replica.run_id not in request.tried
    ]


def left_out(request: RouteRequest, replica: ReplicaView) -> str:
    """Why a replica takes no traffic; empty when it does."""
    if replica.draining:
        return "it is being stopped"
    if not replica.ready:
        return "it is not ready"
    if replica.run_id in request.tried:
        return "this request was sent to it before"
    return ""


def refusal_of(request: RouteRequest, replicas: Sequence[ReplicaView]) -> Refusal:
    """Why none of the replicas takes the request."""
    if not replicas:
        return Refusal("no_replicas", "the service has no replica")
    open_ = [replica for replica in replicas if not replica.draining]
    if not open_:
        return Refusal("draining", f"all {len(replicas)} replicas are being stopped")
    ready = [replica for replica in open_ if replica.ready]
    if not ready:
        return Refusal("not_ready", f"none of {len(open_)} replicas is ready yet")
    return Refusal("all_tried", f"all {len(ready)} ready replicas failed this request")
