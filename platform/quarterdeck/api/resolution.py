"""Whether everything that a document refers to exists, and which jobs it has to wait for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quarterdeck.api.documents import Document, makes
from quarterdeck.api.needs import MAKERS, Asset, Need
from quarterdeck.specs.graph import Condition
from quarterdeck.specs.kinds import ServiceSpec
from quarterdeck.specs.resources import FieldProblem
from quarterdeck.specs.suggestions import did_you_mean
from quarterdeck.store import access_queries, asset_queries, job_queries
from quarterdeck.store.job_queries import Edge
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import JobRow


@dataclass
class Resolved:
    """What a document waits for, and what is missing."""

    edges: list[Edge] = field(default_factory=list)
    errors: list[FieldProblem] = field(default_factory=list)


class Resolver:
    """Looks references up in one transaction; `submitted` are the jobs that this request has
    brought so far, by project and name (id None in a dry run)."""

    def __init__(
        self,
        session: Session,
        documents: Mapping[tuple[str, str], Document],
        submitted: Mapping[tuple[str, str], str | None],
    ) -> None:
        self._session = session
        self._documents = documents
        self._submitted = submitted

    def resolve(self, document: Document) -> Resolved:
        """Edges of the document and its missing references."""
        found = Resolved()
        self._project(document, found)
        for need in document.needs:
            self._need(document, need, found)
        self._secrets(document, found)
        return found

    def _project(self, document: Document, found: Resolved) -> None:
        name = document.parsed.project
        if not access_queries.project_exists(self._session, name):
            known = access_queries.project_names(self._session)
            message = f"project {name!r} does not exist: {did_you_mean(name, known)}"
            found.errors.append(document.problem("project", message))

    def _secrets(self, document: Document, found: Resolved) -> None:
        if isinstance(document.parsed, ServiceSpec) or not document.parsed.secrets:
            return
        known = access_queries.secret_names(self._session, document.parsed.project)
        for place, secret in enumerate(document.parsed.secrets):
            if secret.name not in known:
                message = (
                    f"secret {secret.name!r} does not exist: {did_you_mean(secret.name, known)} "
                    f"(set it with quarterdeck secrets set {secret.name})"
                )
                found.errors.append(document.problem(f"secrets[{place}].name", message))

    def _need(self, document: Document, need: Need, found: Resolved) -> None:
        if need.reference.job is not None:
            self._job(document, need, need.reference.job, found)
        elif need.asset is not None and need.reference.name is not None:
            self._version(document, need, need.asset, need.reference.name, found)

    def _job(self, document: Document, need: Need, name: str, found: Resolved) -> None:
        place = (document.parsed.project, name)
        other = self._documents.get(place)
        row = job_queries.newest_job(self._session, name, document.parsed.project)
        kind = other.parsed.kind if other else row.kind if row else None
        if kind is None:
            known = job_queries.job_names(self._session, document.parsed.project)
            names = [*known, *(name for _, name in self._documents)]
            message = f"job {name!r} does not exist: {did_you_mean(name, names)}"
            found.errors.append(document.problem(need.path, message))
        elif need.asset is not None and kind not in MAKERS[need.asset]:
            message = (
                f"job/{name} is a {kind} job, which makes no {need.asset}: "
                f"name a {' or '.join(MAKERS[need.asset])} job"
            )
            found.errors.append(document.problem(need.path, message))
        elif place not in self._submitted and row and (why := _never(row, need.condition)):
            found.errors.append(document.problem(need.path, why))
        else:
            identity = self._submitted.get(place, row.id if row else None)
            self._edge(document, need, name, identity, found)

    def _version(
        self, document: Document, need: Need, asset: Asset, name: str, found: Resolved
    ) -> None:
        project, version = document.parsed.project, need.reference.version
        if asset_queries.find_version(self._session, asset, name, project, version):
            return
        if version is None:
            other = self._documents.get((project, name))
            if other is not None and makes(other, need):
                self._edge(document, need, name, self._submitted.get((project, name)), found)
                return
            row = job_queries.newest_job(self._session, name, project)
            if row is not None and row.kind in MAKERS[asset] and not _gave_up(row):
                self._edge(document, need, name, row.id, found)
                return
        found.errors.append(document.problem(need.path, self._missing(asset, name, need, project)))

    def _missing(self, asset: Asset, name: str, need: Need, project: str) -> str:
        known = asset_queries.asset_names(self._session, asset, project)
        if need.reference.version is not None and name in known:
            return (
                f"{asset} {name!r} has no version or alias {need.reference.version!r}: "
                f"see quarterdeck {asset}s"
            )
        return (
            f"{asset} {name!r} does not exist and no live job makes it: {did_you_mean(name, known)}"
        )

    @staticmethod
    def _edge(
        document: Document, need: Need, name: str, identity: str | None, found: Resolved
    ) -> None:
        other = next((edge for edge in found.edges if edge.needs_name == name), None)
        if other is None:
            found.edges.append(Edge(name, identity, need.field, need.condition))
        elif {other.condition, need.condition} == {"success", "failure"}:
            message = f"{other.field} needs what job/{name} makes: it cannot wait for its failure"
            found.errors.append(document.problem(need.path, message))


def _never(row: JobRow, condition: Condition) -> str:
    """Why the job can no longer end so; empty while it can, or has."""
    if condition == "failure":
        if row.phase in ("succeeded", "cancelled"):
            return f"job/{row.name} has {row.phase}: it cannot fail any more, use on: any"
    elif condition == "success" and _gave_up(row):
        return f"job/{row.name} has {row.phase}: retry it first, or name another job"
    return ""


def _gave_up(row: JobRow) -> bool:
    return row.phase in ("failed", "cancelled") or (
        row.desired == "cancel" and row.phase not in job_queries.ENDED
    )
