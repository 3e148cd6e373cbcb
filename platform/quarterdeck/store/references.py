"""References of a spec, resolved to versions.

`resolve` answers for each field either the versions to read, or what is still awaited, or what
can never come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.dependencies import judge_dependency
from quarterdeck.specs.graph import ASSETS, MAKERS, After, Asset, made_by
from quarterdeck.specs.protocol import ResolvedAsset
from quarterdeck.specs.references import Reference, parse_reference
from quarterdeck.store.tables import (
    AssetAliasRow,
    AssetVersionRow,
    JobEdgeRow,
    JobRow,
)

Kinds = tuple[Asset, ...]
FIELDS: dict[str, Asset] = {
    "dataset": "dataset",
    "datasets": "dataset",
    "tokenizer": "tokenizer",
    "model": "model",
}
"""The spec's fields that refer to versions, and the kind of asset that each takes."""


MOST_CANDIDATES = 20
"""Jobs of one name that are looked at for one that makes what is missing."""


@dataclass
class Resolution:
    """`inputs` by field; `waiting`, `failed` and `not_needed` (an end that it waits for cannot
    come, and that is no failure) are sentences, empty when all is resolved."""

    inputs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    not_needed: list[str] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Everything is there."""
        return not (self.waiting or self.failed or self.not_needed)


def references_in(spec: Mapping[str, Any]) -> list[tuple[str, Kinds, Reference]]:
    """(field, kinds of asset that it may be, reference) of each reference to a version."""
    found: list[tuple[str, Kinds, Reference]] = []
    for name, kind in FIELDS.items():
        value = spec.get(name)
        if value is None:
            continue
        texts = [item["name"] for item in value] if isinstance(value, (list, tuple)) else [value]
        found.extend((name, (kind,), parse_reference(text)) for text in texts)
    for name, read in (spec.get("inputs") or {}).items():
        kinds = (read["kind"],) if read.get("kind") else ASSETS
        found.append((f"inputs.{name}", kinds, parse_reference(read["reference"])))
    return found


def jobs_named_in(spec: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(field, job name, condition) of each job that the spec says to wait for, what it reads
    last."""
    afters = [After.model_validate(_written(after)) for after in spec.get("after", ())]
    named: list[tuple[str, str | None, str]] = [("after", one.job, one.on) for one in afters]
    named += [(name, reference.job, "success") for name, _, reference in references_in(spec)]
    return [(name, job, condition) for name, job, condition in named if job is not None]


def _written(after: Any) -> Any:
    """An entry of `after`; specs of earlier versions hold the short form."""
    return {"job": after} if isinstance(after, str) else after


def bind_edges(session: Session, job: JobRow) -> None:
    """Bind the jobs that `job` names to the newest of each name in its project, once."""
    if job.edges_bound:
        return
    named = {name: (needed, condition) for needed, name, condition in jobs_named_in(job.spec)}
    for name, (needed, condition) in named.items():
        newest = session.scalars(
            select(JobRow.id)
            .where(JobRow.project == job.project, JobRow.name == name, JobRow.id != job.id)
            .order_by(JobRow.ordinal.desc(), JobRow.id.desc())
            .limit(1)
        ).first()
        edge = JobEdgeRow(job_id=job.id, needs_name=name, needs_id=newest, field=needed)
        edge.condition = condition
        session.add(edge)
    job.edges_bound = True
    session.flush()


def independent(session: Session, jobs: Sequence[JobRow]) -> frozenset[str]:
    """Ids of those jobs that wait for no job and read no version: their resolution is empty."""
    waits = {job.id: job.array_id or job.id for job in jobs}
    edges = select(JobEdgeRow.job_id).where(JobEdgeRow.job_id.in_(set(waits.values())))
    bound = set(session.scalars(edges))
    return frozenset(
        job.id
        for job in jobs
        if job.edges_bound and waits[job.id] not in bound and not references_in(job.spec)
    )


def resolve_job(session: Session, job: JobRow) -> Resolution:
    """Look at everything that a job waits for. Reads only."""
    answer = Resolution()
    bound: dict[str, JobRow | None] = {}
    waits = job.array_id or job.id  # members wait for what their array waits for
    for edge in session.scalars(select(JobEdgeRow).where(JobEdgeRow.job_id == waits)):
        needed = session.get(JobRow, edge.needs_id) if edge.needs_id else None
        bound[edge.needs_name] = needed
        _await(answer, edge.needs_name, needed, edge.condition)
    if not answer.ready:
        return answer
    return _resolve_fields(session, job.project, job.spec, bound, answer)


def resolve_spec(session: Session, project: str, spec: Mapping[str, Any]) -> Resolution:
    """Resolve a service's references: jobs are the newest of their name."""
    answer = Resolution()
    bound: dict[str, JobRow | None] = {}
    for _, name, condition in jobs_named_in(spec):
        bound[name] = session.scalars(
            select(JobRow)
            .where(JobRow.project == project, JobRow.name == name)
            .order_by(JobRow.ordinal.desc(), JobRow.id.desc())
            .limit(1)
        ).first()
        _await(answer, name, bound[name], condition)
    if not answer.ready:
        return answer
    return _resolve_fields(session, project, spec, bound, answer)


