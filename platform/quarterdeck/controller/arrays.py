"""Arrays: lets members go, as many at once as it may, and ends the array when they have ended."""

from __future__ import annotations

import logging

from quarterdeck.controller.turns import Turns
from quarterdeck.lifecycle.arrays import Members, step_array
from quarterdeck.store.admission import jobs_by_id
from quarterdeck.store.array_rows import (
    claim_arrays,
    count_members,
    note_members,
    release_members,
)
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.ids import new_id
from quarterdeck.store.leases import swap
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import JobRow
from quarterdeck.store.transitions import move_job

log = logging.getLogger(__name__)


class Arrays:
    """One controller's loop over arrays."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tick(self) -> int:
        """Look at every array that may move; how many did.

        Raises the first unforeseen failure, after the other arrays had their turn.
        """
        lease_id = new_id("lease")
        with self._database.write() as session:
            ids = claim_arrays(session, lease_id)
        if not ids:
            return 0
        turns = Turns()
        changed = 0
        try:
            with self._database.read() as session:
                arrays = jobs_by_id(session, ids)
                members = count_members(session, ids)
            for array in arrays:
                with turns.turn("array", array.id):
                    changed += self._look(array, members[array.id], lease_id)
        finally:
            with self._database.write() as session:
                turns.release(session, JobRow, ids, lease_id)
        turns.finish()
        return changed

    def _look(self, seen: JobRow, members: Members, lease_id: str) -> int:
        most = seen.spec.get("array_parallelism")
        step = step_array(seen.phase, seen.desired, most, members)
        try:
            with self._database.write() as session:
                (array,) = jobs_by_id(session, [seen.id])
                if array.version != seen.version or array.lease_id != lease_id:
                    return 0
                if step.event is not None:
                    move_job(
                        session, array, step.event, reason=step.reason, message=members.text,
                        lease_id=lease_id,
                    )  # fmt: skip
                elif step.release:
                    # By compare-and-swap too: let go twice, they would be too many.
                    swap(session, array, {"message": members.text}, lease_id=lease_id)
                else:
                    note_members(session, array, members.text, lease_id=lease_id)
                if step.release:
                    release_members(session, array.id, step.release)
        except StaleRow as stale:
            log.info("arrays dropped a stale result: %s", stale)
            return 0
        return int(step.event is not None or step.release > 0)
