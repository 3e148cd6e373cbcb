"""What people upload: bytes named by their SHA-256, kept apart for each project.

An upload exists when it is whole: it gets its name only after its digest was checked.
"""

from __future__ import annotations

import re

from quarterdeck.artifacts.errors import UnsafePath

FOLDER = "uploads"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PROJECT = re.compile(r"[a-z0-9-]{1,63}")


def upload_at(path: str) -> tuple[str, str] | None:
    """Project and digest of the upload at a path below FOLDER; None for anything else."""
    project, _, rest = path.partition("/")
    digest = rest.rpartition("/")[2]
    whole = f"{FOLDER}/{path}"
    named = _DIGEST.fullmatch(digest) and _PROJECT.fullmatch(project)
    return (project, digest) if named and path_of_upload(project, digest) == whole else None


def path_of_upload(project: str, digest: str) -> str:
    """Where an upload lies in the store. Raises UnsafePath for what is no digest or project."""
    if not _DIGEST.fullmatch(digest) or not _PROJECT.fullmatch(project):
        raise UnsafePath(f"{project}/{digest} names no upload")
    return f"{FOLDER}/{project}/{digest[:2]}/{digest}"
