"""What the engines say of themselves: waiting requests and free KV cache.

The queue scores as llm-d's queue scorer: 1 for the shortest, 0 for the longest, in proportion
between. The cache scores by its free share. Where an engine does not tell, its requests in
flight stand for its queue, and the mean of the others for its cache.
Source: llm-d inference scheduler, `queue-scorer` and `kv-cache-utilization-scorer`.
"""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.routing.replicas import ReplicaView, RouteRequest, Scored


def short_queue(request: RouteRequest, replicas: Sequence[ReplicaView]) -> Scored:
    """(longest − own)/(longest − shortest); 1 where all are equal."""
    told = all(replica.waiting is not None for replica in replicas)
    # Numbers of two kinds do not compare: one silent engine, and all go by requests in flight.
    queues = [(replica.waiting or 0) if told else max(replica.in_flight, 0) for replica in replicas]
    longest, shortest = max(queues), min(queues)
    if longest == shortest:
        return Scored([1.0] * len(replicas), "queues are equal")
    spread = longest - shortest
    kind = "waiting" if told else "in flight"
    return Scored(
        [(longest - queue) / spread for queue in queues],
        f"queues of {shortest} to {longest} {kind}",
    )


def free_cache(request: RouteRequest, replicas: Sequence[ReplicaView]) -> Scored:
    """The free share of the KV cache."""
    known = [replica.kv_free for replica in replicas if replica.kv_free is not None]
    if not known:
        return Scored([1.0] * len(replicas))
    mean = sum(known) / len(known)
    values = [mean if replica.kv_free is None else replica.kv_free for replica in replicas]
    return Scored(
        [min(max(value, 0.0), 1.0) for value in values],
        f"caches {min(values):.0%} to {max(values):.0%} free",
    )
