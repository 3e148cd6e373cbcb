"""SHA-256 of files and of folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from quarterdeck.specs.beats import FileEntry

CHUNK = 1 << 20
"""Bytes read at a time."""


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(files: Iterable[FileEntry]) -> str:
    """One digest of many files: SHA-256 over `sha256  path` lines sorted by path.

    Equal contents under equal names give equal digests, wherever the folder lies.
    """
    lines = sorted((entry.path, entry.sha256) for entry in files)
    text = "".join(f"{sha256}  {path}\n" for path, sha256 in lines)
    return hashlib.sha256(text.encode()).hexdigest()
