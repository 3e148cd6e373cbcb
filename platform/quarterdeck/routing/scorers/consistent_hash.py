"""One key, one replica: consistent hashing with bounded loads.

Each replica draws a number from a hash of (key, replica), and the key belongs to the highest
(rendezvous hashing; weights after Schindelhauer and Schomaker, -weight/ln u). So gateways with
the same replicas agree without a word, a new replica takes only its share of the keys, and those
of one that leaves spread over the others. A replica that carries its bound of the load, `bound` ×
the mean for its weight, passes the key on to the next in the key's own order.
Sources: Thaler and Ravishankar, 1998; Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing
with Bounded Loads", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

from quarterdeck.routing.replicas import ReplicaView, RouteRequest, Scored
from quarterdeck.routing.scorers.least_requests import least_requests


def order_of(key: str, replicas: Sequence[ReplicaView]) -> list[int]:
    """The places of the replicas in the key's own order, its owner first."""
    hashed = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def draw(place: int) -> float:
        replica = replicas[place]
        digest = blake2b(replica.run_id.encode(), key=hashed, digest_size=8).digest()
        uniform = (int.from_bytes(digest) + 0.5) / 2.0**64
        return max(replica.weight, 0.0) / -math.log(uniform)

    return sorted(range(len(replicas)), key=lambda place: (-draw(place), replicas[place].run_id))


def has_room(replicas: Sequence[ReplicaView], bound: float) -> list[bool]:
    """Which replicas may take one more: those below ceil(bound × mean load × weight). The one
    with the least load for its weight always may."""
    total = sum(max(replica.in_flight, 0) for replica in replicas) + 1
    shares = sum(replica.share for replica in replicas)
    if shares <= 0:
        return [True] * len(replicas)
    return [
        replica.in_flight < math.ceil(bound * total * replica.share / shares)
        for replica in replicas
    ]


def by_hash(key: str, replicas: Sequence[ReplicaView], bound: float) -> list[float]:
    """1 for the replica that the key falls to under the bound, ½ for the next, ⅓ and so on;
    those without room come last."""
    room = has_room(replicas, bound)
    order = order_of(key, replicas)
    ranked = [place for place in order if room[place]] + [p for p in order if not room[p]]
    scores = [0.0] * len(replicas)
    for rank, place in enumerate(ranked):
        scores[place] = 1.0 / (rank + 1)
    return scores


class SessionHash:
    """Requests with a session go by its hash, those without to the fewest in flight."""

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def __call__(self, request: RouteRequest, replicas: Sequence[ReplicaView]) -> Scored:
        if not request.session:
            return Scored(least_requests(request, replicas).values, "no session: fewest in flight")
        scores = by_hash(request.session, replicas, self._bound)
        owner = order_of(request.session, replicas)[0]
        if scores[owner] == 1.0:
            return Scored(scores, "the session's replica")
        return Scored(scores, f"the session's replica carries {self._bound:g} times the mean load")
