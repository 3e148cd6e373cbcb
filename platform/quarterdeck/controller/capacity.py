"""Capacity: pools get the machines that waiting gangs need, and give back those that idle.

A look leases one pool, reads Kubernetes and the database, decides without either, writes the
decision down, and only then carries it out: one patch, guarded by the version that was seen. What
fails is told and tried again at the next look.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from quarterdeck.cluster.provider import PoolProvider, PoolSeen, ProviderError
from quarterdeck.cluster.sizing import Bounds, Size, size
from quarterdeck.controller.own_clusters import OwnClusters
from quarterdeck.controller.pool_machines import (
    NOT_CREATED,
    Matched,
    deaths,
    group_facts,
    match,
    news_of_nodes,
    places,
    verdicts,
)
from quarterdeck.controller.requests import (
    group_views,
    job_request,
    replica_requests,
    snapshot_of,
    within_budgets,
)
from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import Demand, Plan, Request
from quarterdeck.specs.pools import Pool
from quarterdeck.store.admission import World, world
from quarterdeck.store.dead_nodes import held_by_node
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.failures import UNAVAILABLE
from quarterdeck.store.ids import new_id
from quarterdeck.store.pools import (
    OF_KUBERNETES,
    Decision,
    Declared,
    claim_pool,
    declare_pools,
    note_trouble,
    pool_nodes,
    pool_of,
    release_pool,
    store_decision,
)
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import PoolRow

log = logging.getLogger(__name__)

REST_S = 2.0
"""A pool is left alone for so long after a look, whoever looked."""
ENDING_S = 120.0
"""So long a pool may take to be deleted before it is told of."""
Facts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Made:
    """One look's decision, and what it was made of."""

    sizes: Mapping[str, Size]
    matched: Sequence[Matched]
    decision: Decision


