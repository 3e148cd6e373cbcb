"""Retention: checkpoints that newer ones replace are deleted, the row first, then the files."""

from __future__ import annotations

import logging
from typing import Protocol

from quarterdeck.lifecycle.retention import superseded
from quarterdeck.store.retention import being_deleted, mark_deleted, mark_deleting, shelves
from quarterdeck.store.sessions import Database

log = logging.getLogger(__name__)


class Files(Protocol):
    """What reconcilers need of the artifact store."""

    def put_bytes(self, content: bytes, path: str) -> object:
        """Write a file, whole or not at all."""

    def delete_prefix(self, path: str) -> object:
        """Delete everything under `path`; deleting what is gone already is no error."""


class Retention:
    """One controller's retention loop. Two at once do the same harmless work twice."""

    def __init__(self, database: Database, files: Files) -> None:
        self._database = database
        self._files = files

    def tick(self) -> int:
        """Mark what is superseded, then delete the files of everything marked; how many went."""
        with self._database.read() as session:
            found = shelves(session)
        ids = [
            item.id
            for shelf in found
            for item in superseded(
                shelf.saved,
                keep_last=shelf.keep_last,
                keep_every=shelf.keep_every,
                in_use=shelf.in_use,
            )
        ]
        if ids:
            with self._database.write() as session:
                mark_deleting(session, ids)
        with self._database.read() as session:
            rows = being_deleted(session)
        deleted = 0
        for row in rows:
            try:
                self._files.delete_prefix(f"checkpoints/{row.job_id}/{row.epoch}/{row.step}")
            except OSError as error:
                log.warning("checkpoint %s stays marked, its files resist: %s", row.id, error)
                continue
            with self._database.write() as session:
                mark_deleted(session, row)
            deleted += 1
        return deleted
