"""Sending folders and texts to the artifact store, once: what is there already is not sent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from quarterdeck.artifacts import ChangedWhileRead, archive_size, pack
from quarterdeck.client.errors import NotFound, QuarterdeckError, ServerFailure, Unreachable
from quarterdeck.client.folders import MOST_BYTES, FolderRefused, Listing, list_folder
from quarterdeck.client.provenance import Provenance, provenance_of
from quarterdeck.client.transport import API, Transport
from quarterdeck.specs.resources import Artifact
from quarterdeck.specs.workdir import Upload

SILENCE_SECONDS = 120.0
ATTEMPTS = 3
Progress = Callable[[str, int, int], None]
"""Called with what is done (`packing`, `uploading`), the bytes so far and all of them."""


class Uploads:
    """`client.uploads`."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._project = project

    def get(self, digest: str, *, project: str | None = None) -> Artifact:
        """What is known of an upload. Raises NotFound."""
        return self._transport.get(Artifact, self._path(digest), params=self._scope(project))

    def content(self, digest: str, *, project: str | None = None) -> bytes:
        """The bytes of a small upload. Raises NotFound."""
        path = f"{self._path(digest)}/content"
        return self._transport.send("GET", path, params=self._scope(project)).content

    def text(self, content: bytes, *, project: str | None = None) -> Artifact:
        """Upload a few bytes."""
        digest = hashlib.sha256(content).hexdigest()
        return self._send(digest, len(content), lambda: [content], project)

    def folder(
        self,
        folder: Path,
        *,
        project: str | None = None,
        most_bytes: int = MOST_BYTES,
        progress: Progress | None = None,
    ) -> Upload:
        """Upload a folder, without what its ignore files name; the value for `workdir`.

        Raises FolderRefused where it is too large or cannot be read, and QuarterdeckError.
        """
        listing = list_folder(folder, most_bytes=most_bytes)
        found = describe(listing, progress)
        told = provenance_of(listing)
        total = found.size

        def parts() -> Iterator[bytes]:
            return _told(_packed(listing), "uploading", total, progress)

        self._send(found.digest, total, parts, project)
        return self._with(found, told, project)

    def _with(self, found: Upload, told: Provenance, project: str | None) -> Upload:
        diff = self.text(told.diff, project=project).digest if told.diff else None
        return found.model_copy(update={"commit": told.commit, "dirty": told.dirty, "diff": diff})

    def _send(
        self,
        digest: str,
        size: int,
        parts: Callable[[], Iterable[bytes]],
        project: str | None,
    ) -> Artifact:
        try:
            return self.get(digest, project=project)
        except NotFound:
            pass
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = self._transport.upload(
                    self._path(digest), parts(), size, params=self._scope(project),
                    timeout=SILENCE_SECONDS,
                )  # fmt: skip
            except (Unreachable, ServerFailure):
                if attempt == ATTEMPTS:
                    raise
                continue
            return self._transport.read(Artifact, response)
        raise AssertionError("the last attempt raises or returns")

    def _scope(self, project: str | None) -> dict[str, str]:
        return {"project": project or self._project}

    @staticmethod
    def _path(digest: str) -> str:
        return f"{API}/artifacts/{digest}"


def describe(listing: Listing, progress: Progress | None = None) -> Upload:
    """What a folder's archive would be, without sending it."""
    hashed = hashlib.sha256()
    total = archive_size(listing.entries)
    for part in _told(_packed(listing), "packing", total, progress):
        hashed.update(part)
    return Upload(
        digest=hashed.hexdigest(),
        size=total,
        files=len(listing.entries),
        folder=str(listing.folder),
    )


def _packed(listing: Listing) -> Iterator[bytes]:
    try:
        yield from pack(listing.folder, listing.entries)
    except ChangedWhileRead as error:
        raise QuarterdeckError(str(error)) from error
    except OSError as error:
        message = f"{error.filename} cannot be read ({error.strerror}): mend it, or add it to "
        raise FolderRefused(message + ".quarterdeckignore") from error


def _told(
    parts: Iterable[bytes], what: str, total: int, progress: Progress | None
) -> Iterator[bytes]:
    done = 0
    for part in parts:
        done += len(part)
        yield part
        if progress is not None:
            progress(what, done, total)


__all__ = ["Progress", "Uploads", "describe", "list_folder"]
