"""What is known of Kubernetes' nodes. A few are asked for by name at every look; many are listed,
and that is believed for a while: a list has all of the Kubernetes cluster, some 15 KB each."""

from __future__ import annotations

import time
from collections.abc import Callable, Set

from quarterdeck.cluster.kubernetes_client import Kubernetes
from quarterdeck.cluster.observation import see_node
from quarterdeck.cluster.provider import NodeSeen, ProviderError

ONE_BY_ONE = 20
"""Up to so many nodes of a pool are asked for by name."""
LISTED_S = 10.0
"""So long a list is believed. Clouds tell of the end of a machine 30 seconds before, or earlier."""
ASKED = 20
"""Of many nodes, so many that the list has not are asked for in one look; of the others nothing is
known until the next list."""


class Nodes:
    """The nodes of one API server, for the pools there. `clock` counts seconds."""

    def __init__(self, api: Kubernetes, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._clock = api, clock
        self._listed: dict[str, NodeSeen] = {}
        self._listed_at: float | None = None

    def seen(self, names: Set[str]) -> dict[str, NodeSeen]:
        """What is known of these. One is gone only if asking for it says so. Raises
        ProviderError."""
        if len(names) <= ONE_BY_ONE:
            return {name: self._ask(name) for name in sorted(names)}
        now = self._clock()
        if self._listed_at is None or now - self._listed_at >= LISTED_S:
            # Each page is let go when it was looked at: large clusters have many megabytes.
            found = map(see_node, self._api.each("/api/v1/nodes"))
            self._listed = {node.name: node for node in found}
            self._listed_at = now
        known = {name: self._listed[name] for name in names & self._listed.keys()}
        for name in sorted(names - known.keys())[:ASKED]:
            known[name] = self._ask(name)
            if not known[name].dead:  # one of its name may come
                self._listed[name] = known[name]
        return known

    def _ask(self, name: str) -> NodeSeen:
        try:
            return see_node(self._api.get(f"/api/v1/nodes/{name}"))
        except ProviderError as error:
            if error.reason != "NotFound":
                raise
            return NodeSeen(name, dead=f"node {name} was deleted from Kubernetes")
