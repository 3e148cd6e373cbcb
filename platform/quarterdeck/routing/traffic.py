"""Which revision a request goes to: drawn by the weights of a rollout.

Example: weights {3: 0.9, 4: 0.1} send every tenth request to revision 4 while it has a replica
that takes traffic, and none while it has none. Weights say who is preferred, never that nobody
answers: when no weighted revision can take the request, all replicas may.

A request with a session is not drawn by chance but by the session's hash: it stays with its
revision, and as the newer one's weight grows, sessions only move to that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
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
    chosen = _drawn(shares, _point(request.session, random))
    return [replica for replica in replicas if replica.revision == chosen]


def _point(key: str, random: Random) -> float:
    """From 0 to below 1: the key's own, without a key by chance."""
    if not key:
        return random.random()
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=b"revision")
    return int.from_bytes(digest.digest()) / 2.0**64


def _drawn(shares: Mapping[int, float], point: float) -> int:
    """The revision at `point` of all shares laid end to end."""
    left = point * sum(shares.values())
    for number in sorted(shares):
        left -= shares[number]
        if left < 0:
            return number
    return max(shares)  # the sum's last bit
