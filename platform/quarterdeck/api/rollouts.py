"""Rollouts as people see them, from what the controller stores."""

from __future__ import annotations

from quarterdeck.lifecycle.analysis import quantile
from quarterdeck.lifecycle.rollouts import RolloutState, from_json
from quarterdeck.specs.rollout import rollout_of
from quarterdeck.specs.rollout_status import Revision, RevisionStatus, RolloutStatus
from quarterdeck.store import service_queries
from quarterdeck.store.observations import observed_lately
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import RevisionRow, RunRow, ServiceRow

WINDOW_S = 300.0
_LEAVING = ("draining", "stopping")


def state_of(row: ServiceRow) -> RolloutState | None:
    """None: the controller has not looked yet."""
    return from_json(row.rollout) if row.rollout else None


def rollout_status(session: Session, row: ServiceRow) -> RolloutStatus:
    """Where the rollout of a service stands, with a line for each revision."""
    state, settings = state_of(row), rollout_of(row.spec)
    newest = service_queries.get_revision(session, row, row.revision)
    runs = [
        run
        for run in service_queries.replicas_of(session, [row.id])[row.id]
        if run.phase not in _LEAVING
    ]
    status = RolloutStatus(
        service=row.name, revision=row.revision, of_revision=newest.of_revision,
        strategy=settings.strategy, phase="unknown", steps=len(settings.steps),
        reason=row.reason, message=row.message,
    )  # fmt: skip
    if row.spec.get("chain"):
        status.phase = "finished"  # gateways follow at once: there are no replicas to go over
    if state is None:
        return status
    status.phase, status.step = state.phase, state.step
    status.target, status.stable = state.target, state.stable
    status.since, status.reached_at = state.since, state.reached_at
    numbers = {run.revision or 0 for run in runs} | set(state.wanted)
    if state.under_way or state.phase == "rolled_back":
        numbers |= {state.target}
    status.revisions = [
        _revision_status(session, row, state, number, runs) for number in sorted(numbers)
    ]
    return status


def _revision_status(
    session: Session, row: ServiceRow, state: RolloutState, number: int, runs: list[RunRow]
) -> RevisionStatus:
    mine = [run for run in runs if run.revision == number]
    ready = sum(run.phase == "ready" for run in mine)
    all_ready = sum(run.phase == "ready" for run in runs)
    seen = observed_lately(session, row.id, number, WINDOW_S)
    found = session.get(RevisionRow, (row.id, number))
    models = ((found.inputs if found else None) or {}).get("model", [])
    shared = ready / all_ready if all_ready else 0.0
    return RevisionStatus(
        revision=number,
        model_version=f"{models[0]['name']}@{models[0]['version']}" if models else None,
        weight=state.traffic.get(number, 0.0) if state.traffic else shared,
        wanted=state.wanted.get(number, 0),
        alive=len(mine),
        ready=ready,
        requests=seen.requests,
        error_rate=seen.error_rate if seen.requests else None,
        ttft_p95=quantile(seen.ttft, 0.95),
    )


def revision_view(session: Session, row: RevisionRow) -> Revision:
    """A revision with what it changed."""
    before = session.get(RevisionRow, (row.service_id, row.revision - 1))
    changed: list[str] = []
    if before is not None:
        names = {*row.spec, *before.spec}
        changed = [name for name in sorted(names) if row.spec.get(name) != before.spec.get(name)]
        if "model" not in changed and row.inputs and before.inputs:
            versions = [each.get("model") for each in (row.inputs, before.inputs)]
            changed += ["model"] if versions[0] != versions[1] else []
    return Revision(
        revision=row.revision, spec=row.spec, inputs=row.inputs, of_revision=row.of_revision,
        actor=row.actor, note=row.note, changed=sorted(changed), created_at=row.created_at,
    )  # fmt: skip


def undone(session: Session, row: ServiceRow, to: int | None) -> RevisionRow | None:
    """The revision that an undo goes to: `to`, else the stable one while another is on its way or
    was rolled back, else the one before the newest. None: there is none, or it is in place.
    Raises NotFound."""
    state = state_of(row)
    newest = service_queries.get_revision(session, row, row.revision)
    if to is None:
        on_way = state is not None and state.phase != "finished" and state.stable is not None
        to = state.stable if state is not None and on_way else row.revision - 1
    if not to:
        return None
    found = service_queries.get_revision(session, row, to)
    same = (found.of_revision or found.revision) == (newest.of_revision or newest.revision)
    return None if same else found
