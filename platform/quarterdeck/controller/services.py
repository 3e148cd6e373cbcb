"""Services: resolves revisions, drains surplus replicas, and keeps the phase honest.

Missing replicas are created by admission, which places everything that wants slots; this
reconciler says which are wanted, and when a crash loop may try again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from quarterdeck.controller.turns import Turns
from quarterdeck.lifecycle.replicas import ReplicaFacts, ServicePlan, plan_replicas
from quarterdeck.lifecycle.service import SERVICE, ServiceEvent
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.ids import new_id
from quarterdeck.store.service_watch import (
    DRAIN_S,
    ServiceView,
    begin_drain,
    claim_services,
    fresh_run,
    fresh_service,
    note_service,
    resolve_revision,
    service_views,
    stop_replica,
)
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import RunRow, ServiceRow
from quarterdeck.store.transitions import move_service

log = logging.getLogger(__name__)


class Services:
    """One controller's service loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tick(self) -> int:
        """Look at every service once; how many changed.

        Raises the first unforeseen failure, after the other services had their turn.
        """
        lease_id = new_id("lease")
        with self._database.write() as session:
            ids = claim_services(session, lease_id)
        if not ids:
            return 0
        changed = 0
        turns = Turns()
        try:
            with self._database.read() as session:
                views = service_views(session, ids)
            for view in views:
                with turns.turn("service", view.service.id):
                    changed += self._look(view, lease_id)
        finally:
            with self._database.write() as session:
                turns.release(session, ServiceRow, ids, lease_id)
        turns.finish()
        return changed

    def _look(self, view: ServiceView, lease_id: str) -> bool:
        stopping = view.service.desired == "stop"
        if view.revision is None:
            return False
        plan = plan_replicas(
            [_facts(run) for run in view.live],
            [_facts(run) for run in view.ended],
            wanted=0 if stopping else view.service.desired_replicas,
            revision=view.revision.revision,
            now=view.now,
            drain_seconds=DRAIN_S,
        )
        changed = self._move_runs(view.live, plan)
        return self._move_service(view, plan, lease_id) or changed

    def _move_runs(self, live: Sequence[RunRow], plan: ServicePlan) -> bool:
        changed = False
        for run in live:
            if run.id not in plan.drain and run.id not in plan.stop:
                continue
            try:
                with self._database.write() as session:
                    current = fresh_run(session, run)
                    if run.id in plan.stop:
                        stop_replica(session, current, "Drained")
                    else:
                        begin_drain(session, current, plan.drain[run.id])
                changed = True
            except StaleRow as stale:
                log.info("the service loop dropped a stale result: %s", stale)
        return changed

    def _move_service(self, view: ServiceView, plan: ServicePlan, lease_id: str) -> bool:
        try:
            with self._database.write() as session:
                service = fresh_service(session, view.service, lease_id)
                reason, message = self._words(session, service, view, plan)
                event = _event(service, view, plan)
                values: dict[str, Any] = {
                    "ready_replicas": plan.ready_any,
                    "crashes": plan.crashes,
                    "retry_at": plan.retry_at,
                }
                if event is not None:
                    move_service(
                        session,
                        service,
                        event,
                        message=message,
                        lease_id=lease_id,
                        values=values,
                    )
                    return True
                values |= {"message": message}
                if reason:
                    values["reason"] = reason
                note_service(session, service, lease_id, values)
            return False
        except StaleRow as stale:
            log.info("the service loop dropped a stale result: %s", stale)
            return False

    def _words(
        self, session: Any, service: ServiceRow, view: ServiceView, plan: ServicePlan
    ) -> tuple[str, str]:
        revision = view.revision
        if service.desired == "stop":
            return "Draining", f"{len(view.live)} replicas left"
        if revision is not None and revision.inputs is None:
            answer = resolve_revision(session, service, revision)
            if answer.failed:
                return "ReferenceMissing", "; ".join(answer.failed)
            if answer.waiting:
                return "WaitingForJob", "; ".join(answer.waiting)
        message = f"{plan.ready_any} of {service.desired_replicas} replicas ready"
        if plan.crashes:
            last = next((run for run in view.ended if run.phase in ("failed", "lost")), None)
            words = str((last.failure or {}).get("message") or last.message) if last else ""
            message += f"; {plan.crashes} failures in a row, the last: {words[:300]}"
            if plan.ready < service.desired_replicas:
                return "CrashLoop", message
        return "", message


def _facts(run: RunRow) -> ReplicaFacts:
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
    )


def _event(service: ServiceRow, view: ServiceView, plan: ServicePlan) -> ServiceEvent | None:
    """The change of phase that the replicas call for, if any."""
    if service.desired == "stop":
        return ServiceEvent.STOPPED if not view.live else None
    wanted = service.desired_replicas
    if wanted == 0:
        wish = ServiceEvent.EMPTY if not view.live else None
    elif plan.ready >= wanted:
        wish = ServiceEvent.ALL_READY
    elif service.phase == "idle" or plan.ready < plan.ready_any:
        wish = ServiceEvent.DEPLOY
    else:
        wish = ServiceEvent.SHORT
    if wish is None or not SERVICE.allows(service.phase, wish):
        return None
    return wish
