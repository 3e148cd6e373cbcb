"""Durable, atomic writes on local file systems.

A file appears under its name only when all of its bytes are on the disk: written under a
temporary name beside it, fsynced, renamed, and the folder fsynced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from quarterdeck.artifacts.digests import CHUNK
from quarterdeck.artifacts.errors import DiskFull

TEMPORARY = ".partial-"
"""Names that begin so are unfinished writes: never listed, safe to delete."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_full_is_typed(folder: Path, needed: int) -> Iterator[None]:
    """Turn the operating system's "no space" into DiskFull."""
    try:
        yield
    except DiskFull:
        raise
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFull(str(folder), needed, free_bytes(folder)) from error


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write in the nearest existing folder."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def write_atomically(source: BinaryIO, target: Path, size: int) -> str:
    """Copy `source` to `target`, whole or not at all; answers its SHA-256.

    Raises DiskFull when `size` bytes do not fit; whatever had been written is removed.
    """
    digest = hashlib.sha256()
    with writing(target, size) as write:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            write(chunk)
    return digest.hexdigest()


@contextmanager
def writing(target: Path, size: int) -> Iterator[Callable[[bytes], object]]:
    """Give a `write` for the parts of `target`, which appears, durable, when the block ends."""
    with _temporary(target, size) as temporary, temporary.open("xb") as out:
        yield out.write
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def _temporary(target: Path, size: int) -> Iterator[Path]:
    with disk_full_is_typed(target.parent, size):
        target.parent.mkdir(parents=True, exist_ok=True)
        free = free_bytes(target.parent)
        if size > free:
            raise DiskFull(str(target.parent), size, free)
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{target.name}"[:255])
        try:
            yield temporary
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def move_atomically(source: Path, target: Path) -> None:
    """Make a finished local file durable and rename it to `target`.

    Raises OSError with errno EXDEV when they lie on different file systems.
    """
    with source.open("rb") as stream:
        os.fsync(stream.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete_unfinished(folder: Path, older_than: float) -> int:
    """Delete what killed writers left below a folder and nobody has written for so many seconds."""
    count = 0
    for file in folder.rglob(f"{TEMPORARY}*"):
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > older_than:
                file.unlink()
                count += 1
    return count
