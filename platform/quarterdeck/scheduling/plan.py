"""Who starts now, where, and why the others wait: (snapshot, now) → plan.

Order: higher priority first, then earlier submission. Once a gang waits for slots of a pool, all
later gangs of that pool wait too, so small work never starves big work. The one exception is
backfill that is provably harmless: a later gang starts at once if the forecast (forecast.py) of
every gang that waits ahead of it is known and stays the same with it running; that needs
`max_duration` on what runs, and on the later gang unless it fits beside everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from quarterdeck.scheduling.explain import explain
from quarterdeck.scheduling.forecast import delays, starts
from quarterdeck.scheduling.placement import Pool
from quarterdeck.scheduling.snapshot import (
    Assignment,
    Hold,
    NodeView,
    Pending,
    Plan,
    Request,
    Snapshot,
)

MAX_BACKFILL_HEADS = 16
"""With more gangs ahead than this nothing is backfilled: proving it harmless costs too much."""

PoolKey = tuple[str, str]


@dataclass
class PoolState:
    """One pool while a plan is made."""

    key: PoolKey
    pool: Pool
    empty: Pool
    holds: list[Hold]
    waiting: list[Request] = field(default_factory=list)


def plan(snapshot: Snapshot, now: datetime) -> Plan:
    """Place every gang that may start now; explain every one that may not.

    Each gang is placed as a whole or not at all; no machine gets more than it has.
    """
    pools = _pools(snapshot)
    assignments: list[Assignment] = []
    pending: list[Pending] = []
    for asked in sorted(snapshot.requests, key=lambda r: (-r.priority, r.ordinal, r.id)):
        mine = _eligible(snapshot, pools, asked)
        shuns = asked.shunned and any(state.empty.place(asked) for state in mine)
        request = asked if shuns else replace(asked, shunned={})
        assignment = _try(mine, request, now)
        if assignment is not None:
            assignments.append(assignment)
            continue
        possible = [state for state in mine if state.empty.place(request) is not None]
        reason = explain(snapshot, request, mine, possible, now)
        if shrunk := _try_smaller(mine, request, now):
            assignments.append(replace(shrunk, why=reason.message))
            continue
        pending.append(reason)
        for state in possible:
            state.waiting.append(request)
    return Plan(tuple(assignments), tuple(pending))


def _pools(snapshot: Snapshot) -> dict[PoolKey, PoolState]:
    nodes: dict[PoolKey, list[NodeView]] = {}
    for node in snapshot.nodes:
        if snapshot.clusters.get(node.cluster) and node.usable:
            nodes.setdefault((node.cluster, node.accelerator), []).append(node)
    states: dict[PoolKey, PoolState] = {}
    for key in sorted(nodes):
        pool, ids = Pool(nodes[key]), {node.id for node in nodes[key]}
        holds = [hold for hold in snapshot.holds if not ids.isdisjoint(hold.slots)]
        empty = pool.copy()
        for hold in holds:
            pool.hold(hold)
        states[key] = PoolState(key, pool, empty, holds)
    return states


def _eligible(
    snapshot: Snapshot, pools: dict[PoolKey, PoolState], request: Request
) -> list[PoolState]:
    wanted = request.accelerator.lower() if request.accelerator else None
    return [
        state
        for (cluster, accelerator), state in pools.items()
        if (request.cluster is None or request.cluster == cluster)
        and (wanted is None or wanted == accelerator.lower())
    ]


def _try(states: Sequence[PoolState], request: Request, now: datetime) -> Assignment | None:
    for state in states:
        if len(state.waiting) > MAX_BACKFILL_HEADS:
            continue
        placed = state.pool.place(request)
        if placed is None:
            continue
        trial = state.pool.copy() if state.waiting else state.pool
        hold = trial.take(request, placed)
        if request.max_duration is not None:
            hold = replace(hold, ends_at=now + timedelta(seconds=request.max_duration))
        if state.waiting and not _harmless(state, trial, hold, now):
            continue
        state.pool = trial
        state.holds.append(hold)
        return Assignment(request.id, state.key[0], placed)
    return None


def _try_smaller(states: Sequence[PoolState], request: Request, now: datetime) -> Assignment | None:
    for index, (data, tensor, pipeline) in enumerate(request.smaller):
        gang = replace(request, data=data, tensor=tensor, pipeline=pipeline)
        if assignment := _try(states, gang, now):
            return replace(assignment, smaller=index)
    return None


def _harmless(state: PoolState, trial: Pool, hold: Hold, now: datetime) -> bool:
    before = starts(state.pool, state.holds, state.waiting, now)
    after = starts(trial, [*state.holds, hold], state.waiting, now)
    return not delays(before, after)
