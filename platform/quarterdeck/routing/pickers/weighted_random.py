"""A draw among those that are nearly as good as the best, in proportion to score and weight.

The best alone would get all requests until the engines' numbers, a second old, say otherwise:
the hot spots that llm-d's picker avoids in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from quarterdeck.routing.replicas import ReplicaView

NEARLY = 0.9


def weighted_random(
    replicas: Sequence[ReplicaView], scores: Sequence[float], random: Random
) -> ReplicaView:
    """One of those with at least NEARLY of the highest score. `replicas` must not be empty."""
    highest = max(scores)
    near = [(r, s) for r, s in zip(replicas, scores, strict=True) if s >= NEARLY * highest]
    weights = [replica.share * score for replica, score in near]
    if sum(weights) <= 0:
        return near[random.randrange(len(near))][0]
    return random.choices([replica for replica, _ in near], weights)[0]
