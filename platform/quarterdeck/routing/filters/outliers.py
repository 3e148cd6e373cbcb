"""Prefers replicas that have not failed lately.

A preference only: when everybody is ejected the policy goes on with all of them, since a small
chance is better than a sure refusal.
"""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.routing.replicas import ReplicaView, RouteRequest


def not_ejected(request: RouteRequest, replicas: Sequence[ReplicaView]) -> list[ReplicaView]:
    """Replicas that are not resting after failures."""
    return [replica for replica in replicas if not replica.ejected]
