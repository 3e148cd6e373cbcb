"""Replicas that have the request's LoRA adapter loaded, then those with room for it.

1.0 in use there, 0.8 not there but a slot is free, 0.6 already waited for there, 0 no slot left.
A replica that says nothing of adapters counts as one with a free slot. Requests without an
adapter suit all alike.
Source: Gateway API inference extension (llm-d), `lora-affinity-scorer`.
"""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.routing.replicas import ReplicaView, RouteRequest, Scored


def adapter_affinity(request: RouteRequest, replicas: Sequence[ReplicaView]) -> Scored:
    """The affinity of each replica to the request's adapter."""
    if not request.adapter:
        return Scored([1.0] * len(replicas), "no adapter asked for")
    scores = [_affinity(request.adapter, replica) for replica in replicas]
    where = "loaded" if max(scores) == 1.0 else "not loaded anywhere"
    return Scored(scores, f"adapter {where}")


def _affinity(adapter: str, replica: ReplicaView) -> float:
    if adapter in replica.adapters:
        return 1.0
    taken = len(replica.adapters | replica.adapters_waiting)
    if replica.adapter_slots is None or taken < replica.adapter_slots:
        return 0.8
    return 0.6 if adapter in replica.adapters_waiting else 0.0
