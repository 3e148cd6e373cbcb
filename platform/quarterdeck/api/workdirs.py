"""Whether the folders that documents start in are where the machines can get them."""

from __future__ import annotations

from collections.abc import Sequence

from quarterdeck.api.documents import Document, refuse
from quarterdeck.artifacts import ArtifactStore, path_of_upload
from quarterdeck.specs.kinds import CommandSpec
from quarterdeck.specs.resources import FieldProblem
from quarterdeck.specs.workdir import Upload, is_local


def check_workdirs(documents: Sequence[Document], artifacts: ArtifactStore | None) -> None:
    """Raise ProblemError `invalid_document` for uploads that are not there (unless `artifacts` is
    None), and for folders of somebody's own machine."""
    errors = [problem for document in documents for problem in _problems(document, artifacts)]
    if errors:
        raise refuse(errors)


def _problems(document: Document, artifacts: ArtifactStore | None) -> list[FieldProblem]:
    spec = document.parsed
    if not isinstance(spec, CommandSpec):
        return []
    if is_local(spec.workdir):
        message = (
            f"{spec.workdir!r} is a folder of your machine: quarterdeck apply and submit upload it "
            "(in Python client.uploads.folder does); a folder that the machines have is an "
            "absolute path or file:///…"
        )
        return [document.problem("workdir", message)]
    if not isinstance(spec.workdir, Upload) or artifacts is None:
        return []
    fields = {"digest": spec.workdir.digest, "diff": spec.workdir.diff}
    return [
        document.problem(
            f"workdir.{name}",
            f"project {spec.project} has no upload {digest}: PUT /api/v1/artifacts/{digest} first",
        )
        for name, digest in fields.items()
        if digest and not artifacts.exists(path_of_upload(spec.project, digest))
    ]
