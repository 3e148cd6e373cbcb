"""Prefix, queue and free cache weighed together by the engines' own numbers, as llm-d: prefix 3,
queue 2, free KV cache 2; a draw among those nearly as good as the best."""

from __future__ import annotations

from quarterdeck.routing.pickers.weighted_random import weighted_random
from quarterdeck.routing.policy import RoutingPolicy, WeightedScorer
from quarterdeck.routing.scorers.engine_load import free_cache, short_queue
from quarterdeck.routing.scorers.prefix import CachedShare, PrefixTrees
from quarterdeck.specs.routing import RoutingSettings


def build(settings: RoutingSettings) -> RoutingPolicy:
    """The weighted sum of the three."""
    trees = PrefixTrees()
    scorers = (
        WeightedScorer("prefix", CachedShare(trees), 3.0),
        WeightedScorer("queue", short_queue, 2.0),
        WeightedScorer("kv_free", free_cache, 2.0),
    )
    return RoutingPolicy("queue", scorers, weighted_random, memories=(trees,))
