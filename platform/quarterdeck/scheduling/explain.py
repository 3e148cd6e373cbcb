"""Why a gang waits, in words that say what is missing and until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from heapq import nsmallest

from quarterdeck.scheduling.forecast import starts
from quarterdeck.scheduling.placement import SPOT_WORDS, Pool
from quarterdeck.scheduling.snapshot import Pending, Request, Snapshot
from quarterdeck.scheduling.spread import (
    PoolState,
    Site,
    Wait,
    by_pool,
    choices,
    linked,
    place,
    queue,
)
from quarterdeck.scheduling.tenancy import explain_closed
from quarterdeck.specs.accelerator_share import WHOLE, part

MAX_FORECAST = 32
"""Further back in a pool's queue no start is estimated (each estimate replays those ahead), and
what runs is not listed: those ahead of it tell."""


def explain(
    snapshot: Snapshot,
    request: Request,
    sites: Sequence[Site],
    possible: Sequence[Site],
    now: datetime,
) -> Pending:
    """The reason that binds first. `sites` are the usable ones that match the request's filters,
    `possible` those of them that would take it if they were empty."""
    if possible:
        return _waits(request, possible, now)
    if request.closed:
        if closed := explain_closed(snapshot, request):
            return closed
        snapshot = _open_to(snapshot, request)
    return (
        _no_cluster(snapshot, request)
        or _no_accelerator(snapshot, request)
        or _spot(request, sites)
        or _excluded(request, sites)
        or _nodes_away(snapshot, request)
        or _too_big(request, sites)
    )


def _open_to(snapshot: Snapshot, request: Request) -> Snapshot:
    """What there is for a gang to which some clusters are closed."""
    return replace(
        snapshot,
        clusters={n: up for n, up in snapshot.clusters.items() if n not in request.closed},
        nodes=tuple(node for node in snapshot.nodes if node.cluster not in request.closed),
    )


def _waits(request: Request, possible: Sequence[Site], now: datetime) -> Pending:
    best, starts_at = _soonest(request, possible, now)
    facts: list[str] = []
    ahead = best.ahead
    if best.place(request) is not None and ahead:
        message = (
            f"{ahead[-1].request.label} waits ahead of it in cluster {best.cluster} (order: "
            "priority, then submission), and starting it now could delay that"
        )
        if request.max_duration is None:
            facts.append("with max_duration it could start earlier where that delays nobody")
        return Pending(request.id, "Queued", message, tuple(facts), starts_at)
    message = _lacks(request, best)
    if len(ahead) < MAX_FORECAST:
        message += _ends(best, now)
        facts += _quarantined(best)
        facts += exclusion_facts(request, best)
        facts += _open_ended(best)
    if ahead:
        more = f" and {len(ahead) - 5} more" if len(ahead) > 5 else ""
        first = ", ".join(other.request.label for other in ahead[:5])
        facts.append(f"ahead of it: {first}{more}")
    if starts_at:
        facts.append(f"starts by {_clock(starts_at)} at the latest, if nothing else comes first")
    return Pending(request.id, "InsufficientSlots", message, tuple(facts), starts_at)


def _lacks(request: Request, site: Site) -> str:
    """What is missing now."""
    if request.parts:
        return _lacks_roles(request, site)
    (state,) = site.states
    if request.share < WHOLE:
        return _lacks_part(request, state)
    free, unit = state.pool.free, _unit(state.accelerator)
    message = f"needs {request.ranks} {unit}, {free} free in cluster {site.cluster}"
    if free >= request.ranks:
        message += f", but not {request.tensor} together on enough machines"
    return message


def _lacks_roles(request: Request, site: Site) -> str:
    words, short = [], []
    for state, mine in _shares(request, site):
        words.append(f"{_asked(mine, state)} ({state.pool.free} free)")
        if state.pool.free >= mine.ranks and state.pool.place(mine) is None:
            short.append(mine)
    return f"needs {', '.join(words)} in cluster {site.cluster}{_beside(short)}"


def _shares(request: Request, site: Site) -> list[tuple[PoolState, Request]]:
    """What a gang of roles asks of each pool."""
    if len(site.states) == 1:
        return [(site.states[0], request)]
    pairs = zip(site.states, request.models, strict=True)
    return [(state, request.on(model)) for state, model in pairs]


def _asked(request: Request, state: PoolState) -> str:
    """The roles that one pool has to take: `2 H100 for trainer and 1 for critic`."""
    unit = "cpu slots" if state.key[1] == "cpu" else state.accelerator
    first, *others = request.parts
    words = [f"{first.ranks} {unit} for {first.role}"]
    return " and ".join(words + [f"{other.ranks} for {other.role}" for other in others])


def _beside(requests: Sequence[Request]) -> str:
    """What roles want beside slots, where those are enough."""
    asked = [
        f"{' and '.join(wants)} for each rank of {one.role}"
        for request in requests
        for one in request.parts
        if (wants := _wants(one.cpus, one.memory))
    ]
    if requests and not asked:
        return ", but not on machines that it is kept off"
    return f", but not with {' and '.join(asked)}" if asked else ""


def _wants(cpus: float | None, memory: int | None) -> list[str]:
    """What one rank holds beside its slot."""
    asked = [f"{cpus:g} cpus" if cpus else "", f"{memory} bytes of memory" if memory else ""]
    return [text for text in asked if text]


def _lacks_part(request: Request, state: PoolState) -> str:
    accelerator = state.accelerator
    one = "a slot" if accelerator.lower() == "cpu" else f"one {accelerator}"
    freest = state.pool.freest
    message = f"needs {part(request.share)} of {one}, the freest in cluster {state.key[0]} has "
    message += f"{part(freest)} left"
    if freest >= request.share:
        beside = " and ".join(_wants(request.cpus, request.memory))
        message += f", but not {beside} beside it" if beside else ", on a machine it is kept off"
    return message


def _ends(site: Site, now: datetime) -> str:
    """What is known to end first."""
    known = (hold for hold in site.holds if hold.ends_at is not None)
    first = nsmallest(3, known, key=lambda hold: hold.ends_at or now)
    words = (f"{hold.label} ends by {_clock(hold.ends_at or now)}" for hold in first)
    return "; " + ", ".join(words) if first else ""


def _open_ended(site: Site) -> list[str]:
    """What runs without a known end."""
    labels = {hold.label for hold in site.holds if hold.ends_at is None and not hold.quarantined}
    first = nsmallest(5, labels)
    return [f"no known end: {', '.join(first)} (no max_duration)"] if first else []


def _quarantined(site: Site) -> list[str]:
    """What given-up runs hold of a site, and the way out."""
    facts: list[str] = []
    rooms = site.rooms
    for hold in site.holds:
        if not hold.quarantined:
            continue
        mine = {node: slots for node, slots in hold.slots.items() if node in rooms}
        hosts = [rooms[node].node.host or node for node in mine]
        held = sum(mine.values()) * WHOLE
        held += sum(sum(hold.shared.get(node, {}).values()) for node in mine)
        facts.append(
            f"quarantined: {hold.label} was given up and is not proven dead; it holds "
            f"{part(held)} slots on {', '.join(hosts)} (if the machine is gone: "
            f"quarterdeck nodes confirm-dead {hosts[0]} --reason TEXT)"
        )
    return facts


def exclusion_facts(request: Request, site: Site) -> list[str]:
    """Which machines of a site the request is kept off, and why."""
    kept_off = {**request.excluded, **request.shunned}
    rooms = site.rooms if kept_off else {}
    return [
        f"{rooms[node].node.host or node} excluded: {why}"
        for node, why in kept_off.items()
        if node in rooms
    ]


def _excluded(request: Request, sites: Sequence[Site]) -> Pending | None:
    """Whether only the machines that failed it stand in its way."""
    if not request.excluded:
        return None
    open_ = replace(request, excluded={}, shunned={})
    for site in sites:
        if not site.fits_if_empty(open_):
            continue
        facts = exclusion_facts(request, site)
        message = (
            f"cluster {site.cluster} would be big enough, but machines failed this job: "
            f"{'; '.join(facts[:3])} (when they are repaired: quarterdeck nodes uncordon NODE)"
        )
        return Pending(request.id, "NodesExcluded", message, tuple(facts))
    return None


def _spot(request: Request, sites: Sequence[Site]) -> Pending | None:
    """Whether only its wish for spot machines, or against them, stands in its way."""
    if request.spot == "allow":
        return None
    open_ = replace(request, spot="allow")
    for site in sites:
        if site.fits_if_empty(open_):
            message = (
                f"cluster {site.cluster} would be big enough, but it needs machines"
                f"{SPOT_WORDS[request.spot]} (resources.spot: {request.spot}); write "
                "resources.spot: allow to take either"
            )
            return Pending(request.id, "SpotUnwanted", message)
    return None


def _soonest(
    request: Request, possible: Sequence[Site], now: datetime
) -> tuple[Site, datetime | None]:
    forecasts = [(site, _start(request, site, now)) for site in possible]
    known = [(site, at) for site, at in forecasts if at is not None]
    if known:
        return min(known, key=lambda pair: pair[1])
    return max(forecasts, key=lambda pair: pair[0].free)


def _start(request: Request, site: Site, now: datetime) -> datetime | None:
    states = linked(site, MAX_FORECAST - 1)
    if states is None:
        return None
    return starts(states, [*queue(states), Wait(request, site)], now)[-1]


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
    if not request.models:
        return None
    known = {node.accelerator.lower(): node.accelerator for node in nodes}
    for model in request.models:
        if model not in known:
            message = f"no machine has accelerator {_named(request, model)}; there are: "
            message += ", ".join(sorted(known.values()))
            return Pending(request.id, "NoSuchAccelerator", message)
    pools = by_pool(nodes)
    if choices(pools, request):
        return None
    here = []
    for cluster in sorted({cluster for cluster, _ in pools}):
        names = [_named(request, model) for model in request.models if (cluster, model) in pools]
        here.append(f"{cluster} has {' and '.join(names) or 'none of them'}")
    message = "a gang stays in one cluster, and none has all accelerators of its roles: "
    return Pending(request.id, "NoSuchAccelerator", message + "; ".join(here))


def _named(request: Request, model: str) -> str:
    """An accelerator as the request writes it, with the roles that name it."""
    mine = request.on(model).parts
    if not mine:
        return request.accelerator or model
    return f"{mine[0].accelerator} ({', '.join(one.role for one in mine)})"


def _nodes_away(snapshot: Snapshot, request: Request) -> Pending | None:
    """Whether machines that now take no work would be enough."""
    pools = by_pool(node for node in snapshot.nodes if node.phase != "dead")
    for keys in choices(pools, request):
        if place([Pool(pools[key]) for key in keys], request) is None:
            continue
        cluster = keys[0][0]
        away = [node for key in keys for node in pools[key] if not node.usable]
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


def _too_big(request: Request, sites: Sequence[Site]) -> Pending:
    largest = max((room.node.slots for site in sites for room in site.rooms.values()), default=0)
    if request.tensor > largest:
        message = (
            f"tensor: {request.tensor} needs as many slots on one machine; the largest has "
            f"{largest}: lower parallelism.tensor"
        )
        return Pending(request.id, "TensorGroupDoesNotFit", message)
    best = max(sites, key=lambda site: site.total, default=None)
    if best is not None and request.parts:
        return Pending(request.id, "ExceedsCluster", _exceeds_roles(request, best))
    total = best.total if best else 0
    where = f"cluster {best.cluster}" if best else "any cluster"
    unit = _unit(best.states[0].accelerator) if best else "slots"
    message = f"needs {request.ranks} {unit}, {where} has {total} in all"
    if total >= request.ranks:
        asked = _wants(request.cpus, request.memory)
        if request.tensor > 1:
            asked.append(f"tensor groups of {request.tensor}")
        message += f", but not with {', '.join(asked)} for each rank"
    return Pending(request.id, "ExceedsCluster", message)


def _exceeds_roles(request: Request, site: Site) -> str:
    """Only the pools that could not take their roles even if they were empty."""
    words, short = [], []
    for state, mine in _shares(request, site):
        if state.empty.place(mine) is not None:
            continue
        words.append(f"{_asked(mine, state)} ({state.empty.total} in all)")
        if state.empty.total >= mine.ranks:
            short.append(mine)
    return f"needs {', '.join(words)} in cluster {site.cluster}{_beside(short)}"


def _unit(accelerator: str) -> str:
    return "slots" if accelerator.lower() == "cpu" else accelerator


def _state(phase: str, cordoned: bool) -> str:
    return "cordoned" if cordoned else "unknown" if phase == "unknown" else "quarantined"


def _clock(at: datetime) -> str:
    return at.strftime("%H:%M")
