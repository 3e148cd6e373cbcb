"""The default: of two replicas drawn by chance the one with fewer requests in flight.

Scores are weight/(active + 1), as Envoy's."""

from __future__ import annotations

from quarterdeck.routing.pickers.two_of import two_of
from quarterdeck.routing.policy import RoutingPolicy, WeightedScorer
from quarterdeck.routing.scorers.least_requests import least_requests
from quarterdeck.specs.routing import RoutingSettings


def build(settings: RoutingSettings) -> RoutingPolicy:
    """Two draws, the lesser load."""
    return RoutingPolicy("power_of_two", (WeightedScorer("load", least_requests),), two_of)
