"""Whether the folders that documents start in are where the machines can get them."""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.api.documents import Document, refuse
from quarterdeck.api.uploads import hold_upload
from quarterdeck.artifacts import ArtifactStore
from quarterdeck.specs.kinds import CommandSpec
from quarterdeck.specs.resources import FieldProblem
from quarterdeck.specs.workdir import Upload, is_local
from quarterdeck.store.sessions import Database


def check_workdirs(
    database: Database, documents: Sequence[Document], artifacts: ArtifactStore | None
) -> None:
    """Raise ProblemError `invalid_document` for uploads that are not there (unless `artifacts` is
    None), and for folders of somebody's own machine. Uploads that are there stay for a day, in
    which the jobs must be written."""
    errors = [
        problem
        for document in documents
        for problem in _of_this_machine(document)
        or ([] if artifacts is None else _missing(database, document, artifacts))
    ]
    if errors:
        raise refuse(errors)


def _of_this_machine(document: Document) -> list[FieldProblem]:
    spec = document.parsed
    if not isinstance(spec, CommandSpec) or not is_local(spec.workdir):
        return []
    message = (
        f"{spec.workdir!r} is a folder of your machine: quarterdeck apply and submit upload it "
        "(in Python client.uploads.folder does); a folder that the machines have is an "
        "absolute path or file:///…"
    )
    return [document.problem("workdir", message)]


def _missing(
    database: Database, document: Document, artifacts: ArtifactStore
) -> list[FieldProblem]:
    fields = {
        digest: name
        for one in (document, *document.members)
        if isinstance(one.parsed, CommandSpec) and isinstance(one.parsed.workdir, Upload)
        for name in ("digest", "diff")
        if (digest := getattr(one.parsed.workdir, name)) is not None
    }
    project = document.parsed.project
    return [
        document.problem(
            f"workdir.{name}",
            f"project {project} has no upload {digest}; it was never sent, or retention took it: "
            f"PUT /api/v1/artifacts/{digest} first, or submit the folder again",
        )
        for digest, name in fields.items()
        if hold_upload(database, artifacts, project, digest) is None
    ]