class Capacity:
    """One controller's part in sizing the pools. Each comes with the provider of its machines."""

    def __init__(
        self, database: Database, pools: Sequence[tuple[Pool, PoolProvider]], rest: float = REST_S
    ) -> None:
        self._database = database
        self._pools = pools
        self._rest = rest
        self._declared = False

    def tick(self) -> int:
        """Look at every pool that nobody else looks at; how many things were changed outside."""
        if not self._declared:
            with self._database.write() as session:
                declare_pools(session, [_declared(pool) for pool, _ in self._pools])
            self._declared = True
        changed = 0
        for pool, provider in self._pools:
            lease_id = new_id("lease")
            with self._database.write() as session:
                if not claim_pool(session, pool.name, lease_id):
                    continue
            try:
                changed += self._look(pool, provider, lease_id)
                own = OwnClusters(self._database, pool, provider, self._look_if_asked)
                changed += own.tick(lease_id)
            except StaleRow as stale:
                log.info("capacity dropped a stale result: %s", stale)
            finally:
                with self._database.write() as session:
                    release_pool(session, pool.name, lease_id, rest=self._rest)
        return changed

    def _look_if_asked(self, pool: Pool, provider: PoolProvider, lease_id: str) -> int:
        """Look at a cluster of one run: it is made when there is room for its machines."""
        return self._look(pool, provider, lease_id, if_asked=True)

    def _look(
        self, pool: Pool, provider: PoolProvider, lease_id: str, *, if_asked: bool = False
    ) -> int:
        changed, reason, message = 0, "", ""
        try:
            changed, trouble = self._size(pool, provider, lease_id, if_asked=if_asked)
            if trouble:
                reason, message = trouble
        except ProviderError as error:
            if error.reason == "Conflict":  # somebody wrote it meanwhile: look again
                log.info("pool %s: %s", pool.name, error)
                return 0
            reason, message = error.reason, str(error)
            log.warning("pool %s: %s: %s", pool.name, reason, message)
        except (StaleRow, *UNAVAILABLE):
            raise
        except Exception as error:  # a defect of ours must not keep other pools from machines
            reason, message = "InternalError", f"{error!r}, see the controller's log"
            log.exception("pool %s", pool.name)
        with self._database.write() as session:
            note_trouble(session, pool.name, lease_id, reason, message)
        return changed

    def _size(
        self, pool: Pool, provider: PoolProvider, lease_id: str, *, if_asked: bool
    ) -> tuple[int, tuple[str, str] | None]:
        """How many things were changed, and what is wrong with the pool as a whole."""
        seen = provider.look()
        if seen is None:
            if if_asked and not self._asked(pool):
                return 0, None
            provider.create()
            return 1, None
        with self._database.read() as session:
            found = world(session)
            row = pool_of(session, pool.name)
            nodes = pool_nodes(session, pool.name, [pod.name for pod in seen.pods])
            held = frozenset(held_by_node(session))
        if row is None:
            raise StaleRow(f"pool {pool.name} is not declared any more")
        matched = match(seen, nodes)
        if seen.ending is not None:
            return self._awaited(pool, provider, seen, matched, row, found.now, lease_id)
        made = _decide(pool, seen, found, row, matched, held)
        with self._database.write() as session:
            busy = store_decision(session, pool.name, lease_id, made.decision)
        wanted, remove = _kept(made, busy)
        changed = int(provider.resize(seen, wanted, remove))
        changed += _bury(pool, provider, seen, made.matched)
        notes = [one for one in seen.troubles if one.reason not in NOT_CREATED]
        return changed, (notes[0].reason, notes[0].message) if notes else None

    def _awaited(
        self, pool: Pool, provider: PoolProvider, seen: PoolSeen, matched: Sequence[Matched],
        row: PoolRow, now: datetime, lease_id: str,
    ) -> tuple[int, tuple[str, str] | None]:  # fmt: skip
        """A pool that is being deleted waits for its pods, and those of dead machines for us."""
        assert seen.ending is not None
        since = {pod: datetime.fromisoformat(at) for pod, at in row.idle_since.items()}
        _, _, dead = news_of_nodes(seen, matched, (), ())
        why = f"{OF_KUBERNETES}: its RayCluster is being deleted"
        close = {one.node_id: why for one in matched if one.joined and one.node_id not in dead}
        sizes = {
            group.name: {**(row.sizes.get(group.name) or {}), "ending": True}
            for group in pool.groups
        }
        with self._database.write() as session:
            decision = Decision(sizes, since, close=close, dead=dead)
            store_decision(session, pool.name, lease_id, decision)
        changed = _bury(pool, provider, seen, matched)
        if (now - seen.ending).total_seconds() < ENDING_S:
            return changed, None
        message = (
            f"RayCluster {pool.namespace}/{pool.object_name} is being deleted: nothing comes "
            "before its pods and finalizers are gone (kubectl get pods, kubectl get raycluster)"
        )
        return changed, ("Terminating", message)

    def _asked(self, pool: Pool) -> bool:
        """Whether machines would come for somebody, were the cluster there."""
        with self._database.read() as session:
            found = world(session)
            row = pool_of(session, pool.name)
        if row is None:
            raise StaleRow(f"cluster {pool.name} is forgotten")
        if row.ending:
            return False
        needs = _needs(found, row, {})
        return any(needs.demands.get((pool.name, one.name), Demand()).new for one in pool.groups)


def _bury(
    pool: Pool, provider: PoolProvider, seen: PoolSeen, matched: Sequence[Matched]
) -> int:  # fmt: skip
    found = deaths(seen, matched)
    for pod in found:
        log.warning("pool %s: pod %s is buried: its machine is dead", pool.name, pod.name)
        provider.bury(pod)
    return len(found)


def _declared(pool: Pool) -> Declared:
    groups = [group.model_dump(mode="json") for group in pool.groups]
    return Declared(pool.name, pool.namespace, pool.object_name, groups, pool.project)


