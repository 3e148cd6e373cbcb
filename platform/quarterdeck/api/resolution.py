"""Whether everything that a document refers to exists, and which jobs it has to wait for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from quarterdeck.api.chain_steps import wrong_steps
from quarterdeck.api.documents import Document, makes
from quarterdeck.api.needs import Need
from quarterdeck.specs.graph import MAKERS, Asset, Condition, made_by
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
    brought so far, by project and name (id None in a dry run); `services` are its services."""

    def __init__(
        self,
        session: Session,
        documents: Mapping[tuple[str, str], Document],
        submitted: Mapping[tuple[str, str], str | None],
        services: Mapping[tuple[str, str], Document] | None = None,
    ) -> None:
        self._session = session
        self._documents = documents
        self._submitted = submitted
        self._services = services or {}

    def resolve(self, document: Document) -> Resolved:
        """Edges of the document and its missing references."""
        found = Resolved()
        self._project(document, found)
        for need in document.needs:
            self._need(document, need, found)
        self._secrets(document, found)
        found.errors += wrong_steps(self._session, document, self._services)
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
        elif need.reference.name is not None:
            self._version(document, need, need.reference.name, found)

    def _job(self, document: Document, need: Need, name: str, found: Resolved) -> None:
        place = (document.parsed.project, name)
        other = self._documents.get(place)
        row = job_queries.newest_job(self._session, name, document.parsed.project)
        kind = other.parsed.kind if other else row.kind if row else None
        spec = other.spec if other else row.spec if row else {}
        if kind is None:
            known = job_queries.job_names(self._session, document.parsed.project)
            names = [*known, *(name for _, name in self._documents)]
            message = f"job {name!r} does not exist: {did_you_mean(name, names)}"
            found.errors.append(document.problem(need.path, message))
        elif why := self._unfit(need, place, row, kind, made_by(kind, spec)):
            found.errors.append(document.problem(need.path, why))
        else:
            identity = self._submitted.get(place, row.id if row else None)
            self._edge(document, need, name, identity, found)

    def _unfit(
        self,
        need: Need,
        place: tuple[str, str],
        row: JobRow | None,
        kind: str,
        made: Collection[Asset],
    ) -> str:
        """Why the job is not one to wait for; empty when it is."""
        array = self._documents.get(place)
        is_array = array.parsed.name == place[1] if array and array.members else False
        if need.assets and (is_array or (row is not None and row.array_size and not array)):
            return f"job/{place[1]} is an array: name one of its members, job/{place[1]}-0"
        if need.assets and (why := _wrong_maker(place[1], kind, made, need)):
            return why
        older = row is not None and place not in self._submitted
        return _never(row, need.condition) if row is not None and older else ""

    def _version(self, document: Document, need: Need, name: str, found: Resolved) -> None:
        project, version = document.parsed.project, need.reference.version
        known = [
            asset
            for asset in need.assets
            if asset_queries.find_version(self._session, asset, name, project, version)
        ]
        if len(known) > 1:
            found.errors.append(document.problem(need.path, _ambiguous(name, known)))
        if known:
            return
        if version is None:
            other = self._documents.get((project, name))
            if other is not None and makes(other, need):
                self._edge(document, need, name, self._submitted.get((project, name)), found)
                return
            row = job_queries.newest_job(self._session, name, project)
            made = made_by(row.kind, row.spec) if row is not None else frozenset()
            if row is not None and not made.isdisjoint(need.assets) and not _gave_up(row):
                self._edge(document, need, name, row.id, found)
                return
        found.errors.append(document.problem(need.path, self._missing(name, need, project)))

    def _missing(self, name: str, need: Need, project: str) -> str:
        known = [
            known
            for asset in need.assets
            for known in asset_queries.asset_names(self._session, asset, project)
        ]
        asset = " or ".join(need.assets)
        if need.reference.version is not None and name in known:
            return (
                f"{asset} {name!r} has no version or alias {need.reference.version!r}: "
                f"see quarterdeck {need.assets[0]}s"
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


def _wrong_maker(name: str, kind: str, made: Collection[Asset], need: Need) -> str:
    """Why the job's output is not what is needed; empty when it is."""
    fitting = [asset for asset in need.assets if asset in made]
    if len(fitting) > 1:
        return _ambiguous(f"job/{name}", fitting)
    if fitting:
        return ""
    wanted = " or ".join(need.assets)
    makers = dict.fromkeys(maker for asset in need.assets for maker in MAKERS[asset])
    return (
        f"job/{name} is a {kind} job, which makes no {wanted}: name a {' or '.join(makers)} job, "
        f"or a command job with outputs.{need.assets[0]}"
    )


def _ambiguous(name: str, assets: Sequence[Asset]) -> str:
    return f"{name} is {' and '.join(assets)}: say which, {{reference: {name}, kind: {assets[0]}}}"


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
