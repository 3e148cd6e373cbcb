"""The replica with the fewest requests in flight for its weight: the evenest load of one gateway.

Several gateways that look at the same moment may run to the same replica: `power_of_two` does
not."""

from __future__ import annotations

from quarterdeck.routing.pickers.best import best
from quarterdeck.routing.policy import RoutingPolicy, WeightedScorer
from quarterdeck.routing.scorers.least_requests import least_requests
from quarterdeck.specs.routing import RoutingSettings


def build(settings: RoutingSettings) -> RoutingPolicy:
    """The fewest in flight, equals by chance."""
    return RoutingPolicy("least_requests", (WeightedScorer("load", least_requests),), best)
