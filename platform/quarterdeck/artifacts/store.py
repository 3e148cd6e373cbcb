"""`ArtifactStore`: files under one URI, local or of any fsspec file system."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from quarterdeck.artifacts import local
from quarterdeck.artifacts.digests import CHUNK, file_digest
from quarterdeck.artifacts.errors import ArtifactError, Corrupt, UnsafePath
from quarterdeck.specs.beats import CheckpointManifest, FileEntry


class ArtifactStore:
    """Files under `uri`: `file:///folder`, a plain folder, `s3://bucket/prefix` and the like.

    Paths are relative, with forward slashes; whatever would leave the store raises UnsafePath.
    `options` are fsspec's storage options, may hold credentials and are never shown. Every write
    is whole or absent. An instance may cross a fork as long as it was not used before.
    """

    def __init__(self, uri: str, options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(options or {})
        self._remote: Any = None
        self._remote_pid = 0
        self.root: Path | None = None
        """The local folder; None when the store is remote."""
        parts = urlsplit(uri)
        if parts.scheme in ("", "file"):
            if parts.netloc not in ("", "localhost"):
                raise UnsafePath(f"{uri!r} names a host: write file:///folder")
            path = unquote(parts.path) if parts.scheme else uri
            self.root = Path(path).expanduser().absolute()
            self.uri = self.root.as_uri()
        else:
            self.uri = uri.rstrip("/")

    def __repr__(self) -> str:
        return f"ArtifactStore({self.uri!r})"

    # --- names -----------------------------------------------------------------------------

    def uri_of(self, path: str) -> str:
        """The full URI of a path in the store."""
        return f"{self.uri}/{_safe(path)}" if path else self.uri

    def path_of(self, uri: str) -> str:
        """The path of a URI inside the store; raises UnsafePath when it lies outside."""
        if uri.rstrip("/") == self.uri:
            return ""
        if not uri.startswith(self.uri + "/"):
            raise UnsafePath(f"{uri} is not inside {self.uri}")
        return _safe(uri.removeprefix(self.uri + "/"))

    def folder(self, path: str) -> ArtifactStore:
        """A store rooted at a folder of this one: its entries' paths are relative to it."""
        return ArtifactStore(self.uri_of(path), self._options)

    def local_path(self, path: str) -> Path | None:
        """The path on this machine, to read or map without a copy; None when remote."""
        if self.root is None:
            return None
        target = self.root / _safe(path) if path else self.root
        if not target.resolve().is_relative_to(self.root.resolve()):
            raise UnsafePath(f"{path!r} leads out of {self.uri} by a link")
        return target

    # --- writing ---------------------------------------------------------------------------

    def put_file(self, source: Path, path: str, *, move: bool = False) -> FileEntry:
        """Copy a local file to `path`; with `move` rename it there when that is possible.

        Raises DiskFull, UnsafePath, FileNotFoundError for `source`.
        """
        size = source.stat().st_size
        target = self.local_path(path)
        if move and target is not None:
            digest = file_digest(source)
            try:
                local.move_atomically(source, target)
                return FileEntry(path=path, size=size, sha256=digest)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        with source.open("rb") as stream:
            entry = self._put(stream, path, size)
        if move:
            source.unlink()
        return entry

    def put_bytes(self, content: bytes, path: str) -> FileEntry:
        """Write bytes to `path`. Raises DiskFull, UnsafePath."""
        return self._put(io.BytesIO(content), path, len(content))

    def put_folder(self, source: Path, path: str = "", *, move: bool = False) -> list[FileEntry]:
        """Copy every file below a local folder; entries are relative to `path`, sorted."""
        entries = []
        for file in sorted(entry for entry in source.rglob("*") if entry.is_file()):
            relative = file.relative_to(source).as_posix()
            stored = self.put_file(file, f"{path}/{relative}" if path else relative, move=move)
            entries.append(stored.model_copy(update={"path": relative}))
        return entries

    @contextmanager
    def writing(self, path: str, size: int) -> Iterator[Callable[[bytes], object]]:
        """Give a `write` for the parts of `path`, which appears when the block ends, and not at
        all when it raises. `size` bytes must fit: raises DiskFull."""
        target = self.local_path(_safe(path))
        if target is not None:
            with local.writing(target, size) as write:
                yield write
            return
        out = self._filesystem().open(self._key(path), "wb")
        try:
            yield out.write
        except BaseException:
            out.discard()  # closing would publish the part that was written
            raise
        out.close()

    def _put(self, stream: BinaryIO, path: str, size: int) -> FileEntry:
        digest = hashlib.sha256()
        with self.writing(path, size) as write:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                write(chunk)
        return FileEntry(path=path, size=stream.tell(), sha256=digest.hexdigest())

    # --- reading ---------------------------------------------------------------------------

    def open(self, path: str) -> BinaryIO:
        """Open for reading. Raises FileNotFoundError."""
        target = self.local_path(_safe(path))
        if target is not None:
            return target.open("rb")
        return cast(BinaryIO, self._filesystem().open(self._key(path), "rb"))

    def read_bytes(self, path: str) -> bytes:
        """A whole file. Raises FileNotFoundError."""
        with self.open(path) as stream:
            return stream.read()

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        target = self.local_path(path)
        return target.exists() if target else bool(self._filesystem().exists(self._key(path)))

    def sizes(self, path: str = "") -> dict[str, int]:
        """Every file below a folder: path relative to it → bytes; unfinished ones left out."""
        target = self.local_path(path)
        if target is not None:
            return {
                file.relative_to(target).as_posix(): file.stat().st_size
                for file in sorted(target.rglob("*"))
                if file.is_file() and not file.name.startswith(local.TEMPORARY)
            }
        filesystem = self._filesystem()
        base = self._key(path).rstrip("/") + "/"
        filesystem.invalidate_cache()
        found = filesystem.find(base, detail=True)
        return {name.removeprefix(base): int(info["size"]) for name, info in found.items()}

    def is_empty(self) -> bool:
        """Whether nothing lies here: likely another place than the one that is meant, as where a
        disk is not mounted."""
        if self.root is not None:
            found = self.root.iterdir() if self.root.is_dir() else ()
            return all(entry.name == "lost+found" for entry in found)
        filesystem = self._filesystem()
        filesystem.invalidate_cache()
        base = self._key("").rstrip("/")
        return not filesystem.exists(base) or not filesystem.ls(base, detail=False)

    def size(self, path: str) -> int:
        """Bytes of one file. Raises FileNotFoundError."""
        target = self.local_path(_safe(path))
        if target is not None:
            return target.stat().st_size
        filesystem = self._filesystem()
        filesystem.invalidate_cache()
        return int(filesystem.size(self._key(path)))

    def get_file(self, path: str, target: Path) -> FileEntry:
        """Copy one file to this machine, whole or not at all."""
        size = self.size(path)
        with self.open(path) as stream:
            digest = local.write_atomically(stream, target, size)
        return FileEntry(path=path, size=target.stat().st_size, sha256=digest)

    def get_folder(
        self, path: str, target: Path, files: Iterable[FileEntry] | None = None
    ) -> list[FileEntry]:
        """Copy a folder to this machine; entries are relative to it.

        With `files` exactly those are fetched and their digests checked: raises Corrupt. Files
        that are already there with the right digest are not fetched again.
        """
        wanted = None if files is None else {entry.path: entry for entry in files}
        names = sorted(wanted) if wanted is not None else sorted(self.sizes(path))
        if not names:
            raise FileNotFoundError(f"{self.uri_of(path)} has no files")
        entries, wrong = [], {}
        for name in names:
            destination = target / _safe(name)
            expected = wanted[name] if wanted is not None else None
            if expected and destination.is_file() and file_digest(destination) == expected.sha256:
                entries.append(expected)
                continue
            try:
                got = self.get_file(f"{path}/{name}" if path else name, destination)
            except FileNotFoundError:
                wrong[name] = "missing"
                continue
            if expected and got.sha256 != expected.sha256:
                wrong[name] = f"sha256 {got.sha256}, not {expected.sha256}"
                destination.unlink()
            entries.append(got.model_copy(update={"path": name}))
        if wrong:
            raise Corrupt(self.uri_of(path), wrong)
        return entries

    def verify(self, manifest: CheckpointManifest, *, digests: bool = True) -> None:
        """Check every file of a manifest: presence, size and (with `digests`) SHA-256.

        The files' paths are relative to `manifest.uri`. Raises Corrupt naming what differs.
        """
        self.verify_files(manifest.uri, manifest.files, digests=digests)

    def verify_files(self, uri: str, files: Iterable[FileEntry], *, digests: bool = True) -> None:
        """As `verify`, for any folder of the store given by its URI."""
        base = self.folder(self.path_of(uri))
        sizes = base.sizes()
        wrong: dict[str, str] = {}
        for entry in files:
            size = sizes.get(_safe(entry.path))
            if size is None:
                wrong[entry.path] = "missing"
            elif size != entry.size:
                wrong[entry.path] = f"{size} bytes, not {entry.size}"
            elif digests and (found := base.digest(entry.path)) != entry.sha256:
                wrong[entry.path] = f"sha256 {found}, not {entry.sha256}"
        if wrong:
            raise Corrupt(uri, wrong)

    def digest(self, path: str) -> str:
        """Hexadecimal SHA-256 of a stored file."""
        digest = hashlib.sha256()
        with self.open(path) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    # --- the rest --------------------------------------------------------------------------

    def delete_prefix(self, path: str) -> int:
        """Delete a folder or file with all below; answers how many files went.

        Raises UnsafePath for the store's own root. Deleting what is absent answers 0.
        """
        _safe(path)
        target = self.local_path(path)
        if target is not None:
            if not target.exists():
                return 0
            if target.is_file():
                target.unlink()
                return 1
            count = sum(1 for entry in target.rglob("*") if entry.is_file())
            shutil.rmtree(target)
            return count
        filesystem = self._filesystem()
        filesystem.invalidate_cache()
        key = self._key(path)
        if not filesystem.exists(key):
            return 0
        count = max(1, len(self.sizes(path))) if filesystem.isdir(key) else 1
        filesystem.rm(key, recursive=True)
        return count

    def delete_unfinished(self, path: str, older_than: float) -> int:
        """Delete unfinished writes below a folder that nobody has added to for so many seconds;
        answers how many. Remote stores publish and drop theirs themselves."""
        folder = self.local_path(path)
        return 0 if folder is None else local.delete_unfinished(folder, older_than)

    def free_bytes(self) -> int | None:
        """Bytes that still fit; None where the store has no such limit."""
        return None if self.root is None else local.free_bytes(self.root)

    def _key(self, path: str) -> str:
        full = self.uri_of(path)
        return cast(str, self._filesystem()._strip_protocol(full))

    def _filesystem(self) -> Any:
        if self._remote is None or self._remote_pid != os.getpid():
            import fsspec

            scheme = urlsplit(self.uri).scheme
            try:
                self._remote = fsspec.filesystem(scheme, **self._options, skip_instance_cache=True)
            except (ValueError, ImportError) as error:
                raise ArtifactError(
                    f"{self.uri}: no file system for {scheme}://: {error}"
                ) from error
            self._remote_pid = os.getpid()
        return self._remote


def _safe(path: str) -> str:
    """`path` when it stays inside, with single slashes; raises UnsafePath otherwise."""
    parts = PurePosixPath(path).parts
    bad = (
        not parts
        or path.startswith("/")
        or "\\" in path
        or "\0" in path
        or any(part in ("..", "~") for part in parts)
    )
    if bad:
        raise UnsafePath(f"{path!r} is not a path inside the store: write folder/file without ..")
    return "/".join(parts)
