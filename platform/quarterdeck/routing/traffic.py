"""Which revision a request goes to: drawn by the weights of a rollout.

Example: weights {3: 0.9, 4: 0.1} send every tenth request to revision 4 while it has a replica
that takes traffic, and none while it has none. Weights say who is preferred, never that nobody
answers: when no weighted revision can take the request, all replicas may.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from quarterdeck.routing.filters.availability import takes_traffic
from quarterdeck.routing.replicas import ReplicaView, RouteRequest
from quarterdeck.specs.gateway_snapshot import TrafficShare


def of_revision(
    request: RouteRequest,
    replicas: list[ReplicaView],
    traffic: Sequence[TrafficShare],
    random: Random,
    asked: int | None = None,
) -> list[ReplicaView]:
    """The replicas among which a request is balanced. `asked` names a revision outright: then only
    its replicas will do, however few."""
    if asked is not None:
        return [replica for replica in replicas if replica.revision == asked]
    if not traffic:
        return replicas
    able = {
        replica.revision
        for replica in takes_traffic(request, replicas)
        if not (replica.ejected or replica.unreachable)
    }
    shares = {each.revision: each.weight for each in traffic if each.weight > 0}
    shares = {number: share for number, share in shares.items() if number in able}
    if not shares:
        return replicas
    chosen = random.choices(list(shares), list(shares.values()))[0]
    return [replica for replica in replicas if replica.revision == chosen]