def secrets_missing(project: str, names: Iterable[str], present: Iterable[str]) -> str:
    """What to say of the secrets among `names` that the project does not have; empty: all are."""
    missing = sorted(set(names) - set(present))
    return "; ".join(
        f"secret {name} does not exist in project {project}: set it again with "
        f"quarterdeck secrets set {name}"
        for name in missing
    )


def _await(answer: Resolution, name: str, needed: JobRow | None, condition: str) -> None:
    if needed is None:
        answer.failed.append(f"job/{name} does not exist")
        return
    verdict = judge_dependency(condition, needed.phase, needed.reason)
    if verdict == "waiting":
        answer.waiting.append(f"job/{name} is {needed.phase}")
    elif verdict == "failed":
        answer.failed.append(f"job/{name} {needed.phase}: {needed.message or needed.reason}")
    elif verdict == "not_needed":
        answer.not_needed.append(f"job/{name} {needed.phase}, this waits for its {condition}")


def _resolve_fields(
    session: Session,
    project: str,
    spec: Mapping[str, Any],
    bound: Mapping[str, JobRow | None],
    answer: Resolution,
) -> Resolution:
    for name, kinds, reference in references_in(spec):
        asset = _resolve_one(session, project, kinds, reference, bound, answer)
        if asset is not None:
            answer.inputs.setdefault(name, []).append(asset.model_dump(mode="json"))
    return answer


def _resolve_one(
    session: Session,
    project: str,
    kinds: Kinds,
    reference: Reference,
    bound: Mapping[str, JobRow | None],
    answer: Resolution,
) -> ResolvedAsset | None:
    if reference.uri is not None:
        # What lies at an address that nobody registered is data, unless the field says otherwise.
        kind = kinds[0] if len(kinds) == 1 else "dataset"
        return ResolvedAsset.model_validate(
            {"kind": kind, "name": reference.uri, "version": 0, "digest": "",
             "uri": reference.uri, "split": reference.split}
        )  # fmt: skip
    if reference.job is not None:
        maker = bound.get(reference.job)
        row = _made_by(session, kinds, maker.id) if maker else None
        if row is None:
            wanted = " or ".join(kinds)
            answer.failed.append(f"job/{reference.job} succeeded but made no {wanted}")
            return None
    else:
        rows = [row for kind in kinds if (row := _named(session, project, kind, reference))]
        row = rows[0] if rows else None
        if len(rows) > 1:
            answer.failed.append(f"{reference.name} is {' and '.join(row.kind for row in rows)}")
            return None
        if row is None:
            _missing(session, project, kinds, reference, answer)
            return None
    return ResolvedAsset.model_validate(
        {"kind": row.kind, "name": row.name, "version": row.version, "digest": row.digest,
         "uri": row.uri, "split": reference.split, "metadata": row.details}
    )  # fmt: skip


def _made_by(session: Session, kinds: Kinds, job_id: str) -> AssetVersionRow | None:
    return session.scalars(
        select(AssetVersionRow)
        .where(AssetVersionRow.job_id == job_id, AssetVersionRow.kind.in_(kinds))
        .order_by(AssetVersionRow.version.desc())
        .limit(1)
    ).first()


def _named(
    session: Session, project: str, kind: str, reference: Reference
) -> AssetVersionRow | None:
    query = select(AssetVersionRow).where(
        AssetVersionRow.project == project,
        AssetVersionRow.kind == kind,
        AssetVersionRow.name == reference.name,
    )
    if reference.version is None:
        return session.scalars(query.order_by(AssetVersionRow.version.desc()).limit(1)).first()
    if reference.version.isdigit():
        number: int | None = int(reference.version)
    else:
        number = session.scalar(
            select(AssetAliasRow.version).where(
                AssetAliasRow.project == project,
                AssetAliasRow.kind == kind,
                AssetAliasRow.name == reference.name,
                AssetAliasRow.alias == reference.version,
            )
        )
    return session.scalars(query.where(AssetVersionRow.version == number)).first()


def _missing(
    session: Session, project: str, kinds: Kinds, reference: Reference, answer: Resolution
) -> None:
    """Nothing of that name yet: somebody may be making it."""
    text = f"{reference.name}@{reference.version}" if reference.version else str(reference.name)
    maker: JobRow | None = None
    if reference.version is None:
        makers = {maker for kind in kinds for maker in MAKERS[kind]}
        candidates = session.scalars(
            select(JobRow)
            .where(
                JobRow.project == project,
                JobRow.name == reference.name,
                JobRow.kind.in_({*makers, "command"}),
            )
            .order_by(JobRow.ordinal.desc(), JobRow.id.desc())
            .limit(MOST_CANDIDATES)
        )
        making = (row for row in candidates if made_by(row.kind, row.spec) & set(kinds))
        maker = next(making, None)
    if maker is None or maker.phase == "succeeded":
        wanted = " or ".join(kinds)
        answer.failed.append(f"{wanted} {text} does not exist in project {project}")
    else:
        _await(answer, maker.name, maker, "success")
