"""The better of two drawn by chance.

Two draws bring the longest queue from log n / log log n down to log log n, and several gateways
with old knowledge do not all run to the same replica, as they would to the best.
Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001; Envoy's
least-request balancer.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from quarterdeck.routing.replicas import ReplicaView


def two_of(replicas: Sequence[ReplicaView], scores: Sequence[float], random: Random) -> ReplicaView:
    """The better of two different replicas; the first drawn of equals. `replicas` must not be
    empty."""
    count = len(replicas)
    if count == 1:
        return replicas[0]
    first = random.randrange(count)
    second = random.randrange(count - 1)
    second += second >= first
    return replicas[second] if scores[second] > scores[first] else replicas[first]
