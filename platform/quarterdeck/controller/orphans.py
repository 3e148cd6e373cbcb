"""Orphans: living supervisors that a restored backup does not know of get their rows back."""

from __future__ import annotations

import logging

from quarterdeck.controller.turns import Turns
from quarterdeck.store.adoption import adopt
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.orphans import orphans
from quarterdeck.store.sessions import Database

log = logging.getLogger(__name__)


class Orphans:
    """One controller's adoption loop. Two at once meet at the orphan's row: one finds it gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tick(self) -> int:
        """Try to adopt every orphan once; how many were."""
        with self._database.read() as session:
            rows = orphans(session)
        adopted = 0
        turns = Turns()
        # Of several attempts of one job the newest is the one to keep.
        for row in sorted(rows, key=lambda row: -row.epoch):
            with turns.turn("run", row.run_id):
                adopted += self._adopt(row.run_id, row.epoch)
        turns.finish()
        return adopted

    def _adopt(self, run_id: str, epoch: int) -> bool:
        try:
            with self._database.write() as session:
                return adopt(session, run_id, epoch)
        except StaleRow as stale:
            log.info("the adoption of %s dropped a stale result: %s", run_id, stale)
            return False
