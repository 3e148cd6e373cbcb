"""What people upload: bytes named by their SHA-256, kept apart for each project.

An upload exists when it is whole: it gets its name only after its digest was checked.
"""

from __future__ import annotations

import re

from quarterdeck.artifacts.errors import UnsafePath

FOLDER = "uploads"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PROJECT = re.compile(r"[a-z0-9-]{1,63}")


def path_of_upload(project: str, digest: str) -> str:
    """Where an upload lies in the store. Raises UnsafePath for what is no digest or project."""
    if not _DIGEST.fullmatch(digest) or not _PROJECT.fullmatch(project):
        raise UnsafePath(f"{project}/{digest} names no upload")
    return f"{FOLDER}/{project}/{digest[:2]}/{digest}"
