"""Whose pod is which node, and what each means for the other. Pure.

An agent on Kubernetes names its pod: by the label `pod` (`--label pod=$(POD_NAME)`), else by its
host's name, which is the pod's unless the pod has its node's network; then node and address tell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from quarterdeck.cluster.observation import together
from quarterdeck.cluster.provider import PodSeen, PoolSeen, Trouble
from quarterdeck.cluster.sizing import Machine
from quarterdeck.specs.pools import WorkerGroup
from quarterdeck.store.pools import LEAVING, OF_KUBERNETES, POD_LABEL, why_it_leaves
from quarterdeck.store.tables import NodeRow

JOIN_S = 300.0
"""A pod that runs for longer without its agent's report is in trouble."""
SPOT_PATIENCE_S = 300.0
"""Spot machines that have not come for so long are not waited for where others will do."""
SPOT_RETRY_S = 900.0
"""Nor are they asked for again so soon, once nothing of them is on its way."""
NOT_CREATED = frozenset({"QuotaExceeded", "Forbidden", "FailedCreate"})
"""Troubles of pods that there are not."""


@dataclass(frozen=True)
class Matched:
    """A pod and the node that its agent reports; None: none yet, or no more."""

    pod: PodSeen
    node: NodeRow | None

    @property
    def joined(self) -> bool:
        return self.node is not None and self.node.phase != "dead"

    @property
    def node_id(self) -> str:
        return self.node.id if self.node is not None else ""

    @property
    def closed_for(self) -> str:
        """Why the node is cordoned; empty where it is not, `by hand` where a person did it."""
        if self.node is None or not self.node.cordoned:
            return ""
        return self.node.cordon_reason or "by hand"


def match(seen: PoolSeen, nodes: Sequence[NodeRow]) -> list[Matched]:
    """Each worker pod with its node. `nodes` are the cluster's, the newest last."""
    known = _Known(nodes)
    return [Matched(pod, known.node_of(pod)) for pod in seen.pods if pod.group]


class _Known:
    """Nodes by what pods are found by: of a thousand, each pod must not look at all."""

    def __init__(self, nodes: Sequence[NodeRow]) -> None:
        self._nodes = nodes
        self._places: dict[tuple[str, ...], list[int]] = {}
        for place, node in enumerate(nodes):
            if named := node.labels.get(POD_LABEL):
                keys: list[tuple[str, ...]] = [("pod", named)]
            else:
                keys = [("host", node.host), ("address", node.host, node.address)]
            for key in keys:
                self._places.setdefault(key, []).append(place)

    def node_of(self, pod: PodSeen) -> NodeRow | None:
        """A living one before dead ones, the newest before others."""
        keys: list[tuple[str, ...]] = [("pod", pod.name), ("host", pod.name)]
        if pod.address:
            keys.append(("address", pod.node, pod.address))
        places = {place for key in keys for place in self._places.get(key, ())}
        mine = [self._nodes[place] for place in sorted(places)]
        living = [node for node in mine if node.phase != "dead"]
        newest = living or mine
        return newest[-1] if newest else None


def group_facts(
    group: WorkerGroup,
    seen: PoolSeen,
    matched: Sequence[Matched],
    before: Mapping[str, Any],
    now: datetime,
) -> dict[str, Any]:
    """What is known of a group: machines ordered, here and coming, how many more may be ordered,
    what one of them has, and why they do not come."""
    mine = _of(group.name, seen, matched)
    ordered = seen.replicas.get(group.name, 0)
    joined = [one for one in mine if one.joined]
    leaving = sum(one.closed_for.startswith(LEAVING) for one in joined)
    facts: dict[str, Any] = {
        "before": ordered,
        "here": sum(one.node is not None and one.node.phase == "alive" for one in joined),
        "joined": len(joined),
        "coming": max(0, ordered - len(joined)),
        "room": max(0, group.max_replicas - ordered) + leaving,
        "leaving": sorted(
            pod.name for pod in seen.pods if pod.group == group.name and pod.name in seen.removing
        ),
    }
    facts |= patience(group, facts, before, now)
    newest = joined[-1].node if joined else None
    for name in ("slots", "cpus", "memory"):
        facts[name] = getattr(newest, name) if newest is not None else before.get(name)
    troubles = _troubles(group, seen, mine, newest, now) if facts["coming"] else []
    if newest is not None and newest.slots != group.slots:
        message = (
            f"a machine has {newest.slots} slots, the pool's file says {group.slots}: correct "
            "`slots`, or what its agent is started with"
        )
        troubles.append(Trouble("SlotsDiffer", message, (newest.host,)))
    facts["trouble"] = [
        {"reason": one.reason, "message": one.message, "pods": list(one.pods)}
        for one in together(troubles)
    ]
    return facts


