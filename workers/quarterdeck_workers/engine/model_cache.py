"""This node's copies of models: one folder for each digest, whole or absent, shared by all who
read it here, and brought there ahead by `models warm`.

A copy is written beside its place under the name `DIGEST.part` and renamed when it is whole. The
file `DIGEST.lock` is held shared by whoever reads the copy, alone by whoever makes or deletes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from quarterdeck.artifacts.digests import CHUNK
from quarterdeck.artifacts.errors import Corrupt, DiskFull
from quarterdeck.artifacts.store import ArtifactStore
from quarterdeck.specs.beats import FileEntry
from quarterdeck.specs.warming import copy_name

CACHE = "models"
"""Folder of the copies in a node's part of the platform."""
FREE_SHARE = 0.1
"""Of the disk, to be left free by copies of models."""
_PART = ".part"
_LOCK_SECONDS = 0.2


class Usage(Protocol):
    """Bytes of a disk, as `shutil.disk_usage` answers."""

    @property
    def total(self) -> int: ...
    @property
    def free(self) -> int: ...


class Stopped(Exception):
    """Nobody wants the copy any more; what was fetched of it stays for the next time."""


def copy_folder(home: Path, digest: str) -> Path:
    """Where the copy of a digest lies on this node."""
    return home / CACHE / copy_name(digest)


def open_lock(target: Path) -> int:
    """A descriptor of the copy's lock, not locked yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return os.open(f"{target}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def unfinished(target: Path) -> Path:
    """Where the copy lies until it is whole."""
    return Path(f"{target}{_PART}")


def locked(lock: int, how: int) -> bool:
    """Whether the lock was free for `fcntl.LOCK_SH` or `LOCK_EX`, and is now held so; where it was
    not, what was held of it before is given up."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def make_room(
    cache: Path, wanted: int, usage: Callable[[Path], Usage] = shutil.disk_usage
) -> list[str]:
    """Delete copies that nobody uses, finished or not, the longest unused first, until `wanted`
    bytes fit and a share of the disk stays free; the names of those deleted."""
    gone = []
    for folder in _longest_unused(cache):
        if _fits(usage(cache), wanted):
            break
        with _alone(folder) as ours:
            if ours:
                shutil.rmtree(folder, ignore_errors=True)
                gone.append(folder.name)
    return gone


def reserve(
    cache: Path, wanted: int, usage: Callable[[Path], Usage] = shutil.disk_usage
) -> list[str]:
    """As `make_room`, but raises DiskFull where it would not be enough, and deletes nothing."""
    disk = usage(cache)
    if not _fits(disk, wanted):
        spare = 0
        for folder in _longest_unused(cache):
            with _alone(folder) as ours:
                spare += bytes_below(folder) if ours else 0
        room = disk.free + spare - int(disk.total * FREE_SHARE)
        if wanted > room:
            raise DiskFull(str(cache), wanted, max(0, room))
    return make_room(cache, wanted, usage)


def warm(
    store: ArtifactStore,
    files: Sequence[FileEntry],
    target: Path,
    tell: Callable[[int], None],
    stopped: Callable[[], bool],
    usage: Callable[[Path], Usage] = shutil.disk_usage,
) -> bool:
    """Bring the copy at `target` there, unless it is; whether it was.

    Every file's digest is checked; what an earlier, interrupted call had fetched is not fetched
    again. `tell` hears how many bytes are there. While somebody else makes the same copy this
    waits for it. Raises DiskFull before the first byte, Corrupt, Stopped once `stopped()` is
    true, FileNotFoundError, and what the store raises.
    """
    lock = open_lock(target)
    try:
        while not stopped():
            if locked(lock, fcntl.LOCK_SH) and target.is_dir():
                os.utime(target)  # when it was last wanted
                return True
            if locked(lock, fcntl.LOCK_EX):
                if not target.is_dir():
                    _make(store, files, target, tell, stopped, usage)
                    return False
                continue
            tell(bytes_below(unfinished(target)))
            time.sleep(_LOCK_SECONDS)
        raise Stopped
    finally:
        os.close(lock)


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(where, name).stat().st_size
    return total


def _make(
    store: ArtifactStore,
    files: Sequence[FileEntry],
    target: Path,
    tell: Callable[[int], None],
    stopped: Callable[[], bool],
    usage: Callable[[Path], Usage],
) -> None:
    part = unfinished(target)
    part.mkdir(exist_ok=True)
    _forget_others(part, {entry.path for entry in files})
    reserve(target.parent, sum(entry.size for entry in files) - bytes_below(part), usage)
    done = 0
    for entry in files:
        begun = done

        def step(have: int, begun: int = begun) -> None:
            tell(begun + have)
            if stopped():
                raise Stopped

        _fetch_rest(store, entry, part / entry.path, step)
        done += entry.size
    part.rename(target)


def _fetch_rest(
    store: ArtifactStore, entry: FileEntry, target: Path, step: Callable[[int], None]
) -> None:
    """Add to a file what it lacks, and check the whole; what was there is read for its digest.

    A digest that is wrong may be the fault of what was there: then it is fetched once from the
    start. Raises Corrupt.
    """
    store.uri_of(entry.path)  # raises UnsafePath for what leads out of the folder
    target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        digest = hashlib.sha256()
        with target.open("a+b") as out:
            out.seek(0)
            while piece := out.read(CHUNK):
                digest.update(piece)
                step(out.tell())
            had = out.tell()
            if had < entry.size:
                with store.open(entry.path) as source:
                    source.seek(had)
                    while piece := source.read(CHUNK):
                        digest.update(piece)
                        out.write(piece)
                        step(out.tell())
            out.flush()
            os.fsync(out.fileno())
            size = out.tell()
        if size == entry.size and digest.hexdigest() == entry.sha256:
            return
        target.unlink()
        if not had:
            found = f"sha256 {digest.hexdigest()}, not {entry.sha256}"
            wrong = found if size == entry.size else f"{size} bytes, not {entry.size}"
            raise Corrupt(store.uri, {entry.path: wrong})


def _forget_others(part: Path, wanted: set[str]) -> None:
    for file in sorted(part.rglob("*")):
        if file.is_file() and file.relative_to(part).as_posix() not in wanted:
            file.unlink()


def _longest_unused(cache: Path) -> list[Path]:
    copies = [folder for folder in cache.iterdir() if folder.is_dir()]
    return sorted(copies, key=lambda folder: folder.stat().st_mtime)


def _fits(disk: Usage, wanted: int) -> bool:
    return disk.free - wanted >= disk.total * FREE_SHARE


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether nobody else holds the copy, as long as the block runs."""
    lock = open_lock(folder.with_name(folder.name.removesuffix(_PART)))
    try:
        yield locked(lock, fcntl.LOCK_EX)
    finally:
        os.close(lock)
