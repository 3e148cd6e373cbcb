"""A policy: filters, then weighted scorers, then a picker.

Example: three ready replicas with 4, 0 and 0 requests in flight under least-in-flight: the
filters keep all three, the scorer says 0.2, 1 and 1, the picker draws between the last two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from quarterdeck.routing.filters.availability import refusal_of, takes_traffic
from quarterdeck.routing.replicas import (
    Filter,
    Picker,
    Refusal,
    ReplicaView,
    RouteRequest,
    Scorer,
)


@dataclass(frozen=True)
class WeightedScorer:
    scorer: Scorer
    weight: float = 1.0


@dataclass(frozen=True)
class RoutingPolicy:
    """How requests find their replica. Every policy serves through available replicas only;
    `filters` are applied after that."""

    name: str
    scorers: tuple[WeightedScorer, ...]
    picker: Picker
    filters: tuple[Filter, ...] = ()

    def choose(
        self, request: RouteRequest, replicas: Sequence[ReplicaView], random: Random
    ) -> ReplicaView | Refusal:
        """The replica for a request, or why there is none."""
        kept = takes_traffic(request, replicas)
        if not kept:
            return refusal_of(request, replicas)
        for narrow in self.filters:
            # A preference that leaves nobody is no reason to refuse.
            kept = narrow(request, kept) or kept
        scores = [0.0] * len(kept)
        for weighted in self.scorers:
            for index, score in enumerate(weighted.scorer(request, kept)):
                scores[index] += weighted.weight * score
        return self.picker(kept, scores, random)
