"""How long logs are kept: beyond the bounds the oldest files go, the index first, then the files.

Stopped anywhere, a marked file is not part of its log any more and is deleted by a later turn.
"""

from __future__ import annotations

import logging

from quarterdeck.artifacts import ArtifactError
from quarterdeck.artifacts.log_files import FOLDER
from quarterdeck.controller.retention import Files
from quarterdeck.lifecycle.logs import LogBounds, whole_logs_to_delete
from quarterdeck.store.log_retention import (
    forget_file,
    leaving,
    mark_files,
    owners_with_older,
    shelved,
)
from quarterdeck.store.sessions import Database

log = logging.getLogger(__name__)


class LogRetention:
    """One controller's loop. Two at once do the same harmless work twice."""

    def __init__(self, database: Database, files: Files, bounds: LogBounds) -> None:
        self._database = database
        self._files = files
        self._bounds = bounds

    def tick(self) -> int:
        """Take out what is too old or too much, then delete; how many files went."""
        self._mark_old()
        self._mark_large()
        return self._delete()

    def _mark_old(self) -> None:
        if (seconds := self._bounds.seconds) is None:
            return
        with self._database.read() as session:
            owners = owners_with_older(session, seconds)
        for owner in owners:
            with self._database.write() as session:
                days = f"{seconds / 86400:g}"
                mark_files(session, owner, f"older than {days} days", older_than=seconds)

    def _mark_large(self) -> None:
        with self._database.read() as session:
            logs = shelved(session)
        if (most := self._bounds.owner_bytes) is not None:
            for each in logs:
                if each.bytes > most:
                    with self._database.write() as session:
                        why = f"one log keeps {most:,} bytes"
                        mark_files(session, each.id, why, beyond_bytes=most)
            with self._database.read() as session:
                logs = shelved(session)
        for owner in whole_logs_to_delete(logs, self._bounds):
            with self._database.write() as session:
                mark_files(session, owner, "the logs of ended jobs took too much room")

    def _delete(self) -> int:
        with self._database.read() as session:
            files = leaving(session)
        deleted = failed = 0
        for file in files:
            try:
                self._files.delete_prefix(file.path)
                with self._database.write() as session:
                    served = forget_file(session, file)
                if served:
                    self._files.delete_prefix(f"{FOLDER}/{file.owner_id}")
                deleted += 1
            except (OSError, ArtifactError) as error:
                failed += 1
                last = error
        if failed:
            log.warning("%d log files stay marked, the last resists: %s", failed, last)
        return deleted
