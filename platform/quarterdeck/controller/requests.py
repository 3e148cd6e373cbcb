"""From rows to what the scheduler understands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf
from typing import Any

from quarterdeck.controller.own_requests import waits_for_own
from quarterdeck.lifecycle.faults import exclusions
from quarterdeck.lifecycle.replicas import ReplicaFacts, missing
from quarterdeck.scheduling.snapshot import (
    MEMORY_UNKNOWN,
    GroupView,
    Hold,
    NodeView,
    Part,
    Pending,
    Request,
    Snapshot,
)
from quarterdeck.specs.accelerator_share import thousandths
from quarterdeck.store.admission import World, wanted_revisions
from quarterdeck.store.capacity import Holding
from quarterdeck.store.node_faults import as_fault
from quarterdeck.store.references import secrets_missing
from quarterdeck.store.tables import JobRow, NodeRow, PoolRow, RevisionRow, RunRow, ServiceRow

HARMLESS = frozenset({"TemplateChanged", "NodesUnreadable"})
"""Troubles of a pool in which it brings machines all the same."""


def job_request(job: JobRow, seen: World) -> Request | Pending:
    """A queued job's gang; or why it cannot ask for one."""
    if held := seen.restore and seen.restore.holds(job.id, job.created_at):
        return Pending(job.id, "RestoredBackup", held)
    names = [item["name"] for item in job.spec.get("secrets") or ()]
    present = {name for project, name in seen.secrets if project == job.project}
    if missing := secrets_missing(job.project, names, present):
        return Pending(job.id, "SecretMissing", missing)
    layout = _layout(job)
    if layout is None:
        return Pending(
            job.id,
            "LayoutMissing",
            "parallelism: auto was not resolved at submission: give ranks or a layout, and submit "
            "it again",
        )
    if job.restart_at is not None and job.restart_at > seen.now:
        return _backing_off(job, job.restart_at)
    request = _request(job, seen, layout)
    if image := image_of(job.spec):
        own = seen.own_clusters.get((job.id, job.epoch))
        if own is None or own.ending:
            return waits_for_own(request, seen, image, pool_groups(seen))
        request = replace(request, cluster=own.name)
    return request


def bare_request(job: JobRow, seen: World) -> Request | None:
    """What a job's gang asks of machines, whatever else it waits for; None: nobody knows."""
    layout = _layout(job)
    return None if layout is None else _request(job, seen, layout)


def image_of(spec: Mapping[str, Any]) -> str:
    """The image that a job asks for; empty: none."""
    return str((spec.get("environment") or {}).get("image") or "")


def _request(job: JobRow, seen: World, layout: Mapping[str, int]) -> Request:
    excluded, shunned = _exclusions(job.id, seen)
    resources = job.spec.get("resources") or {}
    return Request(
        id=job.id,
        label=f"job/{job.name}",
        priority=job.priority,
        ordinal=job.ordinal,
        cluster=job.spec.get("cluster"),
        accelerator=resources.get("accelerator"),
        cpus=resources.get("cpus"),
        memory=resources.get("memory"),
        max_duration=job.spec.get("max_duration"),
        avoid=seen.quarantine.get(job.id, frozenset()),
        excluded=excluded,
        shunned=shunned,
        smaller=_smaller(job),
        project=job.project,
        spot=resources.get("spot") or "allow",
        parts=_parts(job.spec.get("roles"), resources),
        data=layout["data"],
        tensor=layout["tensor"],
        pipeline=layout["pipeline"],
    )


def _exclusions(owner_id: str, seen: World) -> tuple[dict[str, str], dict[str, str]]:
    """Nodes that the owner is kept off, and those only while it fits elsewhere; each with why."""
    excluded: dict[str, str] = {}
    shunned: dict[str, str] = {}
    rows = seen.faults.get(owner_id, ())
    for cluster in {row.cluster for row in rows}:
        found = exclusions([as_fault(row) for row in rows if row.cluster == cluster])
        for node in seen.nodes:
            why = found.get((node.host, node.address)) if node.cluster == cluster else None
            if why is not None:
                (excluded if why.hard else shunned)[node.id] = why.words
    return excluded, shunned


def _backing_off(job: JobRow, restart_at: datetime) -> Pending:
    failure = job.failure or {}
    said = str(failure.get("message") or "its attempts end early").strip().splitlines()[0][:300]
    return Pending(
        job.id,
        "BackingOff",
        f"restarts at {restart_at:%H:%M:%S} UTC, because attempts fail in a row; the last: {said}",
        starts_at=restart_at,
    )


