"""Which machines a replica prefers: those with the fewest of its service.

A service outlives a machine only if that machine does not have all of its replicas, so they are
spread: over clusters and pools in proportion to their machines, then over machines, then over
domains of the network (topology.py) from the widest on; among equals the fullest machine comes
first, as for every gang. Replicas on their way out do not count. It is a wish: a replica never
waits for a machine of its own, and no machine is ordered for it. Replicas that share an
accelerator are not spread: they share it so that whole ones stay free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

from quarterdeck.scheduling import topology
from quarterdeck.scheduling.snapshot import Request
from quarterdeck.scheduling.spread import Site
from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.specs.protocol import RankPlacement

Placed = tuple[RankPlacement, ...]


def spreads(request: Request) -> bool:
    """Whether it is a replica that prefers to be apart from its like."""
    return bool(request.service) and request.share == WHOLE


def fewest_first(sites: Sequence[Site], request: Request) -> Sequence[Site]:
    """The sites, those first whose cluster has fewer of its service for each machine, and of a
    cluster those that have fewer themselves."""
    if not spreads(request) or len(sites) < 2:
        return sites
    machines: Counter[str] = Counter()
    there: Counter[str] = Counter()
    for site in sites:
        machines[site.cluster] += len(site.rooms)
        there[site.cluster] += _count(site, request.service)

    def crowd(site: Site) -> tuple[float, float]:
        mine = _count(site, request.service) / max(1, len(site.rooms))
        return there[site.cluster] / max(1, machines[site.cluster]), mine

    return sorted(sites, key=crowd)


def _count(site: Site, service: str) -> int:
    return sum(hold.service == service for hold in site.holds)


def places(site: Site, request: Request) -> Iterator[Placed]:
    """The places of the gang in a site, the one that it prefers first: apart from its like, close
    together, anywhere. None where not all of its ranks fit. Takes nothing."""
    packed = site.place(request)
    if packed is None:
        return
    wished = _wished(site, request) or packed
    yield wished
    if wished != packed:
        yield packed


def _wished(site: Site, request: Request) -> Placed | None:
    pools = [state.pool for state in site.states]
    if not spreads(request):
        return topology.place(pools, request)
    crowd = _crowd(site, request.service)
    for most in sorted(set(crowd.values())):
        crowded = {node for node, count in crowd.items() if count > most}
        if placed := topology.place(pools, replace(request, avoid=request.avoid | crowded)):
            return placed
    return None


def _crowd(site: Site, service: str) -> dict[str, tuple[int, ...]]:
    """How many replicas of the service there are on each machine and around it: in its domains,
    the widest first. Machines whose place is not known are in one domain together."""
    paths = _padded({node_id: room.node.topology for node_id, room in site.rooms.items()})
    there: Counter[str] = Counter()
    around: Counter[str] = Counter()
    for hold in site.holds:
        if hold.service == service:
            mine = [node for node in hold.slots if node in paths]
            there.update(mine)
            around.update({name for node in mine for name in paths[node]})
    return {node: (there[node], *(around[name] for name in names)) for node, names in paths.items()}


def _padded(paths: dict[str, str]) -> dict[str, list[str]]:
    """The domains of each machine, as many for all."""
    found = {node: topology.domains(path) for node, path in paths.items()}
    depth = max((len(names) for names in found.values()), default=0)
    return {
        node: [name for name, _ in zip_longest(names, range(depth), fillvalue="")]
        for node, names in found.items()
    }
