"""Where the prompt's beginning is cached, after SGLang: for conversations and shared prompts."""

from __future__ import annotations

from quarterdeck.routing.pickers.best import best
from quarterdeck.routing.policy import RoutingPolicy, WeightedScorer
from quarterdeck.routing.scorers.prefix import CacheAware, PrefixTrees
from quarterdeck.specs.routing import RoutingSettings


def build(settings: RoutingSettings) -> RoutingPolicy:
    """The rule of `scorers/prefix.py`."""
    trees = PrefixTrees()
    scorer = CacheAware(
        trees,
        threshold=settings.prefix_threshold,
        imbalance=settings.imbalance,
        load_bound=settings.load_bound,
    )
    return RoutingPolicy("prefix", (WeightedScorer("prefix", scorer),), best, memories=(trees,))
