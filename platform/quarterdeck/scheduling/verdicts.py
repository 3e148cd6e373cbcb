"""Why a gang goes to one cluster and to none of the others. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quarterdeck.scheduling.snapshot import Assignment, Request, Snapshot
from quarterdeck.scheduling.spread import Site

MOST = 20
"""Clusters that are told of."""


def verdicts(
    snapshot: Snapshot, request: Request, sites: Sequence[Site], taken: Assignment | None = None
) -> Mapping[str, str]:
    """A sentence for each cluster, by name: that of `taken` first, then by name. Empty where there
    was no choice: one cluster, or the request names its own. Other jobs' own clusters are left out.

    `sites` are those that match the request's filters, after `taken` took its places.
    """
    if request.cluster is not None or len(snapshot.clusters) < 2:
        return {}
    ours = taken.cluster if taken else ""
    names = [name for name in snapshot.clusters if name == ours or name not in snapshot.exclusive]
    if len(names) < 2:
        return {}
    mine: dict[str, list[Site]] = {}
    for site in sites:
        mine.setdefault(site.cluster, []).append(site)
    names.sort(key=lambda name: (name != ours, name))
    return {
        name: _taken(taken)
        if taken and name == taken.cluster
        else _not_taken(snapshot, request, name, mine.get(name, ()))
        for name in names[:MOST]
    }


def _taken(taken: Assignment) -> str:
    machines = len({place.node_id for place in taken.placements})
    models = sorted({place.accelerator for place in taken.placements})
    ranks = f"{len(taken.placements)} rank{'s' if len(taken.placements) > 1 else ''}"
    return f"taken: {ranks} on {machines} machine{'s' if machines > 1 else ''} ({_names(models)})"


def _not_taken(snapshot: Snapshot, request: Request, name: str, sites: Sequence[Site]) -> str:
    if name in request.closed:
        return f"it {request.closed[name]}"
    if not snapshot.clusters[name]:
        return "its agent is silent"
    if not sites:
        return _no_site(snapshot, request, name)
    if any(site.fits(request) for site in sites):
        ahead = max((site.ahead for site in sites), key=len)
        if ahead:
            return f"it has room, but {ahead[-1].request.label} waits ahead of it there"
        return "it has room too"
    best = max(sites, key=lambda site: (site.fits_if_empty(request), site.free, site.total))
    unit = _names([state.accelerator for state in best.states])
    if best.fits_if_empty(request):
        return f"{best.free} of {best.total} {unit} are free, it needs {_needs(request)}"
    return f"it has {best.total} {unit} in all, not enough for {_needs(request)}"


def _no_site(snapshot: Snapshot, request: Request, name: str) -> str:
    there = [node for node in snapshot.nodes if node.cluster == name and node.phase != "dead"]
    known = {node.accelerator.lower(): node.accelerator for node in there}
    lacking = [model for model in request.models if model not in known]
    if there and lacking:
        asked = {(part.accelerator or "").lower(): part.accelerator for part in request.parts}
        named = [asked.get(model) or request.accelerator or model for model in lacking]
        return f"it has no {' and no '.join(named)}, only {_names(sorted(known.values()))}"
    return "it has no machine that takes work now"


def _needs(request: Request) -> str:
    groups = f" in groups of {request.tensor}" if request.tensor > 1 else ""
    return f"{request.ranks}{groups}"


def _names(models: Sequence[str]) -> str:
    return " and ".join("cpu slots" if model.lower() == "cpu" else model for model in models)
