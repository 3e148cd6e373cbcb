"""Why a job or a service is in the state it is in: the controller's reason and the facts."""

from __future__ import annotations

from datetime import datetime

from quarterdeck.lifecycle.dependencies import judge_dependency
from quarterdeck.lifecycle.faults import exclusions
from quarterdeck.specs.resources import Why
from quarterdeck.store import job_queries, run_queries, service_queries
from quarterdeck.store.node_faults import as_fault, faults_of
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import JobRow, ServiceRow


def reason_of(session: Session, row: JobRow) -> Why:
    """A job's reason, what it waits for, and its newest run."""
    facts = [str(fact) for fact in row.facts]
    facts += _dependencies(session, row)
    if row.starts_at is not None:
        facts.append(f"starts about {_moment(row.starts_at)}")
    if row.restart_at is not None and row.phase == "queued":
        facts.append(f"restarts not before {row.restart_at:%Y-%m-%d %H:%M:%S} UTC")
    if row.desired != "run" and row.phase not in job_queries.ENDED:
        facts.append(f"somebody wants it to {row.desired}")
    if row.restarts_used:
        most = row.spec.get("max_restarts", 0)
        facts.append(f"{row.restarts_used} of {most} restarts are used")
    if row.phase not in job_queries.ENDED:
        facts += _exclusions(session, row)
    facts += _newest_run(session, row.id)
    if row.failure:
        rank = row.failure.get("rank")
        who = "the run" if rank is None else f"rank {rank}"
        facts.append(f"{who} failed first ({row.failure.get('blame', 'unknown')})")
    return Why(
        subject=f"job/{row.name}",
        phase=row.phase,
        reason=row.reason,
        message=row.message,
        facts=_unique(facts),
    )


def reason_of_service(session: Session, row: ServiceRow) -> Why:
    """A service's reason and its replicas."""
    facts = [str(fact) for fact in row.facts]
    steps = service_queries.chain_facts(session, [row]).get(row.id, [])
    facts += [f"step {n} ({step.role}): {step.words}" for n, step in enumerate(steps, 1)]
    if not steps:
        facts.append(f"{row.ready_replicas} of {row.desired_replicas} replicas are ready")
    if row.desired == "stop":
        facts.append("it is being removed")
    if row.crashes:
        facts.append(f"{row.crashes} replicas failed in a row")
    if row.retry_at is not None:
        facts.append(f"the next replica is tried about {_moment(row.retry_at)}")
    facts += _newest_run(session, row.id)
    return Why(
        subject=f"service/{row.name}",
        phase=row.phase,
        reason=row.reason,
        message=row.message,
        facts=_unique(facts),
    )


def _dependencies(session: Session, row: JobRow) -> list[str]:
    if row.phase != "waiting":
        return []
    facts = []
    for edge in job_queries.edges_of(session, row.array_id or row.id):
        if edge.needs_id is None:
            facts.append(f"{edge.field}: job/{edge.needs_name} does not exist yet")
            continue
        other = job_queries.get_job(session, edge.needs_id, row.project)
        if judge_dependency(edge.condition, other.phase, other.reason) == "waiting":
            until = "" if edge.condition == "success" else f", waits for its {edge.condition}"
            facts.append(f"{edge.field}: job/{other.name} is {other.phase} ({other.reason}){until}")
    return facts


def _exclusions(session: Session, row: JobRow) -> list[str]:
    faults = [as_fault(each) for each in faults_of(session, [row.id]).get(row.id, ())]
    return [f"{host} excluded: {why.words}" for (host, _), why in exclusions(faults).items()]


def _newest_run(session: Session, owner_id: str) -> list[str]:
    run = run_queries.newest_run(session, owner_id)
    if run is None:
        return []
    text = f"run {run.epoch} on {run.cluster} is {run.phase} ({run.reason})"
    reasons = run_queries.placement_reasons(session, run)
    return [
        f"{text}: {run.message or run.reported_message}".rstrip(": "),
        *(f"cluster {name}: {why}" for name, why in reasons.items()),
    ]


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _unique(facts: list[str]) -> list[str]:
    return list(dict.fromkeys(fact for fact in facts if fact))