def _decide(
    pool: Pool,
    seen: PoolSeen,
    found: World,
    row: PoolRow,
    matched: Sequence[Matched],
    held: frozenset[str],
) -> _Made:
    before = {group.name: row.sizes.get(group.name) or {} for group in pool.groups}
    facts = {
        group.name: group_facts(group, seen, matched, before[group.name], found.now)
        for group in pool.groups
    }
    needs = _needs(found, row, facts)
    starting = {place.node_id for one in needs.assignments for place in one.placements}
    busy = held | needs.reserved | starting
    idle = {pod: datetime.fromisoformat(since) for pod, since in row.idle_since.items()}
    sizes = {
        group.name: size(
            Bounds(group.min_replicas, group.max_replicas, group.idle_after),
            seen.replicas.get(group.name, 0),
            verdicts(group.name, seen, matched, busy, idle),
            needs.demands.get((pool.name, group.name), Demand()),
            found.now,
            quota=_quota(facts[group.name]),
        )
        for group in pool.groups
    }
    remove = {pod for one in sizes.values() for pod in one.remove}
    recall = {pod for one in sizes.values() for pod in one.recall}
    close, open_, dead = news_of_nodes(seen, matched, remove, recall)
    decision = Decision(
        sizes={name: _told(facts[name], one, found.now) for name, one in sizes.items()},
        idle_since={pod: since for one in sizes.values() for pod, since in one.idle_since.items()},
        resized=[name for name, one in sizes.items() if one.wanted != facts[name]["before"]],
        joined={
            one.node.id: one.pod.group
            for one in matched
            if one.node is not None and one.node.pool_group != one.pod.group
        },
        places=places(seen, matched, pool.topology),
        close=close,
        open=open_,
        dead=dead,
        leaving=frozenset(remove),
    )
    return _Made(sizes, matched, decision)


def _needs(found: World, row: PoolRow, facts: Facts) -> Plan:
    """What would start now, and what the rest needs of every pool: of this one as it was just
    seen, of others as they were last."""
    requests: list[Request] = []
    for job in found.jobs:
        with suppress(Exception):  # a broken job asks for nothing; admission says so
            asked = job_request(job, found)
            if isinstance(asked, Request):
                requests.append(asked)
    for service in found.services:
        with suppress(Exception):
            requests += replica_requests(service, found)
    others = [one for one in found.pools if one.name != row.name]
    groups = [view for one in others for view in group_views(one, one.sizes)]
    snapshot = snapshot_of(found, requests)
    groups += group_views(row, facts)
    return plan(replace(snapshot, groups=within_budgets(groups)), found.now)


def _quota(facts: Mapping[str, Any]) -> str:
    """Why the provider creates no more machines of a group."""
    said = (one for one in facts["trouble"] if one["reason"] in NOT_CREATED)
    return next((f"{one['reason']}: {one['message']}" for one in said), "")


def _told(facts: Mapping[str, Any], made: Size, now: datetime) -> dict[str, Any]:
    """A group's decision as it is stored: what was seen, with the change counted in."""
    change = made.wanted - facts["before"]
    return {
        **facts,
        "wanted": made.wanted,
        "coming": max(0, facts["coming"] + max(change, 0)),
        "room": max(0, facts["room"] - max(change, 0) - len(made.recall)),
        "constraint": made.constraint,
        "bound_by": made.bound_by,
        "removed": list(made.remove),
        "leaving": sorted({*facts["leaving"], *made.remove}),
        "decided_at": now.isoformat(),
    }


def _kept(made: _Made, busy: Collection[str]) -> tuple[dict[str, int], list[str]]:
    """The sizes and the pods that go, without those on which something was placed meanwhile."""
    wanted = {name: one.wanted for name, one in made.sizes.items()}
    remove = {pod: name for name, one in made.sizes.items() for pod in one.remove}
    for one in made.matched:
        if (one.node_id in busy or one.pod.name in busy) and one.pod.name in remove:
            wanted[remove.pop(one.pod.name)] += 1
    return wanted, sorted(remove)
