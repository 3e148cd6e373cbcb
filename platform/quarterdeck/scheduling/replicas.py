"""Which machines a replica prefers: those with the fewest of its service.

A service outlives a machine only if that machine does not have all of its replicas, so they are
spread: over clusters first, then over domains of the network from the widest on (topology.py), then
over machines; among equals the fullest machine comes first, as for every gang. It is a wish: a
replica never waits for a machine of its own, and no machine is ordered for it. Replicas that share
an accelerator are not spread: they share it so that whole ones stay free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from quarterdeck.scheduling import topology
from quarterdeck.scheduling.snapshot import Request
from quarterdeck.scheduling.spread import Site
from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.specs.protocol import RankPlacement


def spreads(request: Request) -> bool:
    """Whether it is a replica that prefers to be apart from its like."""
    return bool(request.service) and request.share == WHOLE


def fewest_first(sites: Sequence[Site], request: Request) -> Sequence[Site]:
    """The sites, those of a cluster with fewer of its service first."""
    if not spreads(request) or len(sites) < 2:
        return sites
    holds = {id(hold): hold for site in sites for hold in site.holds}.values()
    there = Counter(hold.cluster for hold in holds if hold.service == request.service)
    return sorted(sites, key=lambda site: there[site.cluster])


def place(site: Site, request: Request) -> tuple[RankPlacement, ...] | None:
    """All ranks of the gang, a replica's on the machines with the fewest of its service; None when
    not all of them fit anywhere. Takes nothing."""
    packed = topology.place(site, request)
    if packed is None or not spreads(request):
        return packed
    crowd = _crowd(site, request.service)
    for most in sorted(set(crowd.values())):
        crowded = {node for node, count in crowd.items() if count > most}
        if placed := topology.place(site, replace(request, avoid=request.avoid | crowded)):
            return placed
    return packed


def _crowd(site: Site, service: str) -> dict[str, tuple[int, ...]]:
    """How many replicas of the service there are around each machine: in its domains, the widest
    first, and on it."""
    paths = {node_id: room.node.topology for node_id, room in site.rooms.items()}
    there: Counter[str] = Counter()
    around: Counter[str] = Counter()
    for hold in site.holds:
        if hold.service == service:
            mine = [node for node in hold.slots if node in paths]
            there.update(mine)
            around.update({name for node in mine for name in topology.domains(paths[node])})
    return {
        node: (*(around[name] for name in topology.domains(path)), there[node])
        for node, path in paths.items()
    }
