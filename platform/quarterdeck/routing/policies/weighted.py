"""Everybody in turn, in proportion to their weights: for replicas of unequal strength."""

from __future__ import annotations

from quarterdeck.routing.pickers.best import best
from quarterdeck.routing.policy import RoutingPolicy, WeightedScorer
from quarterdeck.routing.scorers.turns import Turns
from quarterdeck.specs.routing import RoutingSettings


def build(settings: RoutingSettings) -> RoutingPolicy:
    """Turns by weight."""
    turns = Turns(lambda replica: replica.share)
    return RoutingPolicy("weighted", (WeightedScorer("turn", turns),), best, memories=(turns,))
