"""The documents of one request, read and checked among themselves, before the database is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quarterdeck.api.needs import Need, needs_of
from quarterdeck.api.problems import ProblemError
from quarterdeck.specs.arrays import combinations, member_document, size_of
from quarterdeck.specs.graph import made_by
from quarterdeck.specs.kinds import AnyJob, ServiceSpec
from quarterdeck.specs.resources import FieldProblem
from quarterdeck.specs.suggestions import DocumentError, parse_document
from quarterdeck.specs.workdir import identity

MOST_DOCUMENTS = 1000


@dataclass(frozen=True)
class Document:
    """A parsed document, where it stood, and its spec as it is stored."""

    parsed: AnyJob | ServiceSpec
    path: str
    spec: dict[str, Any]
    digest: str
    needs: tuple[Need, ...]
    """Of an array: what any of its members needs."""
    members: tuple[Document, ...] = ()

    @property
    def is_job(self) -> bool:
        return not isinstance(self.parsed, ServiceSpec)

    @property
    def subject(self) -> tuple[str, str, str]:
        """What tells documents apart: `job` or `service`, project and name."""
        noun = "job" if self.is_job else "service"
        return noun, self.parsed.project, self.parsed.name

    def problem(self, field: str, message: str) -> FieldProblem:
        """A wrong field of this document."""
        return FieldProblem(path=f"{self.path}.{field}" if self.path else field, message=message)


def refuse(errors: Sequence[FieldProblem]) -> ProblemError:
    """The answer to wrong documents."""
    text = "; ".join(f"{error.path}: {error.message}" for error in errors[:3])
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return ProblemError("invalid_document", text + more, errors=errors)


def read_documents(data: Sequence[Any], project: str, root: str = "documents") -> list[Document]:
    """Parse every document; those that name no project belong to `project`.

    `root` is the path of the list; empty where `data` is one document that is the body itself.
    Raises ProblemError `invalid_document` naming every wrong field of all documents.
    """
    if len(data) > MOST_DOCUMENTS:
        message = f"{len(data)} documents are more than {MOST_DOCUMENTS}: apply them in parts"
        raise refuse([FieldProblem(path=root, message=message)])
    errors: list[FieldProblem] = []
    found: list[Document] = []
    for place, item in enumerate(data):
        path = f"{root}[{place}]" if root else ""
        try:
            found.append(_read(item, project, path))
        except DocumentError as error:
            errors += error.errors
    errors += _doubles(found)
    if errors:
        raise refuse(errors)
    return found


def _read(item: Any, project: str, path: str) -> Document:
    if isinstance(item, Mapping) and "project" not in item:
        item = {**item, "project": project}
    return document_of(parse_document(item, path), path)


def document_of(parsed: AnyJob | ServiceSpec, path: str = "") -> Document:
    """A document from what was parsed."""
    spec = parsed.model_dump(mode="json")
    members = tuple(_members(parsed, spec, path))
    wanted = {
        (need.reference, need.assets, need.condition): need
        for one in reversed(members)
        for need in one.needs
    }
    needs = tuple(wanted.values()) if members else tuple(needs_of(parsed))
    text = json.dumps(identity(spec), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Document(parsed, path, spec, digest, needs, members)


def _members(parsed: AnyJob | ServiceSpec, spec: dict[str, Any], path: str) -> Iterator[Document]:
    """The documents that an array stands for. Raises DocumentError naming the first wrong one."""
    if isinstance(parsed, ServiceSpec) or parsed.array is None:
        return
    size = size_of(parsed.array)
    place = f"{path}.array" if path else "array"
    for index, values in enumerate(combinations(parsed.array)):
        try:
            yield document_of(parse_document(member_document(spec, index, size, values), ""), place)
        except ValueError as error:
            message = f"member {index} ({json.dumps(values)}): {error}"
            raise DocumentError([FieldProblem(path=place, message=message)]) from error


def makes(document: Document, need: Need) -> bool:
    """Whether the document is a job whose output is what `need` asks for."""
    made = made_by(document.parsed.kind, document.spec)
    return not need.assets or not made.isdisjoint(need.assets)


def _doubles(documents: Sequence[Document]) -> list[FieldProblem]:
    first: dict[tuple[str, str, str], Document] = {}
    errors: list[FieldProblem] = []
    for document in (one for each in documents for one in (each, *each.members)):
        other = first.setdefault(document.subject, document)
        if other is not document:
            noun, _, name = document.subject
            message = f"{other.path} is {noun}/{name} too: give one another name, or remove it"
            errors.append(document.problem("name", message))
    return errors


def jobs_of(documents: Sequence[Document]) -> dict[tuple[str, str], Document]:
    """The jobs by project and name; a member's name leads to its array."""
    members = {
        member.subject[1:]: document for document in documents for member in document.members
    }
    return members | {document.subject[1:]: document for document in documents if document.is_job}


def in_order(documents: Sequence[Document]) -> list[Document]:
    """The documents with what each needs before it. Raises ProblemError on a circle."""
    jobs = jobs_of(documents)
    ordered: list[Document] = []
    begun: set[int] = set()
    done: set[int] = set()
    chain: list[tuple[Document, Iterator[Document]]] = []
    """Documents that are not done, each with what it still has to look at: a stack of our own,
    because a chain of jobs may be longer than Python's."""

    def begin(document: Document) -> None:
        begun.add(id(document))
        chain.append((document, _before(document, jobs, begun)))

    for first in documents:
        if id(first) not in begun:
            begin(first)
        while chain:
            document, needed = chain[-1]
            other = next(needed, None)
            if other is None:
                ordered.append(document)
                done.add(id(document))
                chain.pop()
            elif id(other) not in begun:
                begin(other)
            elif id(other) not in done:
                raise _circle([open_ for open_, _ in chain], other)
    return ordered


def _before(
    document: Document, jobs: Mapping[tuple[str, str], Document], begun: set[int]
) -> Iterator[Document]:
    """The jobs of this request that come before a document."""
    for need in document.needs:
        wanted = need.reference.job or need.reference.name
        other = jobs.get((document.parsed.project, wanted or ""))
        if other is None:
            continue
        # A plain name is only a wish: where a version exists already, nobody waits for that job.
        if need.reference.job or (id(other) not in begun and makes(other, need)):
            yield other


def _circle(chain: Sequence[Document], again: Document) -> ProblemError:
    names = [f"job/{document.parsed.name}" for document in chain]
    start = next(place for place, document in enumerate(chain) if document is again)
    circle = " → ".join((*names[start:], names[start]))
    return refuse([again.problem("name", f"jobs wait for each other: {circle}")])