def replica_requests(service: ServiceRow, seen: World) -> list[Request]:
    """One gang for each replica that is missing now, of the revision that wants it."""
    if seen.restore and seen.restore.holds(service.id, service.created_at):
        return []
    rollout = service.rollout or {}
    cordoned = frozenset(node.id for node in seen.nodes if node.cordoned)
    live = [replica_facts(run, cordoned) for run in seen.live_replicas.get(service.id, ())]
    lacking = missing(live, wanted_revisions(service), int(rollout.get("most") or 0))
    # One at a time: each creation compares and swaps the service's epoch.
    return [
        _replica_request(service, seen, seen.revisions[service.id, number], index)
        for number, count in lacking.items()
        if (service.id, number) in seen.revisions and not _rests(rollout, number, seen.now)
        for index in range(count)
    ]


def _rests(rollout: Mapping[str, Any], revision: int, now: datetime) -> bool:
    """A crash loop is slowed, of its own revision alone."""
    retry_at = (rollout.get("retry_at") or {}).get(str(revision))
    return retry_at is not None and datetime.fromisoformat(retry_at) > now


def _replica_request(
    service: ServiceRow, seen: World, revision: RevisionRow, index: int
) -> Request:
    spec = revision.spec
    resources = spec.get("resources") or {}
    parallelism = spec.get("parallelism") or {}
    excluded, shunned = _exclusions(service.id, seen)
    return Request(
        id=f"{service.id}#{revision.revision}#{index}",
        label=f"service/{service.name}",
        priority=service.priority,
        ordinal=service.ordinal,
        tensor=int(parallelism.get("tensor", 1)),
        pipeline=int(parallelism.get("pipeline", 1)),
        cluster=spec.get("cluster"),
        accelerator=resources.get("accelerator"),
        cpus=resources.get("cpus"),
        memory=resources.get("memory"),
        share=thousandths(resources.get("accelerator_share")),
        avoid=seen.quarantine.get(service.id, frozenset()),
        excluded=excluded,
        shunned=shunned,
        project=service.project,
        service=service.id,
        spot=resources.get("spot") or "avoid",
    )


def replica_facts(run: RunRow, cordoned: frozenset[str] = frozenset()) -> ReplicaFacts:
    """A replica as decisions see it; `cordoned` are nodes that take nothing new."""
    endpoint = run.endpoint or {}
    return ReplicaFacts(
        run_id=run.id,
        epoch=run.epoch,
        revision=run.revision or 0,
        phase=run.phase,
        was_ready=bool(endpoint.get("probed")),
        in_flight=int(endpoint.get("in_flight") or 0),
        drain_deadline=run.order_deadline_at,
        ended_at=run.ended_at,
        cordoned=any(place["node_id"] in cordoned for place in run.placements),
        unhealthy_since=run.unhealthy_since,
    )


def snapshot_of(seen: World, requests: Sequence[Request]) -> Snapshot:
    """The scheduler's view of the world."""
    unheard = seen.restore.unheard if seen.restore else ()
    spot_groups = {
        pool.name: {group["name"]: bool(group["spot"]) for group in pool.groups}
        for pool in seen.pools
    }
    return Snapshot(
        clusters={
            row.name: row.phase == "connected" and row.name not in unheard for row in seen.clusters
        },
        nodes=tuple(
            NodeView(
                id=row.id,
                cluster=row.cluster,
                slots=row.slots,
                accelerator=row.accelerator,
                host=row.host,
                phase=row.phase,
                cordoned=row.cordoned,
                quarantined=row.quarantined,
                cpus=row.cpus,
                memory=row.memory,
                spot=_is_spot(row, spot_groups.get(row.cluster, {})),
                topology=row.place,
            )
            for row in seen.nodes
        ),
        holds=tuple(_hold(run) for run in seen.holding),
        requests=tuple(requests),
        groups=pool_groups(seen),
        tenancy=seen.tenancy,
        exclusive={own.name: str(own.owner_id) for own in seen.own_clusters.values()},
    )


def group_views(pool: PoolRow, sizes: Mapping[str, Any]) -> list[GroupView]:
    """The machines that a pool may bring; `sizes` is what was last seen of each group."""
    views: list[GroupView] = []
    barred = pool.reason and pool.reason not in HARMLESS
    for group in pool.groups:
        seen = sizes.get(group["name"]) or {}
        trouble = [f"{one['reason']}: {one['message']}" for one in seen.get("trouble") or ()]
        if barred:
            trouble.append(f"{pool.reason}: {pool.message}")
        views.append(
            GroupView(
                cluster=pool.name,
                name=group["name"],
                # What a machine of the group reported counts more than what somebody wrote.
                slots=int(seen.get("slots") or group["slots"]),
                accelerator=group["accelerator"],
                cpus=float(group["cpus"] or seen.get("cpus") or inf),
                memory=int(group["memory"] or seen.get("memory") or MEMORY_UNKNOWN),
                coming=int(seen.get("coming", 0)),
                room=int(seen.get("room", group["max_replicas"])),
                most=int(group["max_replicas"]),
                trouble="; ".join(trouble),
                spot=bool(group["spot"]),
                short=str(seen.get("short") or ""),
                budget=pool.of_pool or pool.name,
                image=pool.image or "",
                barred=bool(barred or seen.get("ending")),
                ordered=int(seen.get("wanted", seen.get("before", 0))),
            )
        )
    return views


