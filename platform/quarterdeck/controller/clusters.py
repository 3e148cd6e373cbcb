"""Clusters: an agent that is silent for too long makes its machines unknown, never dead."""

from __future__ import annotations

from quarterdeck.store.fleet_watch import SILENT_AFTER_S, mark_connected, mark_silent
from quarterdeck.store.sessions import Database


class Clusters:
    """One controller's watch over clusters."""

    def __init__(self, database: Database, silent_after: float = SILENT_AFTER_S) -> None:
        self._database = database
        self._silent_after = silent_after

    def tick(self) -> int:
        """Compare every cluster's last beat with the database's clock; how many changed."""
        with self._database.write() as session:
            silent = mark_silent(session, self._silent_after)
            connected = mark_connected(session, self._silent_after)
        return len(silent) + len(connected)
