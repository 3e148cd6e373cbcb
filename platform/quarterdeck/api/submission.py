"""Apply: documents become jobs and services in one transaction, or nothing happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from quarterdeck.api.auth import Caller
from quarterdeck.api.documents import Document, in_order, jobs_of, read_documents, refuse
from quarterdeck.api.fitting import (
    Fleet,
    Judgement,
    judge,
    judge_members,
    read_fleet,
    vocabulary_of,
)
from quarterdeck.api.problems import ProblemError
from quarterdeck.api.resolution import Resolver
from quarterdeck.api.role_fit import check_roles
from quarterdeck.api.share_fit import check_shares
from quarterdeck.api.workdirs import check_workdirs
from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.kinds import DOCUMENT, ServiceSpec
from quarterdeck.specs.pruning import kept_services
from quarterdeck.specs.resources import Applied, FieldProblem
from quarterdeck.specs.rollout import same_replicas
from quarterdeck.specs.workdir import identity
from quarterdeck.store import array_rows, job_queries, service_queries
from quarterdeck.store.array_rows import NewMember
from quarterdeck.store.job_queries import Edge
from quarterdeck.store.sessions import Database, Session
from quarterdeck.store.tables import JobRow, ServiceRow


@dataclass(frozen=True)
class Wishes:
    """How documents are applied."""

    replace: bool = False
    force: bool = False
    prune: bool = False
    always_new: bool = False
    """Submit a new job even where the same one lives or has succeeded."""


@dataclass(frozen=True)
class Prepared:
    """Documents that were read, and what the planner makes of each, by path."""

    documents: Sequence[Document]
    judgements: Mapping[str, Sequence[Judgement]]
    """One, or one for each member of an array."""


@dataclass
class _Outcome:
    results: dict[str, Applied] = field(default_factory=dict)
    errors: list[FieldProblem] = field(default_factory=list)
    submitted: dict[tuple[str, str], str | None] = field(default_factory=dict)


def prepare(
    database: Database,
    caller: Caller,
    data: Sequence[object],
    project: str,
    wishes: Wishes,
    *,
    artifacts: ArtifactStore | None,
    root: str = "documents",
) -> Prepared:
    """Read documents and judge whether they fit, outside the write transaction: searching
    layouts takes time. `artifacts` is where uploads must lie; None: they need not be there yet.
    Raises ProblemError."""
    documents = in_order(read_documents(data, project, root))
    for document in documents:
        caller.check_project(document.parsed.project)
    check_workdirs(database, documents, artifacts)
    fleets: dict[str, Fleet] = {}
    with database.read() as session:
        for owner in sorted({document.parsed.project for document in documents}):
            fleet = fleets[owner] = read_fleet(session, owner)
            if not wishes.force:
                mine = [document for document in documents if document.parsed.project == owner]
                check_shares(session, mine, fleet)
                check_roles(mine, fleet.slots)
    judgements = {
        document.path: _judge(
            document, fleets[document.parsed.project], vocabulary_of(document, documents),
            force=wishes.force,
        )
        for document in documents
    }  # fmt: skip
    return Prepared(documents, judgements)


def _judge(
    document: Document, fleet: Fleet, vocab_size: int | None, *, force: bool
) -> Sequence[Judgement]:
    if document.members:
        return judge_members(document, fleet, vocab_size, force=force)
    return [judge(document, fleet, vocab_size, force=force)]


def submit(
    session: Session, caller: Caller, prepared: Prepared, wishes: Wishes
) -> dict[str, Applied]:
    """Write every document; what became of each by its path, and of pruned services by name.

    Raises ProblemError `invalid_document` with everything that is missing, or `job_live`.
    """
    outcome = _Outcome()
    jobs = jobs_of(prepared.documents)
    services = {one.subject[1:]: one for one in prepared.documents if not one.is_job}
    resolver = Resolver(session, jobs, outcome.submitted, services)
    for document in prepared.documents:
        resolved = resolver.resolve(document)
        if resolved.errors:
            outcome.errors += resolved.errors
            outcome.submitted[document.subject[1:]] = None
        elif document.is_job:
            _apply_job(session, caller, document, resolved.edges, prepared, wishes, outcome)
        else:
            _apply_service(session, caller, document, outcome)
    if outcome.errors:
        raise refuse(outcome.errors)
    if wishes.prune:
        _prune(session, caller, prepared.documents, outcome)
    return outcome.results


def _apply_job(
    session: Session,
    caller: Caller,
    document: Document,
    edges: Sequence[Edge],
    prepared: Prepared,
    wishes: Wishes,
    outcome: _Outcome,
) -> None:
    spec = document.parsed
    assert not isinstance(spec, ServiceSpec)
    message = ""
    newest = job_queries.newest_job(session, spec.name, spec.project)
    if newest is not None and not wishes.always_new:
        if _stands(newest, document):
            message = f"{newest.phase} ({newest.reason})"
            outcome.submitted[document.subject[1:]] = newest.id
            outcome.results[document.path] = _applied(document, newest.id, "unchanged", message)
            return
        if _lives(newest):
            if not wishes.replace:
                raise _live(document, newest)
            row = job_queries.get_job(session, newest.id, spec.project, lock=True)
            job_queries.wish(session, row, "cancel", actor=caller.actor)
            message = f"replaces {newest.id}, which is cancelled"
    judgements = prepared.judgements[document.path]
    row = insert_job(session, document, edges, judgements, actor=caller.actor)
    outcome.submitted[document.subject[1:]] = row.id
    for member in array_rows.members_of(session, row.id) if document.members else ():
        outcome.submitted[member.project, member.name] = member.id
    waits = ", ".join(f"job/{edge.needs_name}" for edge in edges)
    notes = (message, f"after {waits}" if waits else "", _member_note(document), judgements[0].note)
    text = "; ".join(note for note in notes if note)
    outcome.results[document.path] = _applied(document, row.id, "created", text)


def insert_job(
    session: Session,
    document: Document,
    edges: Sequence[Edge],
    judgements: Sequence[Judgement],
    *,
    actor: str,
    retry_of: str | None = None,
) -> JobRow:
    """Write a new job from its document; an array with its members, each with its judgement."""
    spec = document.parsed
    assert not isinstance(spec, ServiceSpec)
    judgement = judgements[0]
    row = job_queries.add_job(
        session, name=spec.name, project=spec.project, kind=spec.kind, spec=document.spec,
        spec_digest=document.digest, queue=spec.queue, priority=spec.priority,
        ranks=judgement.ranks, layout=judgement.layout, edges=edges, actor=actor,
        retry_of=retry_of, smaller_layouts=judgement.smaller_layouts,
    )  # fmt: skip
    if document.members:
        members = [
            NewMember(
                member.parsed.name, member.spec, member.digest, judged.ranks, judged.layout,
                judged.smaller_layouts,
            )
            for member, judged in zip(document.members, judgements, strict=True)
        ]  # fmt: skip
        array_rows.add_members(session, row, members, actor=actor)
    return row


def _member_note(document: Document) -> str:
    if not document.members:
        return ""
    first, last = document.members[0].parsed.name, document.members[-1].parsed.name
    return f"{len(document.members)} jobs, {first} to {last}"


def _lives(row: JobRow) -> bool:
    """Whether the job goes on: one that is asked to end does not count."""
    return row.phase not in job_queries.ENDED and row.desired != "cancel"


def _stands(row: JobRow, document: Document) -> bool:
    """Whether the newest job of that name is what the document asks for."""
    if not _lives(row) and row.phase != "succeeded":
        return False
    # Another digest may come from a field that did not exist when the job was stored.
    same = row.spec_digest == document.digest
    return same or identity(_complete(row.spec)) == identity(document.spec)


def _live(document: Document, row: JobRow) -> ProblemError:
    changed = sorted(
        name
        for name in {*row.spec, *document.spec}
        if row.spec.get(name) != document.spec.get(name)
    )
    message = (
        f"job/{row.name} is {row.phase} with another spec (changed: {', '.join(changed)}): "
        "apply with --replace to cancel it and submit this, or give this another name"
    )
    errors = [document.problem(name, "differs from the live job's") for name in changed]
    return ProblemError("job_live", message, errors=errors)


def _apply_service(session: Session, caller: Caller, document: Document, outcome: _Outcome) -> None:
    spec = document.parsed
    assert isinstance(spec, ServiceSpec)
    known = service_queries.live_services(session, spec.project).get(spec.name)
    if known is None:
        row = service_queries.add_service(
            session, name=spec.name, project=spec.project, spec=document.spec,
            replicas=spec.own_replicas, priority=spec.priority, actor=caller.actor,
        )  # fmt: skip
        outcome.results[document.path] = _applied(document, row.id, "created", "revision 1")
        return
    row = service_queries.get_service(session, known.id, spec.project, lock=True)
    if change_service(session, row, document, actor=caller.actor):
        message = f"revision {row.revision}"
        outcome.results[document.path] = _applied(document, row.id, "updated", message)
    else:
        outcome.results[document.path] = _applied(document, row.id, "unchanged", row.phase)


def change_service(session: Session, row: ServiceRow, document: Document, *, actor: str) -> bool:
    """Let a service (its row locked) be as the document says; whether anything changed."""
    spec = document.parsed
    assert isinstance(spec, ServiceSpec)
    before = _complete(row.spec)
    if before != document.spec:
        alike = same_replicas(before, document.spec)
        change = service_queries.change_live if alike else service_queries.revise_service
        change(
            session, row, spec=document.spec, replicas=spec.own_replicas, priority=spec.priority,
            actor=actor,
        )  # fmt: skip
        return True
    if row.desired_replicas != spec.own_replicas:
        service_queries.scale_service(session, row, spec.own_replicas, actor=actor)
        return True
    return False


def _complete(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored spec with the defaults of fields that came after it: an upgrade changes nothing."""
    try:
        return DOCUMENT.validate_python(stored).model_dump(mode="json")
    except ValidationError:
        return stored


def _prune(
    session: Session, caller: Caller, documents: Sequence[Document], outcome: _Outcome
) -> None:
    """Remove the services of the documents' projects that no document is or needs. Jobs are
    history and stay."""
    kept = kept_services(document.parsed for document in documents)
    for project in sorted({document.parsed.project for document in documents}):
        for name, known in service_queries.live_services(session, project).items():
            if (project, name) in kept:
                continue
            row = service_queries.get_service(session, known.id, project, lock=True)
            service_queries.remove_service(session, row, actor=caller.actor)
            outcome.results[f"pruned {project}/{name}"] = Applied(
                kind="service", name=name, id=row.id, action="deleted", message="not in the files"
            )


def _applied(document: Document, identity: str, action: str, message: str) -> Applied:
    return Applied.model_validate(
        {
            "kind": document.parsed.kind,
            "name": document.parsed.name,
            "id": identity,
            "action": action,
            "message": message,
        }
    )
