"""Services: resolves revisions, leads rollouts, drains surplus replicas, keeps the phase honest.

Missing replicas are created by admission, which places everything that wants slots; this
reconciler says which are wanted, and when a crash loop may try again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quarterdeck.controller.requests import replica_facts
from quarterdeck.controller.service_words import Words, words_of
from quarterdeck.controller.turns import Turns
from quarterdeck.lifecycle.analysis import NOTHING, Observed
from quarterdeck.lifecycle.chains import judge_chain
from quarterdeck.lifecycle.crashes import crash_words
from quarterdeck.lifecycle.idleness import asleep
from quarterdeck.lifecycle.replicas import (
    Crashes,
    ReplicaFacts,
    ReplicaPlan,
    crashes,
    plan_replicas,
)
from quarterdeck.lifecycle.rollouts import (
    News,
    RevisionFacts,
    RolloutFacts,
    RolloutState,
    advance,
    from_json,
    to_json,
)
from quarterdeck.lifecycle.service import SERVICE, ServiceEvent
from quarterdeck.specs.rollout import Rollout, rollout_of
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.evaluations import results_of
from quarterdeck.store.ids import new_id
from quarterdeck.store.observations import observed_since
from quarterdeck.store.service_watch import (
    DRAIN_S,
    ServiceView,
    alias_moved,
    begin_drain,
    claim_services,
    follow_alias,
    fresh_run,
    fresh_service,
    note_service,
    resolve_revision,
    service_views,
    stop_replica,
    tell_rollout,
)
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import RunRow, ServiceRow
from quarterdeck.store.transitions import move_service

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    """What one look at a service decides."""

    state: RolloutState | None
    news: Sequence[News]
    replicas: ReplicaPlan
    rows: dict[str, Any]
    """`rollout` as it is stored."""
    ready: int
    wanted: int
    failures: Crashes = field(default_factory=Crashes)
    """Of the revision that is to serve in the end."""


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
        if view.revision is None:
            return False
        try:
            if self._follow(view, lease_id):
                return True
            newest, missing = self._newest(view, lease_id)
            plan = self._plan(view, newest)
            changed = self._move_service(view, plan, missing, lease_id)
        except StaleRow as stale:
            log.info("the service loop dropped a stale result: %s", stale)
            return False
        return self._move_runs(view.live, plan.replicas) or changed

    def _follow(self, view: ServiceView, lease_id: str) -> bool:
        """Whether an alias means another version by now, which made a new revision."""
        if view.service.desired == "stop" or view.revision is None or view.revision.inputs is None:
            return False
        with self._database.read() as session:
            note = alias_moved(session, view.service, view.revision)
        if note:
            with self._database.write() as session:
                follow_alias(session, view.service, lease_id, note)
        return bool(note)

    def _newest(self, view: ServiceView, lease_id: str) -> tuple[int | None, Words | None]:
        """The newest revision that can be served, and what the newest of all still lacks."""
        service, revision, best = view.service, view.revision, view.resolved
        missing: Words | None = None
        if service.desired != "stop" and revision is not None and revision.inputs is None:
            with self._database.write() as session:
                current = fresh_service(session, service, lease_id)
                answer = resolve_revision(session, current, revision)
            if answer.failed:
                missing = Words("ReferenceMissing", "; ".join(answer.failed))
            elif answer.waiting:
                missing = Words("WaitingForJob", "; ".join(answer.waiting))
            else:
                best = revision
        return (best.of_revision or best.revision) if best is not None else None, missing

    def _plan(self, view: ServiceView, newest: int | None) -> _Plan:
        service = view.service
        live = [replica_facts(run, view.cordoned) for run in view.live]
        ended = [replica_facts(run) for run in view.ended]
        settings = rollout_of(service.spec)
        state, news = _state_of(service), list[News]()
        stopping = service.desired == "stop"
        wanted = 0 if stopping or _asleep(view) else service.desired_replicas
        if newest is not None and not stopping and not view.steps:
            facts = self._facts(view, wanted, state, settings, live, ended, newest)
            state, news = advance(state, facts, settings, view.now)
        counts = state.wanted if state is not None and not stopping else {}
        surge = settings.surge(wanted)
        replicas = plan_replicas(
            live, counts, now=view.now, drain_seconds=DRAIN_S,
            slack=0 if surge else settings.unavailable(wanted),
        )  # fmt: skip
        forgiven = state.forgiven if state is not None else None
        failures = {
            number: crashes(ended, number, forgiven if state and number == state.target else None)
            for number in counts
        }
        stored: dict[str, Any] = {}
        if state is not None:
            stored = to_json(state) | {
                "most": wanted + surge if wanted else 0,
                "retry_at": {
                    str(number): each.retry_at.isoformat()
                    for number, each in failures.items()
                    if each.retry_at is not None
                },
            }
        main = failures.get(state.main) if state is not None else None
        ready = sum(run.phase == "ready" for run in live)
        return _Plan(state, news, replicas, stored, ready, wanted, main or Crashes())

    def _facts(
        self,
        view: ServiceView,
        wanted: int,
        state: RolloutState | None,
        settings: Rollout,
        live: Sequence[ReplicaFacts],
        ended: Sequence[ReplicaFacts],
        newest: int,
    ) -> RolloutFacts:
        revisions: dict[int, RevisionFacts] = {}
        for run in live:
            if run.serving:
                seen = revisions.get(run.revision, RevisionFacts())
                ready = seen.ready + (run.phase == "ready")
                revisions[run.revision] = RevisionFacts(seen.alive + 1, ready)
        failures, observed = Crashes(), NOTHING
        results: Mapping[str, float] = {}
        if state is not None and state.on_trial and state.target == newest:
            failures = crashes(ended, state.target, state.forgiven)
            observed, results = self._trial(view, state, settings)
        wish = (view.service.rollout_wish or {}).get("wish")
        return RolloutFacts(
            replicas=wanted,
            newest=newest,
            revisions=revisions,
            failures=failures.count,
            failure=_words_of_run(view.ended, failures.last),
            observed=observed,
            results=results,
            wish=wish if wish in ("pause", "resume") else None,
        )

    def _trial(
        self, view: ServiceView, state: RolloutState, settings: Rollout
    ) -> tuple[Observed, Mapping[str, float]]:
        """What is known of the revision on trial, as far as its analysis asks for it."""
        observed, results = NOTHING, dict[str, float]()
        if settings.analysis is None:
            return observed, results
        with self._database.read() as session:
            if state.reached_at is not None:
                observed = observed_since(
                    session, view.service.id, state.target, state.observe_since
                )
            if settings.analysis.evaluations and view.resolved is not None:
                results |= results_of(session, view.service.project, view.resolved)
        return observed, results

    def _move_runs(self, live: Sequence[RunRow], plan: ReplicaPlan) -> bool:
        changed = False
        for run in live:
            if run.id not in plan.drain and run.id not in plan.stop:
                continue
            try:
                with self._database.write() as session:
                    current = fresh_run(session, run)
                    if run.id in plan.unhealthy:
                        stop_replica(session, current, plan.stop[run.id], "unhealthy")
                    elif run.id in plan.stop:
                        stop_replica(session, current, plan.stop[run.id])
                    else:
                        begin_drain(session, current, plan.drain[run.id])
                changed = True
            except StaleRow as stale:
                log.info("the service loop dropped a stale result: %s", stale)
        return changed

    def _move_service(
        self, view: ServiceView, plan: _Plan, missing: Words | None, lease_id: str
    ) -> bool:
        failure = _words_of_run(view.ended, plan.failures.last)
        words = missing or words_of(
            view.service,
            plan.state,
            plan.wanted,
            len(view.live),
            plan.ready,
            plan.failures,
            failure,
            view.steps,
        )
        values: dict[str, Any] = {
            "ready_replicas": plan.ready,
            "crashes": plan.failures.count,
            "retry_at": plan.failures.retry_at,
        }
        if plan.rows:
            values |= {"rollout": plan.rows, "rollout_wish": None}
        event = _event_of_chain(view) if view.steps else _event(view.service, plan, len(view.live))
        with self._database.write() as session:
            service = fresh_service(session, view.service, lease_id)
            tell_rollout(session, service, plan.news)
            if event is not None:
                move_service(
                    session, service, event, reason=words.reason or None, message=words.message,
                    lease_id=lease_id, values=values,
                )  # fmt: skip
                return True
            values |= {"message": words.message}
            if words.reason:
                values["reason"] = words.reason
            note_service(session, service, lease_id, values)
        return bool(plan.news)


def _asleep(view: ServiceView) -> bool:
    service, since = view.service, view.service.created_at
    if view.revision is not None:
        since = max(since, view.revision.created_at)
    return asleep(service.spec.get("idle_after"), service.active_at, since, view.now)


def _state_of(service: ServiceRow) -> RolloutState | None:
    return from_json(service.rollout) if service.rollout else None


def _words_of_run(ended: Sequence[RunRow], run_id: str | None) -> str:
    run = next((run for run in ended if run.id == run_id), None)
    return crash_words(run.failure, run.message, run.reason) if run is not None else ""


def _event_of_chain(view: ServiceView) -> ServiceEvent | None:
    """The change of phase that the steps of a chain call for, if any."""
    service = view.service
    if service.desired == "stop":
        return ServiceEvent.STOPPED
    wish = ServiceEvent.ALL_READY if judge_chain(view.steps).ready else ServiceEvent.SHORT
    return wish if SERVICE.allows(service.phase, wish) else None


def _event(service: ServiceRow, plan: _Plan, live: int) -> ServiceEvent | None:
    """The change of phase that the replicas call for, if any."""
    if service.desired == "stop":
        return ServiceEvent.STOPPED if not live else None
    wanted, state = plan.wanted, plan.state
    rolling = state is not None and state.under_way and state.stable is not None
    if wanted == 0:
        wish = ServiceEvent.EMPTY if not live else None
    elif rolling or service.phase == "idle":
        wish = ServiceEvent.DEPLOY
    elif plan.ready >= wanted:
        wish = ServiceEvent.ALL_READY
    else:
        wish = ServiceEvent.SHORT
    if wish is None or not SERVICE.allows(service.phase, wish):
        return None
    return wish
