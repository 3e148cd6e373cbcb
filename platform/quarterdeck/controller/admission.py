"""Admission: waiting → queued when references resolve, queued → starting when there is room.

A tick leases the rows it may change, looks at one snapshot, plans without a transaction, and
applies each part in a transaction of its own, guarded by lease, version and capacity.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from quarterdeck.controller.requests import job_request, replica_requests, snapshot_of
from quarterdeck.controller.turns import PAUSE_S, Turns
from quarterdeck.lifecycle.job import JobEvent
from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import Assignment, Pending, Request
from quarterdeck.store.admission import (
    World,
    claim_jobs,
    jobs_by_id,
    note_pending,
    service_as_read,
    world,
)
from quarterdeck.store.array_rows import release_members
from quarterdeck.store.errors import CapacityTaken, StaleRow
from quarterdeck.store.ids import new_id
from quarterdeck.store.placements import NewRun, start_job, start_replica
from quarterdeck.store.references import Resolution, bind_edges, resolve_job
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import JobRow, ServiceRow
from quarterdeck.store.transitions import move_job

log = logging.getLogger(__name__)


class Admission:
    """One controller's admission loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rests: dict[str, datetime] = {}
        """Until when a service that could not be placed is left alone."""

    def tick(self) -> int:
        """Look at everything that waits once; the number of runs created.

        Raises the first unforeseen failure, after the other rows had their turn.
        """
        lease_id = new_id("lease")
        turns = Turns()
        with self._database.write() as session:
            ids = claim_jobs(session, lease_id)
        try:
            if ids:
                self._admit(ids, lease_id, turns)
            created = self._place(frozenset(ids), lease_id, turns)
        finally:
            with self._database.write() as session:
                turns.release(session, JobRow, ids, lease_id)
        turns.finish()
        return created

    def _admit(self, ids: list[str], lease_id: str, turns: Turns) -> None:
        """Intents first, then references."""
        with self._database.read() as session:
            jobs = jobs_by_id(session, ids)
        for job in jobs:
            if job.desired != "run" or job.phase == "suspended" or job.phase == "waiting":
                with turns.turn("job", job.id):
                    self._guarded(self._move_one, job.id, job.version, lease_id)

    def _move_one(self, session: Any, job: JobRow, lease_id: str) -> None:
        if job.desired == "cancel":
            move_job(session, job, JobEvent.CANCELLED, lease_id=lease_id)
            return
        if job.desired == "suspend":
            if job.phase != "suspended":
                move_job(session, job, JobEvent.SUSPENDED, lease_id=lease_id)
            return
        bind_edges(session, job)
        resolution = resolve_job(session, job)
        if job.phase == "suspended":
            event = JobEvent.RESUMED if resolution.ready else JobEvent.RESUMED_UNRESOLVED
            move_job(
                session, job, event, lease_id=lease_id, message="resumed",
                values={"restart_at": None},
            )  # fmt: skip
        if job.phase == "waiting":
            self._resolve(session, job, resolution, lease_id)

    def _resolve(self, session: Any, job: JobRow, resolution: Resolution, lease_id: str) -> None:
        if resolution.failed:
            message = "; ".join(resolution.failed)
            move_job(session, job, JobEvent.DEPENDENCY_FAILED, message=message, lease_id=lease_id)
            release_members(session, job.id)  # they end for the same reason
        elif resolution.not_needed:
            message = "; ".join(resolution.not_needed)
            move_job(session, job, JobEvent.NOT_NEEDED, message=message, lease_id=lease_id)
            release_members(session, job.id)
        elif resolution.waiting:
            note_pending(
                session,
                job,
                lease_id=lease_id,
                reason="WaitingForJob",
                message="; ".join(resolution.waiting),
            )
        else:
            move_job(session, job, JobEvent.RESOLVED, lease_id=lease_id)

    def _guarded(self, change: Any, job_id: str, version: int, lease_id: str) -> None:
        try:
            with self._database.write() as session:
                jobs = jobs_by_id(session, [job_id])
                if jobs and jobs[0].version == version and jobs[0].lease_id == lease_id:
                    change(session, jobs[0], lease_id)
        except StaleRow as stale:
            log.info("admission dropped a stale result: %s", stale)

    def _place(self, mine: frozenset[str], lease_id: str, turns: Turns) -> int:
        with self._database.read() as session:
            seen = world(session)
        requests, refused = self._requests(seen, mine, turns)
        if not requests and not refused:
            self._rest(turns, seen)
            return 0
        made = plan(snapshot_of(seen, requests), seen.now)
        jobs = {job.id: job for job in seen.jobs if job.id in mine}
        created = 0
        services = {service.id: service for service in seen.services}
        for assignment in made.assignments:
            owner = assignment.request_id.partition("#")[0]
            if owner in jobs:
                with turns.turn("job", owner):
                    created += self._start_job(jobs[owner], assignment, lease_id)
            elif owner in services:
                with turns.turn("service", owner):
                    created += self._start_replica(seen, services, assignment)
        self._explain(jobs, [*made.pending, *refused], lease_id, turns)
        self._rest(turns, seen)
        return created

    def _rest(self, turns: Turns, seen: World) -> None:
        """Services are not leased here: those that failed are left alone for a while."""
        until = seen.now + timedelta(seconds=PAUSE_S)
        self._rests = {name: rest for name, rest in self._rests.items() if rest > seen.now}
        self._rests |= {
            service.id: until for service in seen.services if service.id in turns.failed
        }

    def _requests(
        self, seen: World, mine: frozenset[str], turns: Turns
    ) -> tuple[list[Request], list[Pending]]:
        requests: list[Request] = []
        refused: list[Pending] = []
        for job in seen.jobs:
            # Somebody else's broken job, or one that waits after its failure, asks for nothing.
            with turns.turn("job", job.id) if job.id in mine else suppress(Exception):
                answer = job_request(job, seen)
                if isinstance(answer, Request):
                    requests.append(answer)
                else:
                    refused.append(answer)
        for service in seen.services:
            if self._rests.get(service.id, seen.now) > seen.now:
                continue
            with turns.turn("service", service.id):
                requests.extend(replica_requests(service, seen))
        return requests, refused

    def _start_job(self, job: JobRow, assignment: Assignment, lease_id: str) -> int:
        try:
            with self._database.write() as session:
                current = jobs_by_id(session, [job.id])
                if not current or current[0].version != job.version:
                    return 0
                resolution = resolve_job(session, current[0])
                if not resolution.ready:
                    message = "; ".join(resolution.failed or resolution.waiting)
                    move_job(
                        session,
                        current[0],
                        JobEvent.FAILED,
                        reason="DependencyFailed",
                        message=message,
                        lease_id=lease_id,
                    )
                    return 0
                spec = {**job.spec}
                if job.layout:
                    spec["parallelism"] = job.layout
                    spec["ranks"] = len(assignment.placements)
                start_job(
                    session,
                    current[0],
                    NewRun(assignment.cluster, assignment.placements, spec, resolution.inputs),
                    lease_id=lease_id,
                )
            return 1
        except (StaleRow, CapacityTaken) as stale:
            log.info("admission dropped a stale placement of %s: %s", job.name, stale)
            return 0

    def _start_replica(
        self, seen: World, services: dict[str, ServiceRow], assignment: Assignment
    ) -> int:
        service = services[assignment.request_id.partition("#")[0]]
        revision = seen.revisions[service.id]
        try:
            with self._database.write() as session:
                current = service_as_read(session, service)
                start_replica(
                    session,
                    current,
                    NewRun(
                        assignment.cluster,
                        assignment.placements,
                        revision.spec,
                        revision.inputs or {},
                        revision.revision,
                    ),
                )
            # The next replica of this plan compares with what this one left.
            services[service.id] = current
            return 1
        except (StaleRow, CapacityTaken) as stale:
            log.info("admission dropped a stale replica of %s: %s", service.name, stale)
            return 0

    def _explain(
        self, jobs: Mapping[str, JobRow], pending: Iterable[Pending], lease_id: str, turns: Turns
    ) -> None:
        mine = [item for item in pending if item.request_id in jobs]
        if not mine:
            return
        with self._database.write() as session:
            for item in mine:
                with turns.turn("job", item.request_id):
                    note_pending(
                        session,
                        jobs[item.request_id],
                        lease_id=lease_id,
                        reason=item.reason,
                        message=item.message,
                        facts=item.facts,
                        starts_at=item.starts_at,
                    )
