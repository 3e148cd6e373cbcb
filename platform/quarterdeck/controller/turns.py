"""One row's failure must not hold up those that come behind it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from quarterdeck.store.failures import UNAVAILABLE
from quarterdeck.store.leases import Row, release_rows
from quarterdeck.store.sessions import Session

log = logging.getLogger(__name__)

PAUSE_S = 30.0
"""A leased row that failed is looked at again after this, so that it does not slow its loop down
for the others."""


class Turns:
    """Gives each row of a tick its turn and keeps the first unforeseen failure for the end."""

    def __init__(self) -> None:
        self.failed: set[str] = set()
        """Ids of the rows that failed."""
        self._first: Exception | None = None

    @contextmanager
    def turn(self, noun: str, row_id: str) -> Iterator[None]:
        """Work on one row. A database that does not answer is no row's fault: that is raised."""
        try:
            yield
        except UNAVAILABLE:
            raise
        except Exception as error:
            # The text may quote what people stored; the loop's log has the traceback.
            log.error("%s %s cannot be moved: %s", noun, row_id, type(error).__name__)
            self.failed.add(row_id)
            self._first = self._first or error

    def release(
        self, session: Session, table: type[Row], ids: Sequence[str], lease_id: str
    ) -> None:
        """Give the leases back; rows that failed are due again after a pause."""
        good = [row_id for row_id in ids if row_id not in self.failed]
        bad = [row_id for row_id in ids if row_id in self.failed]
        release_rows(session, table, good, lease_id)
        release_rows(session, table, bad, lease_id, due_in=PAUSE_S)

    def finish(self) -> None:
        """Raise the first failure, if there was one."""
        if self._first is not None:
            raise self._first
