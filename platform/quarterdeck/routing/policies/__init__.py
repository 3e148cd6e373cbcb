"""Ready-made policies by name."""

from __future__ import annotations

from collections.abc import Callable

from quarterdeck.routing.policies import (
    adapter,
    latency,
    least_requests,
    power_of_two,
    prefix,
    queue,
    round_robin,
    session,
    weighted,
)
from quarterdeck.routing.policy import RoutingPolicy
from quarterdeck.specs.routing import DEFAULT_POLICY, RoutingSettings

POLICIES: dict[str, Callable[[RoutingSettings], RoutingPolicy]] = {
    "round_robin": round_robin.build,
    "weighted": weighted.build,
    "least_requests": least_requests.build,
    "power_of_two": power_of_two.build,
    "latency": latency.build,
    "session": session.build,
    "prefix": prefix.build,
    "queue": queue.build,
    "adapter": adapter.build,
}
READS_PROMPTS = frozenset({"prefix", "queue"})
"""Policies that look at a request's text."""
READS_ENGINES = frozenset({"queue", "adapter"})
"""Policies that look at the engines' own numbers."""

READS_LATENCY = frozenset({"latency"})
"""Policies that look at this gateway's own estimates of latency."""


def build(settings: RoutingSettings) -> RoutingPolicy:
    """A policy with an empty memory. A name that is not known here, from a newer api, gives the
    default."""
    return POLICIES.get(settings.policy, POLICIES[DEFAULT_POLICY])(settings)
