"""Where the request's LoRA adapter is loaded, then where there is room for it and a short queue:
for many adapters over one base model."""

from __future__ import annotations

from quarterdeck.routing.pickers.weighted_random import weighted_random
from quarterdeck.routing.policy import RoutingPolicy, WeightedScorer
from quarterdeck.routing.scorers.adapter_affinity import adapter_affinity
from quarterdeck.routing.scorers.engine_load import short_queue
from quarterdeck.specs.routing import RoutingSettings


def build(settings: RoutingSettings) -> RoutingPolicy:
    """Affinity counts twice as much as the queue."""
    scorers = (
        WeightedScorer("adapter", adapter_affinity, 2.0),
        WeightedScorer("queue", short_queue, 1.0),
    )
    return RoutingPolicy("adapter", scorers, weighted_random)
