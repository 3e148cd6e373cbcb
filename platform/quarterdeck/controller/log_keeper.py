"""Logs into files: the oldest chunks of each owner's log move from the database to the artifact
store.

The file is written first, then one transaction puts it in the place of its chunks. Stopped
anywhere, the chunks are where they were and the next turn writes the same file again; nothing is
lost or doubled.
"""

from __future__ import annotations

import logging

from quarterdeck.artifacts import ArtifactError
from quarterdeck.artifacts.log_files import encode, path_of
from quarterdeck.controller.retention import Files
from quarterdeck.controller.turns import Turns
from quarterdeck.lifecycle.logs import DEFAULT, LogPolicy
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.ids import new_id
from quarterdeck.store.log_keeping import (
    claim_logs,
    move_to_file,
    next_stretch,
    release_logs,
)
from quarterdeck.store.sessions import Database

LEASE_S = 60.0
AT_ONCE = 8
"""Logs of one tick."""
FILES_AT_ONCE = 8
"""Files of one log in one turn: a flooding job leaves the others theirs."""
RETRY_S = 30.0
"""After the artifact store did not take a file."""
log = logging.getLogger(__name__)


class LogKeeper:
    """One controller's loop. Several divide the logs by lease."""

    def __init__(self, database: Database, files: Files, policy: LogPolicy = DEFAULT) -> None:
        self._database = database
        self._files = files
        self._policy = policy

    def tick(self) -> int:
        """Give the logs that are due a turn each; how many files were made."""
        lease_id = new_id("lease")
        with self._database.write() as session:
            owners = claim_logs(session, lease_id, seconds=LEASE_S, limit=AT_ONCE)
        turns, made = Turns(), 0
        for owner in owners:
            again: float | None = RETRY_S
            with turns.turn("log", owner):
                files, again = self._move_all(owner, lease_id)
                made += files
            with self._database.write() as session:
                release_logs(session, owner, lease_id, due_in=again)
        turns.finish()
        return made

    def _move_all(self, owner_id: str, lease_id: str) -> tuple[int, float | None]:
        """How many files were made, and the seconds after which there is more to do."""
        for made in range(FILES_AT_ONCE):
            try:
                if not self._move(owner_id, lease_id):
                    return made, None
            except StaleRow as error:
                log.info("the log of %s is another controller's: %s", owner_id, error)
                return made, None
            except (OSError, ArtifactError) as error:
                log.warning("the log of %s stays in the database: %s", owner_id, error)
                return made, RETRY_S
        return FILES_AT_ONCE, 0.0

    def _move(self, owner_id: str, lease_id: str) -> bool:
        with self._database.read() as session:
            records = next_stretch(session, owner_id, self._policy)
        if not records:
            return False
        content, parts = encode(records)
        path = path_of(owner_id, records)
        self._files.put_bytes(content, path)
        with self._database.write() as session:
            move_to_file(
                session, owner_id, lease_id, records, path=path, size=len(content), parts=parts
            )
        return True
