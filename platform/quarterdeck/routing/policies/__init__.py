"""Ready-made policies by name."""

from __future__ import annotations

from quarterdeck.routing.policies.least_in_flight import LEAST_IN_FLIGHT
from quarterdeck.routing.policy import RoutingPolicy

DEFAULT = LEAST_IN_FLIGHT
POLICIES: dict[str, RoutingPolicy] = {policy.name: policy for policy in (LEAST_IN_FLIGHT,)}
