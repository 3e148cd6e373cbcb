"""Who starts now, where, and why the others wait: (snapshot, now) → plan.

Order: higher priority first, then earlier submission. Once a gang waits for slots of a pool, all
later gangs of that pool wait too, so small work never starves big work. The one exception is
backfill that is provably harmless: a later gang starts at once if the forecast (forecast.py) of
every gang that waits ahead of it is known and stays the same with it running; that needs
`max_duration` on what runs, and on the later gang unless it fits beside everything. A gang that
waits in several pools (spread.py) keeps free what it needs of each; the rest of a pool in which it
would fit is not held up by another in which it does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from quarterdeck.scheduling.explain import explain
from quarterdeck.scheduling.forecast import delays, starts
from quarterdeck.scheduling.growth import Growth, say
from quarterdeck.scheduling.placement import Pool, takes_spot
from quarterdeck.scheduling.replicas import fewest_first, places
from quarterdeck.scheduling.snapshot import Assignment, Pending, Plan, Request, Snapshot
from quarterdeck.scheduling.spread import (
    PoolKey,
    PoolState,
    Site,
    Wait,
    by_pool,
    choices,
    linked,
    order,
    queue,
    take,
)
from quarterdeck.scheduling.tenancy import Doors
from quarterdeck.scheduling.topology import common
from quarterdeck.scheduling.verdicts import verdicts
from quarterdeck.specs.protocol import RankPlacement

MAX_BACKFILL_HEADS = 16
"""With more gangs ahead than this nothing is backfilled: proving it harmless costs too much."""


def plan(snapshot: Snapshot, now: datetime) -> Plan:
    """Place every gang that may start now; explain every one that may not.

    Each gang is placed as a whole or not at all; no machine gets more than it has.
    """
    pools = _pools(snapshot)
    growth = Growth(snapshot.groups, pools, snapshot.clusters)
    doors = Doors(snapshot)
    assignments: list[Assignment] = []
    pending: list[Pending] = []
    for asked in doors.shown_to(sorted(snapshot.requests, key=order)):
        mine = _eligible(pools, asked)
        shuns = asked.shunned and any(site.fits_if_empty(asked) for site in mine)
        request = asked if shuns or not asked.shunned else replace(asked, shunned={})
        assignment = _try(mine, request, now)
        if assignment is not None:
            growth.started(assignment)
            assignments.append(_told(snapshot, request, mine, assignment))
            continue
        possible = [site for site in mine if site.fits_if_empty(request)]
        reason = explain(snapshot, request, mine, possible, now)
        if shrunk := _try_smaller(mine, request, now):
            growth.started(shrunk)
            shrunk = replace(shrunk, why=reason.message)
            assignments.append(_told(snapshot, request, mine, shrunk))
            continue
        if (help_ := growth.ask(request)) is not None:
            reason = say(reason, request, help_)
            if help_.holds_place:
                _hold_place(pools, help_.keys, request, possible)
        said = (f"cluster {n}: {why}" for n, why in verdicts(snapshot, request, mine).items())
        pending.append(replace(reason, facts=(*reason.facts, *said)))
        for site in possible:
            wait = Wait(request, site)
            for state in site.states:
                state.waiting.append(wait)
    return Plan(tuple(assignments), tuple(pending), growth.demands(), growth.reserved)


def _told(
    snapshot: Snapshot, request: Request, sites: Sequence[Site], made: Assignment
) -> Assignment:
    machines = {place.node_id for place in made.placements}
    domain = ""
    if len(machines) > 1:
        places = {node.id: node.topology for node in snapshot.nodes if node.id in machines}
        domain = common(places.values())
    return replace(made, clusters=verdicts(snapshot, request, sites, made), domain=domain)


def _hold_place(
    pools: Mapping[PoolKey, PoolState],
    keys: Sequence[PoolKey],
    request: Request,
    possible: Sequence[Site],
) -> None:
    """Let those behind a gang wait in the pools to which machines come for it, as they do where
    machines that are there would be enough."""
    there = {state.key for site in possible for state in site.states}
    for key in keys:
        if key in pools and key not in there:
            mine = request if len(keys) == 1 else request.on(key[1])
            pools[key].waiting.append(Wait(mine, pools[key].alone))


def _pools(snapshot: Snapshot) -> dict[PoolKey, PoolState]:
    usable = (node for node in snapshot.nodes if snapshot.clusters.get(node.cluster))
    states: dict[PoolKey, PoolState] = {}
    for key, nodes in by_pool(node for node in usable if node.usable).items():
        pool, ids = Pool(nodes), {node.id for node in nodes}
        holds = [hold for hold in snapshot.holds if not ids.isdisjoint(hold.slots)]
        empty = pool.copy()
        for hold in holds:
            pool.hold(hold)
        states[key] = PoolState(key, pool, empty, holds)
    return states


def _eligible(pools: Mapping[PoolKey, PoolState], request: Request) -> list[Site]:
    return [
        pools[keys[0]].alone if len(keys) == 1 else Site(tuple(pools[key] for key in keys))
        for keys in choices(pools, request)
    ]


def _try(sites: Sequence[Site], request: Request, now: datetime) -> Assignment | None:
    for site in fewest_first(sites, request):
        states = linked(site, MAX_BACKFILL_HEADS)
        if states is None:
            continue
        for placed in places(site, request):
            if _taken(site, states, request, placed, now):
                return Assignment(request.id, site.cluster, placed)
    return None


def _taken(
    site: Site,
    states: Sequence[PoolState],
    request: Request,
    placed: Sequence[RankPlacement],
    now: datetime,
) -> bool:
    """Take these places, unless somebody who waits would start later for it."""
    waiting = queue(states) if _contested(states, placed) else []
    pools = [state.pool.copy() if waiting else state.pool for state in site.states]
    hold = take(pools, request, placed)
    if request.max_duration is not None:
        hold = replace(hold, ends_at=now + timedelta(seconds=request.max_duration))
    changed = list(zip(site.states, pools, strict=True))
    if waiting:
        trial = [replace(state, pool=pool, holds=[*state.holds, hold]) for state, pool in changed]
        if not _harmless(states, trial, waiting, now):
            return False
    for state, pool in changed:
        state.pool = pool
        state.holds.append(hold)
    return True


def _contested(states: Sequence[PoolState], placed: Sequence[RankPlacement]) -> bool:
    """Whether any gang that waits would go to one of these machines: one that avoids spot machines
    is not delayed on them."""
    waiting = [wait for state in states for wait in state.waiting]
    if not waiting:
        return False
    rooms = [state.empty.rooms for state in states]
    nodes = {place.node_id for place in placed}
    kinds = {of[node].node.spot for node in nodes for of in rooms if node in of}
    return any(takes_spot(wait.request.spot, spot) for wait in waiting for spot in kinds)


def _try_smaller(sites: Sequence[Site], request: Request, now: datetime) -> Assignment | None:
    for index, (data, tensor, pipeline) in enumerate(request.smaller):
        gang = replace(request, data=data, tensor=tensor, pipeline=pipeline)
        if assignment := _try(sites, gang, now):
            return replace(assignment, smaller=index)
    return None


def _harmless(
    states: Sequence[PoolState],
    trial: Sequence[PoolState],
    waiting: Sequence[Wait],
    now: datetime,
) -> bool:
    """Whether none of the gangs that wait in `states` starts later with `trial` in place of the
    first of them."""
    spread = any(len(wait.site.states) > 1 for wait in waiting)
    if spread and all(_all_fit_beside(state) for state in trial):
        return True
    after = [*trial, *states[len(trial) :]]
    return not delays(starts(states, waiting, now), starts(after, waiting, now))


def _all_fit_beside(state: PoolState) -> bool:
    """Whether all that wait in a pool have room there at once: only other pools hold them up."""
    pool = state.pool.copy()
    for wait in state.waiting:
        spread = len(wait.site.states) > 1
        mine = wait.request.on(state.key[1]) if spread else wait.request
        placed = pool.place(mine)
        if placed is None:
            return False
        pool.take(mine, placed)
    return True
