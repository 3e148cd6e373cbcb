"""Requests of one session go to one replica, as long as its load allows: consistent hashing with
bounded loads. Copies of the gateway agree."""

from __future__ import annotations

from quarterdeck.routing.pickers.best import best
from quarterdeck.routing.policy import RoutingPolicy, WeightedScorer
from quarterdeck.routing.scorers.consistent_hash import SessionHash
from quarterdeck.specs.routing import RoutingSettings


def build(settings: RoutingSettings) -> RoutingPolicy:
    """The session's replica under the load bound; without a session the fewest in flight."""
    scorer = WeightedScorer("session", SessionHash(settings.load_bound))
    return RoutingPolicy("session", (scorer,), best)