def patience(
    group: WorkerGroup, facts: Mapping[str, Any], before: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Whether a spot group is short of machines: since when those that are coming have not come,
    and until when others come in their place."""
    if not group.spot:
        return {}
    came = facts["joined"] > before.get("joined", 0)
    waits = facts["coming"] > 0
    since = _at(before.get("waits_since")) if waits and not came else None
    since = since or (now if waits else None)
    until = None if came else _at(before.get("short_until"))
    if since is not None and now - since >= timedelta(seconds=SPOT_PATIENCE_S):
        until = now + timedelta(seconds=SPOT_RETRY_S)
    found: dict[str, Any] = {"waits_since": since.isoformat() if since else None}
    if until is not None and until > now:
        found["short_until"] = until.isoformat()
        found["short"] = (
            f"spot machines have not come for {SPOT_PATIENCE_S / 60:g} min: others come in their "
            f"place, until {until:%H:%M} UTC at least"
        )
    return found


def _at(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _troubles(
    group: WorkerGroup,
    seen: PoolSeen,
    mine: Sequence[Matched],
    newest: NodeRow | None,
    now: datetime,
) -> list[Trouble]:
    found: list[Trouble] = []
    head = seen.head
    if head is not None and head.trouble is not None:
        found.append(Trouble(head.trouble.reason, f"head: {head.trouble.message}", (head.name,)))
    if len(mine) < seen.replicas.get(group.name, 0) or head is None:
        found += [one for one in seen.troubles if one.reason in NOT_CREATED]
    for one in mine:
        pod = one.pod
        if one.joined:
            continue
        if pod.trouble is not None:
            found.append(pod.trouble)
        elif pod.phase == "Running" and _age(pod, now) > JOIN_S:
            message = (
                f"runs for over {JOIN_S / 60:g} min, and no agent has reported it: look at its log "
                "(kubectl logs), and that its agent has this cluster's name and a key"
            )
            found.append(Trouble("NotJoined", message, (pod.name,)))
    return found


def _age(pod: PodSeen, now: datetime) -> float:
    return (now - pod.started_at).total_seconds() if pod.started_at else 0.0


def verdicts(
    group: str,
    seen: PoolSeen,
    matched: Sequence[Matched],
    busy: Collection[str],
    idle_since: Mapping[str, datetime],
) -> list[Machine]:
    """The group's pods as sizing sees them; `busy` are nodes that hold something or are counted
    on."""
    machines: list[Machine] = []
    for one in _of(group, seen, matched):
        place = seen.node_of(one.pod)
        closed = one.closed_for
        ours = closed.startswith((LEAVING, OF_KUBERNETES))
        unknown = one.node is not None and (one.node.phase == "unknown" or one.node.quarantined)
        machines.append(
            Machine(
                pod=one.pod.name,
                joined=one.joined,
                busy=one.node_id in busy,
                fixed=(bool(closed) and not ours) or unknown or bool(place.not_ready),
                leaving=closed.startswith(LEAVING),
                doomed=bool(place.leaving or one.pod.disrupted),
                dying=one.pod.deleting or bool(place.dead),
                idle_since=idle_since.get(one.pod.name),
            )
        )
    return machines


def _of(group: str, seen: PoolSeen, matched: Sequence[Matched]) -> list[Matched]:
    """The group's machines, but for those that were named to go: they are not ordered any more."""
    return [one for one in matched if one.pod.group == group and one.pod.name not in seen.removing]


def deaths(seen: PoolSeen, matched: Sequence[Matched]) -> list[PodSeen]:
    """Pods of machines that are proven dead: by Kubernetes, or because somebody vouches for it."""
    found = [
        one.pod
        for one in matched
        if seen.node_of(one.pod).dead
        or (one.node is not None and not one.joined and one.node.confirmed_dead is not None)
    ]
    head = seen.head
    return [head, *found] if head is not None and seen.node_of(head).dead else found


def places(seen: PoolSeen, matched: Sequence[Matched], topology: Sequence[str]) -> dict[str, str]:
    """Where machines are that were thought to be elsewhere, by node id: the values of these labels
    of their Kubernetes nodes, up to the first that is not there. Of nodes that were not read
    nothing new is known."""
    found: dict[str, str] = {}
    for one in matched:
        kubernetes = seen.nodes.get(one.pod.node)
        if one.node is None or kubernetes is None or kubernetes.dead:
            continue
        values = takewhile(bool, (kubernetes.labels.get(label, "") for label in topology))
        if (place := "/".join(values)) != one.node.topology:
            found[one.node.id] = place
    return found


def news_of_nodes(
    seen: PoolSeen, matched: Sequence[Matched], remove: Collection[str], recall: Collection[str]
) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """What nodes learn: which to close and why, which to open, which are dead and how; by id."""
    close: dict[str, str] = {}
    open_: list[str] = []
    dead: dict[str, str] = {}
    for one in matched:
        if not one.joined:
            continue
        place, pod = seen.node_of(one.pod), one.pod
        goes = pod.disrupted or place.leaving or place.not_ready
        if place.dead:
            dead[one.node_id] = place.dead
        elif pod.name in remove:
            close[one.node_id] = why_it_leaves(pod.name)
        elif goes:
            close[one.node_id] = f"{OF_KUBERNETES}: {goes}"
        elif pod.name in recall or one.closed_for.startswith(OF_KUBERNETES):
            open_.append(one.node_id)
    return close, open_, dead
