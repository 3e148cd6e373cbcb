"""Why a gang waits, in words that say what is missing and until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from heapq import nsmallest
from typing import Protocol

from quarterdeck.scheduling.forecast import starts
from quarterdeck.scheduling.placement import Pool
from quarterdeck.scheduling.snapshot import Hold, Pending, Request, Snapshot
from quarterdeck.specs.accelerator_share import WHOLE, part

MAX_FORECAST = 32
"""Further back in a pool's queue no start is estimated (each estimate replays those ahead), and
what runs is not listed: those ahead of it tell."""


class PoolLike(Protocol):
    key: tuple[str, str]
    pool: Pool
    empty: Pool
    holds: list[Hold]
    waiting: list[Request]


def explain(
    snapshot: Snapshot,
    request: Request,
    pools: Sequence[PoolLike],
    possible: Sequence[PoolLike],
    now: datetime,
) -> Pending:
    """The reason that binds first. `pools` are the usable ones that match the request's filters,
    `possible` those of them that would take it if they were empty."""
    if possible:
        return _waits(request, possible, now)
    return (
        _no_cluster(snapshot, request)
        or _no_accelerator(snapshot, request)
        or _excluded(request, pools)
        or _nodes_away(snapshot, request)
        or _too_big(request, pools)
    )


def _waits(request: Request, possible: Sequence[PoolLike], now: datetime) -> Pending:
    best, starts_at = _soonest(request, possible, now)
    cluster, accelerator = best.key
    free = best.pool.free
    unit = _unit(accelerator)
    facts: list[str] = []
    ahead = best.waiting
    if best.pool.place(request) is not None and ahead:
        message = (
            f"{ahead[-1].label} waits ahead of it in cluster {cluster} (order: priority, then "
            "submission), and starting it now could delay that"
        )
        if request.max_duration is None:
            facts.append("with max_duration it could start earlier where that delays nobody")
        return Pending(request.id, "Queued", message, tuple(facts), starts_at)
    message = f"needs {request.ranks} {unit}, {free} free in cluster {cluster}"
    if request.share < WHOLE:
        message = _lacks_part(request, best)
    elif free >= request.ranks:
        message += f", but not {request.tensor} together on enough machines"
    if len(ahead) < MAX_FORECAST:
        message += _ends(best, now)
        facts += _quarantined(best)
        facts += exclusion_facts(request, best)
        facts += _open_ended(best)
    if ahead:
        more = f" and {len(ahead) - 5} more" if len(ahead) > 5 else ""
        facts.append(f"ahead of it: {', '.join(other.label for other in ahead[:5])}{more}")
    if starts_at:
        facts.append(f"starts by {_clock(starts_at)} at the latest, if nothing else comes first")
    return Pending(request.id, "InsufficientSlots", message, tuple(facts), starts_at)


def _lacks_part(request: Request, state: PoolLike) -> str:
    cluster, accelerator = state.key
    one = "a slot" if accelerator.lower() == "cpu" else f"one {accelerator}"
    freest = state.pool.freest
    message = f"needs {part(request.share)} of {one}, the freest in cluster {cluster} has "
    message += f"{part(freest)} left"
    if freest >= request.share:
        asked = [
            f"{request.cpus:g} cpus" if request.cpus else "",
            f"{request.memory} bytes of memory" if request.memory else "",
        ]
        beside = " and ".join(text for text in asked if text)
        message += f", but not {beside} beside it" if beside else ", on a machine it is kept off"
    return message


def _ends(state: PoolLike, now: datetime) -> str:
    """What is known to end first."""
    known = (hold for hold in state.holds if hold.ends_at is not None)
    first = nsmallest(3, known, key=lambda hold: hold.ends_at or now)
    words = (f"{hold.label} ends by {_clock(hold.ends_at or now)}" for hold in first)
    return "; " + ", ".join(words) if first else ""


def _open_ended(state: PoolLike) -> list[str]:
    """What runs without a known end."""
    labels = {hold.label for hold in state.holds if hold.ends_at is None and not hold.quarantined}
    first = nsmallest(5, labels)
    return [f"no known end: {', '.join(first)} (no max_duration)"] if first else []


def _quarantined(state: PoolLike) -> list[str]:
    """What given-up runs hold in a pool, and the way out."""
    facts: list[str] = []
    for hold in state.holds:
        if not hold.quarantined:
            continue
        mine = {node: slots for node, slots in hold.slots.items() if node in state.empty.rooms}
        hosts = [state.empty.rooms[node].node.host or node for node in mine]
        held = sum(mine.values()) * WHOLE
        held += sum(sum(hold.shared.get(node, {}).values()) for node in mine)
        facts.append(
            f"quarantined: {hold.label} was given up and is not proven dead; it holds "
            f"{part(held)} slots on {', '.join(hosts)} (if the machine is gone: "
            f"quarterdeck nodes confirm-dead {hosts[0]} --reason TEXT)"
        )
    return facts


def exclusion_facts(request: Request, state: PoolLike) -> list[str]:
    """Which machines of a pool the request is kept off, and why."""
    return [
        f"{state.empty.rooms[node].node.host or node} excluded: {why}"
        for node, why in {**request.excluded, **request.shunned}.items()
        if node in state.empty.rooms
    ]


def _excluded(request: Request, pools: Sequence[PoolLike]) -> Pending | None:
    """Whether only the machines that failed it stand in its way."""
    if not request.excluded:
        return None
    open_ = replace(request, excluded={}, shunned={})
    for state in pools:
        if state.empty.place(open_) is None:
            continue
        facts = exclusion_facts(request, state)
        message = (
            f"cluster {state.key[0]} would be big enough, but machines failed this job: "
            f"{'; '.join(facts[:3])} (when they are repaired: quarterdeck nodes uncordon NODE)"
        )
        return Pending(request.id, "NodesExcluded", message, tuple(facts))
    return None


def _soonest(
    request: Request, possible: Sequence[PoolLike], now: datetime
) -> tuple[PoolLike, datetime | None]:
    forecasts = [
        (
            state,
            starts(state.pool, state.holds, [*state.waiting, request], now)[-1]
            if len(state.waiting) < MAX_FORECAST
            else None,
        )
        for state in possible
    ]
    known = [(state, at) for state, at in forecasts if at is not None]
    if known:
        return min(known, key=lambda pair: pair[1])
    return max(forecasts, key=lambda pair: pair[0].pool.free)


def _no_cluster(snapshot: Snapshot, request: Request) -> Pending | None:
    names = sorted(snapshot.clusters)
    if not names:
        message = "no cluster has joined: start an agent with `quarterdeck agent --join`"
        return Pending(request.id, "NoCluster", message)
    if request.cluster is not None and request.cluster not in snapshot.clusters:
        message = f"cluster {request.cluster!r} does not exist; known: {', '.join(names)}"
        return Pending(request.id, "NoCluster", message)
    mine = [name for name in names if request.cluster in (None, name)]
    silent = [name for name in mine if not snapshot.clusters[name]]
    if silent and len(silent) == len(mine):
        message = f"the agent of cluster {', '.join(silent)} is silent: nothing can start there"
        return Pending(request.id, "ClusterSilent", message)
    return None


def _no_accelerator(snapshot: Snapshot, request: Request) -> Pending | None:
    nodes = [node for node in snapshot.nodes if request.cluster in (None, node.cluster)]
    nodes = [node for node in nodes if node.phase != "dead"]
    if not nodes:
        where = f"cluster {request.cluster}" if request.cluster else "every cluster"
        return Pending(request.id, "NoCluster", f"{where} has no living machines")
    if request.accelerator is None:
        return None
    known = sorted({node.accelerator for node in nodes})
    if request.accelerator.lower() in (name.lower() for name in known):
        return None
    message = f"no machine has accelerator {request.accelerator}; there are: {', '.join(known)}"
    return Pending(request.id, "NoSuchAccelerator", message)


def _nodes_away(snapshot: Snapshot, request: Request) -> Pending | None:
    """Whether machines that now take no work would be enough."""
    wanted = request.accelerator.lower() if request.accelerator else None
    groups: dict[tuple[str, str], list[int]] = {}
    nodes = [
        node
        for node in snapshot.nodes
        if node.phase != "dead"
        and request.cluster in (None, node.cluster)
        and wanted in (None, node.accelerator.lower())
    ]
    for index, node in enumerate(nodes):
        groups.setdefault((node.cluster, node.accelerator), []).append(index)
    for (cluster, _), indices in sorted(groups.items()):
        if Pool(nodes[i] for i in indices).place(request) is None:
            continue
        away = [nodes[i] for i in indices if not nodes[i].usable]
        words = ", ".join(
            f"{node.host or node.id} {_state(node.phase, node.cordoned)}" for node in away[:5]
        )
        if not snapshot.clusters.get(cluster):
            message = f"the agent of cluster {cluster} is silent: nothing can start there"
            return Pending(request.id, "ClusterSilent", message)
        if away:
            message = f"cluster {cluster} would be big enough, but takes no work on: {words}"
            return Pending(request.id, "NodesCordoned", message)
    return None


def _too_big(request: Request, pools: Sequence[PoolLike]) -> Pending:
    largest = max(
        (room.node.slots for state in pools for room in state.empty.rooms.values()), default=0
    )
    if request.tensor > largest:
        message = (
            f"tensor: {request.tensor} needs as many slots on one machine; the largest has "
            f"{largest}: lower parallelism.tensor"
        )
        return Pending(request.id, "TensorGroupDoesNotFit", message)
    best = max(pools, key=lambda state: state.empty.total, default=None)
    total = best.empty.total if best else 0
    where = f"cluster {best.key[0]}" if best else "any cluster"
    unit = _unit(best.key[1]) if best else "slots"
    message = f"needs {request.ranks} {unit}, {where} has {total} in all"
    if total >= request.ranks:
        asked = [
            f"{request.cpus:g} cpus" if request.cpus else "",
            f"{request.memory} bytes of memory" if request.memory else "",
            f"tensor groups of {request.tensor}" if request.tensor > 1 else "",
        ]
        message += f", but not with {', '.join(part for part in asked if part)} for each rank"
    return Pending(request.id, "ExceedsCluster", message)


def _unit(accelerator: str) -> str:
    return "slots" if accelerator.lower() == "cpu" else accelerator


def _state(phase: str, cordoned: bool) -> str:
    return "cordoned" if cordoned else "unknown" if phase == "unknown" else "quarantined"


def _clock(at: datetime) -> str:
    return at.strftime("%H:%M")
