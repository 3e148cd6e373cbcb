"""The best score; between equals by chance, so that several gateways do not march in step."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from quarterdeck.routing.replicas import ReplicaView

_EQUAL = 1e-9


def best(replicas: Sequence[ReplicaView], scores: Sequence[float], random: Random) -> ReplicaView:
    """One of the replicas with the highest score. `replicas` must not be empty."""
    highest = max(scores)
    tied = [
        replica
        for replica, score in zip(replicas, scores, strict=True)
        if highest - score <= _EQUAL
    ]
    return tied[random.randrange(len(tied))]