def _is_spot(node: NodeRow, groups: Mapping[str, bool]) -> bool | None:
    """None: nobody knows; of a machine whose pod was not seen yet, where its pool has spot ones,
    and of one whose pool nobody looks at."""
    if node.labels.get("spot") == "true":
        return True
    if node.pool_group is not None:
        return groups.get(node.pool_group)
    return None if any(groups.values()) else False


def pool_groups(seen: World) -> tuple[GroupView, ...]:
    """What all pools may bring, as they were seen last."""
    return within_budgets(view for row in seen.pools for view in group_views(row, row.sizes))


def within_budgets(views: Iterable[GroupView]) -> tuple[GroupView, ...]:
    """The groups, each with the room that all of its budget leave: clusters made for one run take
    their machines out of what the pool may have."""
    groups = tuple(views)
    ordered: Counter[tuple[str, str]] = Counter()
    for view in groups:
        ordered[view.purse] += view.ordered
    return tuple(
        replace(view, room=max(0, view.room - (ordered[view.purse] - view.ordered)))
        for view in groups
    )


def _smaller(job: JobRow) -> tuple[tuple[int, int, int], ...]:
    """What an elastic training restarts on; its first attempt waits for the full gang."""
    if not job.smaller_layouts or job.epoch == 0:
        return ()
    return tuple(
        (int(layout["data"]), int(layout["tensor"]), int(layout["pipeline"]))
        for layout in job.smaller_layouts
    )


def _layout(job: JobRow) -> Mapping[str, int] | None:
    layout: Any = job.layout or job.spec.get("parallelism")
    if isinstance(layout, Mapping):
        return {axis: int(layout.get(axis) or 1) for axis in ("data", "tensor", "pipeline")}
    if job.ranks is not None:
        return {"data": job.ranks, "tensor": 1, "pipeline": 1}
    return None


def _parts(roles: Mapping[str, Any] | None, common: Mapping[str, Any]) -> tuple[Part, ...]:
    """The roles of a gang, each with what its ranks hold."""
    return tuple(
        Part(
            role=name,
            ranks=int(role["ranks"]),
            cpus=own.get("cpus") or common.get("cpus"),
            memory=own.get("memory") or common.get("memory"),
            accelerator=own.get("accelerator") or common.get("accelerator"),
        )
        for name, role in (roles or {}).items()
        for own in (role.get("resources") or {},)
    )


def _hold(run: Holding) -> Hold:
    resources = run.resources or {}
    slots: dict[str, int] = {}
    shared: dict[str, dict[int, int]] = {}
    for placement in run.placements:
        node, number = placement["node_id"], placement.get("shared_slot")
        if number is None:
            slots[node] = slots.get(node, 0) + int(placement.get("slots", 1))
        else:
            slots.setdefault(node, 0)
            shared[node] = {int(number): int(placement["share"])}
    asks = {part.role: part for part in _parts(run.roles, resources)}
    cpus: dict[str, float] = {}
    memory: dict[str, int] = {}
    for placement in run.placements:
        node, count = placement["node_id"], int(placement.get("slots", 1))
        ask = asks.get(placement.get("role", ""))
        each = ask.cpus if ask else resources.get("cpus")
        cpus[node] = cpus.get(node, 0.0) + (each or 0.0) * count
        held = ask.memory if ask else resources.get("memory")
        memory[node] = memory.get(node, 0) + (held or 0) * count
    label = f"{run.owner_type}/{run.owner_name}"
    return Hold(
        label=f"run {run.epoch} of {label}" if run.quarantined else label,
        cluster=run.cluster,
        slots=slots,
        cpus=cpus,
        memory=memory,
        ends_at=_ends_at(run),
        quarantined=run.quarantined,
        shared=shared,
        project=run.project,
        service=run.owner_id if run.owner_type == "service" and not run.leaving else "",
    )


def _ends_at(run: Holding) -> datetime | None:
    if run.max_duration is None or run.quarantined:
        return None
    return (run.claimed_at or run.created_at) + timedelta(seconds=run.max_duration)
