"""Admission: waiting → queued when references resolve, queued → starting when there is room.

A tick leases the rows it may change, looks at one snapshot, plans without a transaction, and
applies the plan in short transactions of several jobs, each in its savepoint, guarded by lease,
version and capacity.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from quarterdeck.controller.requests import job_request, replica_requests, snapshot_of
from quarterdeck.controller.turns import PAUSE_S, Turns
from quarterdeck.lifecycle.job import JobEvent
from quarterdeck.scheduling.placement import by_node
from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import Assignment, Pending, Request
from quarterdeck.store.admission import (
    World,
    claim_jobs,
    jobs_by_id,
    note_pending,
    note_services_pending,
    service_as_read,
    world,
)
from quarterdeck.store.array_rows import release_members
from quarterdeck.store.capacity import Usage, held_capacity, hold_capacity, tentative, usage
from quarterdeck.store.elastic import note_resize
from quarterdeck.store.errors import CapacityTaken, StaleRow
from quarterdeck.store.failures import UNAVAILABLE
from quarterdeck.store.ids import new_id
from quarterdeck.store.placements import NewRun, start_job, start_jobs, start_replica
from quarterdeck.store.references import Resolution, bind_edges, independent, resolve_job
from quarterdeck.store.sessions import Database, Session
from quarterdeck.store.tables import JobRow, ServiceRow
from quarterdeck.store.transitions import JobMove, move_job, move_jobs

log = logging.getLogger(__name__)

BATCH = 100
"""Jobs in one transaction: a commit is dear, and a long transaction holds up beats."""

Change = Callable[[Session, JobRow, str], int]
Together = Callable[[Session, Sequence[JobRow], str], frozenset[str]]


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
        versions = {
            job.id: job.version
            for job in jobs
            if job.desired != "run" or job.phase in ("suspended", "waiting")
        }
        self._each(versions, lease_id, turns, self._move_one, self._move_plain)

    def _move_plain(
        self, session: Session, jobs: Sequence[JobRow], lease_id: str
    ) -> frozenset[str]:
        """The jobs that only have to be looked at: they wait for nothing."""
        waiting = [job for job in jobs if job.desired == "run" and job.phase == "waiting"]
        ready = independent(session, waiting)
        moves = [JobMove(job, JobEvent.RESOLVED) for job in waiting if job.id in ready]
        move_jobs(session, moves, lease_id=lease_id)
        return ready

    def _move_one(self, session: Session, job: JobRow, lease_id: str) -> int:
        if job.desired == "cancel":
            move_job(session, job, JobEvent.CANCELLED, lease_id=lease_id)
            return 1
        if job.desired == "suspend":
            if job.phase != "suspended":
                move_job(session, job, JobEvent.SUSPENDED, lease_id=lease_id)
            return 1
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
        return 1

    def _resolve(
        self, session: Session, job: JobRow, resolution: Resolution, lease_id: str
    ) -> None:
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

    def _each(
        self,
        versions: Mapping[str, int],
        lease_id: str,
        turns: Turns,
        change: Change,
        together: Together,
        known: dict[str, Usage] | None = None,
    ) -> int:
        """`change` each job that is still as it was read, several in a transaction; how many were
        changed. `together` first does those that need no looking at in one go; when it fails, or
        for the others, a savepoint keeps one job's failure from the rest.

        `known` names the clusters to hold, and is kept up to date.
        """
        done = 0
        everything = list(versions)
        for first in range(0, len(everything), BATCH):
            ids = everything[first : first + BATCH]
            with self._database.write() as session:
                hold_capacity(session, known or (), known)
                jobs = [
                    job
                    for job in jobs_by_id(session, ids)
                    if job.version == versions[job.id] and job.lease_id == lease_id
                ]
                plain = self._try_together(session, jobs, lease_id, together)
                changed = len(plain)
                for job in jobs:
                    if job.id in plain:
                        continue
                    with turns.turn("job", job.id):
                        try:
                            with tentative(session):
                                changed += change(session, job, lease_id)
                        except (StaleRow, CapacityTaken) as stale:
                            log.info("admission dropped a stale result: %s", stale)
                after = held_capacity(session)
            done += changed  # only what was committed
            if known is not None:
                known.update(after)
        return done

    def _try_together(
        self, session: Session, jobs: Sequence[JobRow], lease_id: str, together: Together
    ) -> frozenset[str]:
        try:
            with tentative(session):
                return together(session, jobs, lease_id)
        except UNAVAILABLE:
            raise
        except Exception as error:  # one of them: found, and told of, when each has its turn
            log.info("admission takes %d jobs one by one: %s", len(jobs), type(error).__name__)
            return frozenset()

    def _place(self, mine: frozenset[str], lease_id: str, turns: Turns) -> int:
        with self._database.read() as session:
            seen = world(session, sorted(mine))
        requests, refused = self._requests(seen, mine, turns)
        if not requests and not refused:
            self._explain_services(seen, [])
            self._rest(turns, seen)
            return 0
        made = plan(snapshot_of(seen, requests), seen.now)
        jobs = {job.id: job for job in seen.jobs if job.id in mine}
        services = {service.id: service for service in seen.services}
        placed = {each.request_id: each for each in made.assignments if each.request_id in jobs}
        created = self._start_jobs(seen, jobs, placed, lease_id, turns)
        for assignment in made.assignments:
            owner = assignment.request_id.partition("#")[0]
            if owner in services:
                with turns.turn("service", owner):
                    created += self._start_replica(seen, services, assignment)
        self._explain(jobs, [*made.pending, *refused], lease_id, turns)
        self._explain_services(seen, made.pending)
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

    def _start_jobs(
        self,
        seen: World,
        jobs: Mapping[str, JobRow],
        placed: Mapping[str, Assignment],
        lease_id: str,
        turns: Turns,
    ) -> int:
        versions = {job_id: jobs[job_id].version for job_id in placed}
        wanted = {assignment.cluster for assignment in placed.values()}
        known = usage([row for row in seen.clusters if row.name in wanted], seen.holding)

        def start(session: Session, job: JobRow, lease_id: str) -> int:
            return self._start_job(session, job, placed[job.id], lease_id)

        def start_plain(session: Session, jobs: Sequence[JobRow], lease_id: str) -> frozenset[str]:
            """First attempts of jobs that read nothing."""
            ready = independent(session, [job for job in jobs if job.epoch == 0])
            starts = [(job, _new_run(job, placed[job.id], {})) for job in jobs if job.id in ready]
            start_jobs(session, starts, lease_id=lease_id)
            return ready

        return self._each(versions, lease_id, turns, start, start_plain, known)

    def _start_job(
        self, session: Session, job: JobRow, assignment: Assignment, lease_id: str
    ) -> int:
        resolution = resolve_job(session, job)
        if not resolution.ready:
            message = "; ".join(resolution.failed or resolution.waiting)
            move_job(
                session, job, JobEvent.FAILED, reason="DependencyFailed", message=message,
                lease_id=lease_id,
            )  # fmt: skip
            return 0
        new = _new_run(job, assignment, resolution.inputs)
        run = start_job(session, job, new, lease_id=lease_id)
        note_resize(session, run, assignment.why)
        return 1

    def _start_replica(
        self, seen: World, services: dict[str, ServiceRow], assignment: Assignment
    ) -> int:
        owner, number, _ = assignment.request_id.split("#")
        service = services[owner]
        revision = seen.revisions[owner, int(number)]
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
                        clusters=assignment.clusters,
                        domain=assignment.domain,
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

    def _explain_services(self, seen: World, pending: Iterable[Pending]) -> None:
        """Say of each service why a replica of it, one of a rollout too, finds no place."""
        facts: dict[str, list[str]] = {}
        for item in pending:
            owner, hash_, rest = item.request_id.partition("#")
            if hash_ and owner not in facts:
                number = rest.partition("#")[0]
                facts[owner] = [f"a replica of revision {number} waits: {item.message}"]
                if item.reason == "WaitingForMachines":
                    facts[owner] += item.facts
        changed = {
            service.id: facts.get(service.id, [])
            for service in seen.services
            if list(service.facts) != facts.get(service.id, [])
        }
        if changed:
            with self._database.write() as session:
                note_services_pending(session, changed)


def _new_run(job: JobRow, assignment: Assignment, inputs: dict[str, Any]) -> NewRun:
    spec = {**job.spec}
    layout, full_ranks = job.layout, None
    if assignment.smaller is not None and job.smaller_layouts:
        layout, full_ranks = job.smaller_layouts[assignment.smaller], job.ranks
    if layout:
        spec["parallelism"] = layout
        spec["ranks"] = len(assignment.placements)
    places = assignment.placements
    if spec.get("launch") == "per_node":
        places = by_node(places)
    return NewRun(
        assignment.cluster,
        places,
        spec,
        inputs,
        full_ranks=full_ranks,
        clusters=assignment.clusters,
        domain=assignment.domain,
    )
