"""Everybody in turn: for requests of equal cost on equal replicas."""

from __future__ import annotations

from quarterdeck.routing.pickers.best import best
from quarterdeck.routing.policy import RoutingPolicy, WeightedScorer
from quarterdeck.routing.scorers.turns import Turns
from quarterdeck.specs.routing import RoutingSettings


def build(settings: RoutingSettings) -> RoutingPolicy:
    """Turns alike, whatever the weights; a replica that has just started gets fewer."""
    turns = Turns(lambda replica: replica.ramp)
    return RoutingPolicy("round_robin", (WeightedScorer("turn", turns),), best, memories=(turns,))
