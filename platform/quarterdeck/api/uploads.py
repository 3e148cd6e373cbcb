"""Uploads as submissions and senders find them: what is found stays for the grace period."""

from __future__ import annotations

from quarterdeck.artifacts import ArtifactStore, path_of_upload
from quarterdeck.store.sessions import Database
from quarterdeck.store.uploads import UploadKey, touch


def hold_upload(
    database: Database, artifacts: ArtifactStore, project: str, digest: str
) -> int | None:
    """Bytes of an upload that retention leaves alone from now on, for the grace period; None
    where it is not, or is being deleted."""
    path = path_of_upload(project, digest)
    if size_of(artifacts, path) is None:
        return None
    with database.write() as session:
        if not touch(session, UploadKey(project, digest)):
            return None
    # It may have gone between the look and the touch; not after it.
    return size_of(artifacts, path)


def size_of(artifacts: ArtifactStore, path: str) -> int | None:
    """Bytes of a file in the store, None where there is none."""
    try:
        return artifacts.size(path)
    except FileNotFoundError:
        return None
