"""Of two replicas drawn by chance the one that likely answers first: for replicas of unequal or
changing speed. Finagle's peak EWMA with two choices."""

from __future__ import annotations

from quarterdeck.routing.pickers.two_of import two_of
from quarterdeck.routing.policy import RoutingPolicy, WeightedScorer
from quarterdeck.routing.scorers.peak_ewma import peak_ewma
from quarterdeck.specs.routing import RoutingSettings


def build(settings: RoutingSettings) -> RoutingPolicy:
    """Two draws, the shorter wait to expect."""
    return RoutingPolicy("latency", (WeightedScorer("wait", peak_ewma),), two_of)
