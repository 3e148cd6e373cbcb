"""Uploads that no job needs any more are deleted: claimed in the database, then the file, then the
row. Stopped anywhere, the claim runs out and a later turn does the same again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from quarterdeck.artifacts import ArtifactError, path_of_upload, upload_at
from quarterdeck.artifacts.uploads import FOLDER
from quarterdeck.controller.retention import Files
from quarterdeck.lifecycle.uploads import GRACE_S, KEEP_S, served
from quarterdeck.store.ids import new_id
from quarterdeck.store.sessions import Database
from quarterdeck.store.uploads import (
    UploadKey,
    claim_upload,
    forget_upload,
    idle_uploads,
    known_uploads,
    note_uploads,
)

log = logging.getLogger(__name__)

DELETE_WITHIN_S = 10.0
"""A deletion begins so soon after its claim, or not at all: whoever wants the upload waits for the
claim's end, and only then sends it again."""


class UploadFiles(Files, Protocol):
    """The artifact store, as a place that can be listed."""

    def sizes(self, path: str = "") -> Mapping[str, int]:
        """Every file below a folder, relative to it."""

    def delete_unfinished(self, path: str, older_than: float) -> object:
        """Delete what writers that are gone have left below a folder."""


class UploadRetention:
    """One controller's loop. `keep` is how many seconds after its last job's end an upload goes;
    None: never, if a job has named it."""

    def __init__(
        self,
        database: Database,
        files: UploadFiles,
        keep: float | None = KEEP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._files = files
        self._keep = keep
        self._clock = clock

    def tick(self) -> int:
        """Delete what has served; how many went."""
        self._adopt()
        with self._database.read() as session:
            idle, now = idle_uploads(session)
        return sum(
            self._delete(UploadKey(each.project, each.digest))
            for each in idle
            if served(each, self._keep, now)
        )

    def _adopt(self) -> None:
        """Give files without a row one, so that their grace period begins."""
        try:
            self._files.delete_unfinished(FOLDER, GRACE_S)
            found = {UploadKey(*named) for path in self._files.sizes(FOLDER)
                     if (named := upload_at(path)) is not None}  # fmt: skip
        except (OSError, ArtifactError) as error:
            log.warning("uploads cannot be listed: %s", error)
            return
        with self._database.read() as session:
            strangers = found - known_uploads(session)
        if strangers:
            with self._database.write() as session:
                note_uploads(session, strangers)

    def _delete(self, key: UploadKey) -> bool:
        claim_id = new_id("claim")
        began = self._clock()
        with self._database.write() as session:
            if not claim_upload(session, key, claim_id):
                return False
        if self._clock() - began > DELETE_WITHIN_S:
            return False
        try:
            self._files.delete_prefix(path_of_upload(key.project, key.digest))
        except (OSError, ArtifactError) as error:
            log.warning("upload %s of %s resists: %s", key.digest, key.project, error)
            return False
        with self._database.write() as session:
            if not forget_upload(session, key, claim_id):
                log.error(
                    "upload %s of %s was deleted while it was sent again: send it once more",
                    key.digest, key.project,
                )  # fmt: skip
        log.info("upload %s of %s deleted: no job needs it", key.digest, key.project)
        return True
