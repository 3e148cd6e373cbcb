"""Which pool makes the cluster of a run with an image, and why a gang waits for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quarterdeck.scheduling.growth import roomiest
from quarterdeck.scheduling.snapshot import GroupView, Pending, Request
from quarterdeck.store.admission import World


def home_of(request: Request, seen: World, groups: Iterable[GroupView]) -> str:
    """The pool whose template the run's cluster gets; empty: there is none. `groups` are what
    all pools may bring."""
    mine = [group for group in groups if not group.image]
    whys = {
        group.cluster: seen.tenancy.why_closed(group.cluster, request.project) for group in mine
    }
    closed = {name: why for name, why in whys.items() if why}
    return roomiest(mine, replace(request, closed=closed))


def waits_for_own(
    request: Request, seen: World, image: str, groups: Iterable[GroupView]
) -> Pending:
    """Why a gang whose run has no cluster yet waits."""
    mine = [group for group in groups if not group.image]
    names = sorted({group.cluster for group in mine})
    if home := home_of(request, seen, mine):
        message = f"pool {home} makes a cluster of its own for it, with image {image}"
        return Pending(request.id, "WaitingForCluster", message)
    remedy = "or leave environment out and make what it needs in `setup`"
    if not names:
        message = (
            f"environment.image: {image} needs a pool on Kubernetes, whose pods are made with it, "
            f"and nobody sizes one here: add a pool (QUARTERDECK_POOLS), {remedy}"
        )
    elif request.cluster is not None and request.cluster not in names:
        message = (
            f"environment.image: {image} needs a pool on Kubernetes, and cluster "
            f"{request.cluster} is none: name one of {', '.join(names)}, {remedy}"
        )
    else:
        message = (
            f"environment.image: {image} needs a pool that has room for {request.ranks} ranks at "
            f"its largest and takes project {request.project}, and none of {', '.join(names)} "
            f"does: ask for less, raise max_replicas, {remedy}"
        )
    return Pending(request.id, "NoPoolForImage", message)
