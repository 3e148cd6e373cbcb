"""Which clusters are closed to a gang because of its project, and how that is said. Pure.

The rule is specs.tenancy.Tenancy.why_closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from quarterdeck.scheduling.snapshot import Pending, Request, Snapshot
from quarterdeck.specs.tenancy import Tenancy


class Doors:
    """What is closed to whom, looked up once for each project."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._tenancy = snapshot.tenancy
        self._exclusive = snapshot.exclusive
        self._mine: dict[str, set[str]] = {}
        """By owner: an attempt's cluster may still end when the next one has its own."""
        for cluster, owner in snapshot.exclusive.items():
            self._mine.setdefault(owner, set()).add(cluster)
        self._all_open = not (self._tenancy.owners or self._tenancy.isolated or snapshot.exclusive)
        self._clusters = sorted(known_clusters(snapshot))
        self._guests: dict[str, set[str]] = {}
        for hold in snapshot.holds if self._tenancy.isolated else ():
            self._guests.setdefault(hold.cluster, set()).add(hold.project)
        self._closed: dict[str, Mapping[str, str]] = {}

    def shown_to(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests, each with what is closed to it."""
        for request in requests:
            closed = self.closed_to(request.project)
            mine = self._mine.get(request.id, ())
            if open_ := {name for name in mine if not self._why(name, request.project)}:
                closed = {name: why for name, why in closed.items() if name not in open_}
            yield replace(request, closed=closed) if closed else request

    def closed_to(self, project: str) -> Mapping[str, str]:
        """The clusters that take no gang of a project, and why each."""
        if self._all_open:
            return {}
        if project not in self._closed:
            whys = {
                name: self._why(name, project) or (self._exclusive.get(name) and "is another job's")
                for name in self._clusters
            }
            self._closed[project] = {name: why for name, why in whys.items() if why}
        return self._closed[project]

    def _why(self, cluster: str, project: str) -> str:
        return self._tenancy.why_closed(cluster, project, self._guests.get(cluster, ()))


def known_clusters(snapshot: Snapshot) -> set[str]:
    """Those that agents told of, and those that pools will make."""
    return {*snapshot.clusters, *(group.cluster for group in snapshot.groups)}


def explain_closed(snapshot: Snapshot, request: Request) -> Pending | None:
    """Why a gang waits to which every cluster that it may name is closed; None: one is open."""
    names = sorted(
        name
        for name in known_clusters(snapshot)
        if name == request.cluster or (request.cluster is None and name not in snapshot.exclusive)
    )
    if not names or any(name not in request.closed for name in names):
        return None
    tenancy = snapshot.tenancy
    there = "; ".join(f"{name} {request.closed[name]}" for name in names[:5])
    reason, message = _words(request, tenancy, there)
    return Pending(request.id, reason, message)


def _words(request: Request, tenancy: Tenancy, there: str) -> tuple[str, str]:
    project, own = request.project, tenancy.owned_by(request.project)
    if project not in tenancy.isolated:
        remedy = "leave `cluster` out, or name" if request.cluster else "start"
        message = f"no cluster takes runs of project {project}: {there}; {remedy} one that does"
        return "ClusterOfAnotherProject", message
    if not own:
        return "NoClusterOfItsOwn", (
            f"project {project} is isolated and has no cluster of its own: give a pool "
            f"`project: {project}`, or start an agent with --project {project} ({there})"
        )
    if request.cluster is not None and request.cluster not in own:
        return "NoClusterOfItsOwn", (
            f"project {project} is isolated: {there}; leave `cluster` out, or name one of its "
            f"own: {', '.join(own)}"
        )
    mine = "; ".join(f"{name} {request.closed[name]}" for name in own if name in request.closed)
    return "OthersStillRun", (
        f"project {project} is isolated, and nothing of another may run beside it: {mine}"
    )
