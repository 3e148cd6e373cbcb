"""One folder as one stream of bytes that depends on its content alone, and back again, safely.

The stream is a plain ustar archive: entries sorted by path, owners and times zero, mode 755 or 644.
It is not compressed, so equal folders give equal bytes under every version of every library, and
what is read is never more than what was sent. Reading takes folders, files and symbolic links that
stay inside; everything else that tar knows is refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from quarterdeck.artifacts.digests import CHUNK
from quarterdeck.artifacts.errors import ArtifactError, Corrupt
from quarterdeck.artifacts.local import disk_full_is_typed

BLOCK = tarfile.BLOCKSIZE
MOST_ENTRIES = 200_000
LONGEST_PATH = 4096
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class UnsafeArchive(ArtifactError, ValueError):
    """An archive that would write outside its folder, or holds what no folder of code needs."""

    blame = "user_code"


class ChangedWhileRead(ArtifactError):
    """A file became shorter or longer while it was packed."""


@dataclass(frozen=True)
class Entry:
    """One file or symbolic link of a folder."""

    path: str
    """Relative, with forward slashes."""
    size: int = 0
    executable: bool = False
    link: str | None = None
    """Where a symbolic link points, as it is written there."""


def archive_size(entries: Iterable[Entry]) -> int:
    """Bytes of the archive of these entries."""
    return sum(len(_header(entry)) + _padded(entry.size) for entry in entries) + 2 * BLOCK


def pack(folder: Path, entries: Iterable[Entry]) -> Iterator[bytes]:
    """The archive of `entries` of `folder`, in parts of at most a megabyte.

    Raises ChangedWhileRead, and OSError for a file that cannot be read.
    """
    for entry in sorted(entries, key=lambda one: one.path):
        yield _header(entry)
        if entry.link is not None:
            continue
        left = entry.size
        with (folder / entry.path).open("rb") as stream:
            while left and (part := stream.read(min(CHUNK, left))):
                left -= len(part)
                yield part
            if left or stream.read(1):
                raise ChangedWhileRead(f"{entry.path} changed while it was read: try again")
        if rest := _padded(entry.size) - entry.size:
            yield bytes(rest)
    yield bytes(2 * BLOCK)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _header(entry: Entry) -> bytes:
    head = tarfile.TarInfo(entry.path)
    head.mode = 0o755 if entry.executable else 0o644
    head.size = entry.size
    if entry.link is not None:
        head.type, head.linkname = tarfile.SYMTYPE, entry.link
    return head.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def unpack(stream: BinaryIO, target: Path, *, digest: str, size: int) -> int:
    """Write an archive's files into the new folder `target`; answers how many entries it had.

    `digest` and `size` are what the stream must be. Raises UnsafeArchive, Corrupt and DiskFull;
    then nothing of it is left.
    """
    target.mkdir(mode=0o700, parents=True)
    try:
        with disk_full_is_typed(target, size):
            return _Reader(stream, target, size).read_all(digest)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


class _Reader:
    def __init__(self, stream: BinaryIO, target: Path, size: int) -> None:
        self._stream = stream
        self._target = target
        self._left = size
        self._digest = hashlib.sha256()
        self._links: dict[str, str] = {}
        self._count = 0

    def read_all(self, digest: str) -> int:
        name: str | None = None
        link: str | None = None
        while (block := self._take(BLOCK)) != bytes(BLOCK):
            head = self._head(block)
            if head.type in _LONG:
                text = self._text(head)
                name, link = (text, link) if head.type == _LONG[0] else (name, text)
                continue
            self._entry(head, name or head.name, link or head.linkname)
            name = link = None
        self._end(digest)
        self._make_links()
        return self._count

    def _take(self, count: int) -> bytes:
        if count > self._left:
            raise UnsafeArchive("the archive holds more than it was declared to: upload it again")
        part = self._stream.read(count)
        if len(part) != count:
            raise Corrupt("the archive", {"end": f"{count - len(part)} bytes are missing"})
        self._left -= count
        self._digest.update(part)
        return part

    @staticmethod
    def _head(block: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise UnsafeArchive(f"this is no archive of a folder: {error}") from error

    def _text(self, head: tarfile.TarInfo) -> str:
        if not 0 < head.size <= LONGEST_PATH:
            raise UnsafeArchive(f"a path of {head.size} characters: at most {LONGEST_PATH}")
        text = self._take(_padded(head.size))[: head.size].rstrip(b"\0")
        return text.decode("utf-8", "surrogateescape")

    def _entry(self, head: tarfile.TarInfo, name: str, link: str) -> None:
        path = self._place(name)
        self._count += 1
        if self._count > MOST_ENTRIES:
            raise UnsafeArchive(f"more than {MOST_ENTRIES:,} entries")
        if head.type == tarfile.SYMTYPE:
            if link.startswith("/") or not link or "\0" in link:
                raise UnsafeArchive(f"{name!r} is a link to {link!r}, out of the folder")
            self._links[path] = link
        elif head.type == tarfile.DIRTYPE:
            self._inside(path).mkdir(parents=True, exist_ok=True)
        elif head.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            self._file(head, self._inside(path))
        else:
            raise UnsafeArchive(f"{name!r} is neither a file, a folder nor a symbolic link")

    def _place(self, name: str) -> str:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in name:
            raise UnsafeArchive(f"{name!r} leads out of the folder")
        above = {str(parent) for parent in pure.parents}
        if str(pure) in self._links or above & self._links.keys():
            raise UnsafeArchive(f"{name!r} would be written through a link")
        return str(pure)

    def _inside(self, path: str) -> Path:
        place = self._target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _file(self, head: tarfile.TarInfo, place: Path) -> None:
        if not 0 <= head.size <= self._left:
            raise UnsafeArchive(f"{head.name!r} says that it has {head.size:,} bytes: it has not")
        mode = 0o700 if head.mode & 0o100 else 0o600
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            descriptor = os.open(place, flags, mode)
        except (FileExistsError, IsADirectoryError) as error:
            raise UnsafeArchive(f"{head.name!r} stands twice in the archive") from error
        with os.fdopen(descriptor, "wb") as out:
            left = head.size
            while left:
                part = self._take(min(CHUNK, left))
                out.write(part)
                left -= len(part)
        self._take(_padded(head.size) - head.size)

    def _end(self, digest: str) -> None:
        while self._left:
            self._take(min(CHUNK, self._left))
        if self._stream.read(1):
            raise UnsafeArchive("the archive holds more than it was declared to: upload it again")
        if (found := self._digest.hexdigest()) != digest:
            raise Corrupt("the archive", {"sha256": f"{found}, not {digest}"})

    def _make_links(self) -> None:
        """Last of all, so that nothing was written through one; then each must stay inside."""
        for path, link in self._links.items():
            try:
                self._inside(path).symlink_to(link)
            except FileExistsError as error:
                raise UnsafeArchive(f"{path!r} stands twice in the archive") from error
        root = self._target.resolve()
        for path, link in self._links.items():
            inside = False
            with suppress(OSError, RuntimeError):  # a circle of links leads nowhere, not outside
                inside = (self._target / path).resolve().is_relative_to(root)
            if not inside:
                raise UnsafeArchive(f"{path!r} is a link to {link!r}, out of the folder")
