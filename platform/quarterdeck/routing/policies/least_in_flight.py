"""The default: the healthy replica with the fewest requests in flight."""

from __future__ import annotations

from quarterdeck.routing.filters.outliers import not_ejected
from quarterdeck.routing.pickers.best import best
from quarterdeck.routing.policy import RoutingPolicy, WeightedScorer
from quarterdeck.routing.scorers.least_in_flight import least_in_flight

LEAST_IN_FLIGHT = RoutingPolicy(
    name="least-in-flight",
    filters=(not_ejected,),
    scorers=(WeightedScorer(least_in_flight),),
    picker=best,
)
