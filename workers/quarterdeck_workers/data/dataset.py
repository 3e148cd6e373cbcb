"""A dataset version: the files at a URI with their digests, split by content.

A file belongs to the held-out split when the first 64 bits of its SHA-256 fall below the share.
So equal files always fall into the same split, whatever their names, and adding files moves none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import fsspec

from quarterdeck_workers.data.errors import DataProblem
from quarterdeck_workers.data.globs import selected

Split = Literal["train", "held_out"]
Progress = Callable[[int, int, str], None]
"""Called as progress(done, total, message)."""

SPLITS: tuple[Split, Split] = ("train", "held_out")
_READERS = 4
_CHUNK = 1 << 20


def no_progress(done: int, total: int, message: str) -> None:
    """For callers that do not watch."""


@dataclass(frozen=True)
class SourceFile:
    """One file: `path` relative to the dataset's URI, `size` in bytes."""

    path: str
    size: int
    sha256: str
    split: Split


@dataclass(frozen=True)
class Manifest:
    """All files of a dataset version, sorted by path."""

    uri: str
    files: tuple[SourceFile, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the sorted entries: equal for equal contents, names and splits."""
        lines = (f"{f.split} {f.sha256} {f.size} {f.path}\n" for f in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def of(self, split: Split | None) -> tuple[SourceFile, ...]:
        """The files of a split, of both for None."""
        return tuple(f for f in self.files if split is None or f.split == split)

    def bytes_of(self, split: Split | None = None) -> int:
        """Bytes of the files of a split."""
        return sum(f.size for f in self.of(split))

    def save(self, path: Path) -> None:
        """Write as JSON lines: a header, then one line for each file."""
        with path.open("w", encoding="utf-8") as stream:
            header = {"format": "files", "version": 1, "uri": self.uri, "digest": self.digest}
            stream.write(json.dumps(header) + "\n")
            for file in self.files:
                stream.write(json.dumps(asdict(file), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read what `save` wrote. Raises DataProblem when it was changed since."""
        with path.open(encoding="utf-8") as stream:
            header: dict[str, Any] = json.loads(stream.readline())
            files = tuple(SourceFile(**json.loads(line)) for line in stream)
        manifest = cls(header["uri"], files)
        if manifest.digest != header["digest"]:
            raise DataProblem(
                f"the manifest {path.name} of {manifest.uri} does not have its digest "
                f"{header['digest'][:16]}…: register the dataset again"
            )
        return manifest


@dataclass(frozen=True)
class Document:
    """The whole content of one file."""

    path: str
    content: bytes


def split_of(sha256: str, held_out: float) -> Split:
    """The split of a content by its hexadecimal SHA-256; `held_out` is a share from 0 to 1."""
    return "held_out" if int(sha256[:16], 16) < held_out * 2.0**64 else "train"


def scan(
    uri: str,
    *,
    include: Sequence[str] = ("**/*",),
    exclude: Sequence[str] = (),
    held_out: float = 0.0,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> Manifest:
    """Read and hash every selected file at `uri`: a local path or any fsspec URI.

    Empty files, pipes, devices, and links to folders or to nothing are left out. Raises
    DataProblem when there is
    nothing at the URI, no file is selected, or one cannot be read.
    """
    filesystem, root = _open(uri, storage_options)
    paths = _list(filesystem, root, uri)
    chosen = {rel: full for rel, full in sorted(paths.items()) if selected(rel, include, exclude)}
    if not chosen:
        raise DataProblem(
            f"{uri} has {len(paths)} files, but none is selected by include {list(include)} and "
            f"exclude {list(exclude)}: `**/*.py` finds files in every folder"
        )
    files: list[SourceFile] = []
    pool = ThreadPoolExecutor(_READERS, thread_name_prefix="scan")
    try:
        digests = pool.map(lambda item: (item[0], _digest(filesystem, *item)), chosen.items())
        for done, (path, found) in enumerate(digests, start=1):
            if found is not None and found[0] > 0:
                files.append(SourceFile(path, found[0], found[1], split_of(found[1], held_out)))
            progress(done, len(chosen), path)
    finally:
        pool.shutdown(cancel_futures=True)  # a stop must not wait for files not yet begun
    if not files:
        raise DataProblem(f"all {len(chosen)} selected files of {uri} are empty")
    return Manifest(uri, tuple(files))


def read_documents(
    manifest: Manifest,
    files: Sequence[SourceFile],
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Document]:
    """Read files of the manifest in the order given, checking each one's digest.

    Raises DataProblem when one vanished or changed since the version was registered.
    """
    filesystem, root = _open(manifest.uri, storage_options)
    for file in files:
        full = _join(filesystem, root, file.path)
        try:
            content: bytes = filesystem.cat_file(full)
        except (OSError, ValueError) as error:
            raise DataProblem(
                f"{file.path} of {manifest.uri} cannot be read ({error.__class__.__name__}): put "
                "it back, or register the dataset again for a new version"
            ) from error
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise DataProblem(
                f"{file.path} of {manifest.uri} changed since this version was registered "
                f"(sha256 is not {file.sha256[:16]}…): restore it, or register the dataset again "
                "for a new version"
            )
        yield Document(file.path, content)


def decode(content: bytes) -> str | None:
    """The text of a document; None for binaries (a NUL byte). Bytes that are not UTF-8 become
    U+FFFD."""
    return None if b"\0" in content else content.decode("utf-8", errors="replace")


def _open(uri: str, options: Mapping[str, Any] | None) -> tuple[Any, str]:
    try:
        filesystem, root = fsspec.core.url_to_fs(uri, **dict(options or {}))
    except (ValueError, ImportError) as error:
        raise DataProblem(f"{uri} cannot be opened: {error}") from error
    return filesystem, str(root).rstrip("/")


def _list(filesystem: Any, root: str, uri: str) -> dict[str, str]:
    """Every file below the root: relative path → the file system's own."""
    if filesystem.isfile(root):
        return {root.rsplit("/", 1)[-1]: root}
    if not filesystem.exists(root):
        raise DataProblem(
            f"nothing is at {uri} on this machine: check the path, and that the cluster's "
            "machines can read it"
        )
    found: dict[str, dict[str, Any]] = filesystem.find(root, detail=True)
    files = (full for full, info in found.items() if _is_file(filesystem, full, info))
    return {full.removeprefix(root).lstrip("/"): full for full in files}


def _is_file(filesystem: Any, full: str, info: dict[str, Any]) -> bool:
    """Whether it is a file or leads to one: reading a pipe or a device may never end."""
    if not info.get("islink"):
        return bool(info["type"] == "file")
    try:
        return bool(filesystem.info(full)["type"] == "file")
    except FileNotFoundError:
        return False


def _join(filesystem: Any, root: str, path: str) -> str:
    """The full path of an entry; a URI may name a single file."""
    if root.endswith(f"/{path}") and filesystem.isfile(root):
        return root
    return f"{root}/{path}"


def _digest(filesystem: Any, path: str, full: str) -> tuple[int, str] | None:
    """(size, SHA-256) of a file; None when it is a link that leads nowhere."""
    digest, size = hashlib.sha256(), 0
    try:
        with filesystem.open(full, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataProblem(
            f"{path} cannot be read ({error.strerror or error}): make it readable, or leave it "
            "out by `exclude`"
        ) from error
    return size, digest.hexdigest()
