"""Regrowing: a run on fewer ranks than its job's gang gives way when the full gang fits again.

Shrinking is admission's: a restart that the full gang cannot have takes the largest of the job's
smaller layouts that fits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from quarterdeck.controller.requests import job_request, replica_requests, snapshot_of
from quarterdeck.controller.turns import Turns
from quarterdeck.lifecycle.elastic import RegrowFacts, decide_regrow
from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import Request
from quarterdeck.specs.training import Elastic
from quarterdeck.store.admission import World, world
from quarterdeck.store.elastic import (
    REGROW,
    Shrunk,
    claim_shrunk,
    note_facts,
    note_fit,
    order_regrow,
    shrunk_runs,
)
from quarterdeck.store.errors import StaleRow
from quarterdeck.store.ids import new_id
from quarterdeck.store.sessions import Database
from quarterdeck.store.slots import SlotCount
from quarterdeck.store.tables import RunRow

log = logging.getLogger(__name__)


class Regrowing:
    """One controller's watch over shrunk runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tick(self) -> int:
        """Look at every shrunk run once; how many were ordered to give way."""
        lease_id = new_id("lease")
        with self._database.write() as session:
            ids = claim_shrunk(session, lease_id)
        if not ids:
            return 0
        turns, ordered = Turns(), 0
        try:
            with self._database.read() as session:
                found, seen = shrunk_runs(session, ids), world(session)
            fitting: list[Shrunk] = []
            for item in found:
                with turns.turn("run", item.run.id):
                    fits = _fits(item, fitting, seen)
                    if fits:
                        fitting.append(item)
                    ordered += self._look(item, fits, seen, lease_id)
        finally:
            with self._database.write() as session:
                turns.release(session, RunRow, ids, lease_id)
        turns.finish()
        return ordered

    def _look(self, item: Shrunk, fits: bool, seen: World, lease_id: str) -> bool:
        decision = decide_regrow(facts_of(item, fits, seen))
        try:
            with self._database.write() as session:
                if decision.order:
                    order_regrow(session, item, decision.message, lease_id)
                    return True
                if fits != (item.run.fits_since is not None):
                    note_fit(session, item.run, fits, lease_id)
                if list(item.job.facts) != [decision.message]:
                    note_facts(session, item.job, [decision.message])
        except StaleRow as stale:
            log.info("regrowing dropped a stale result: %s", stale)
        return False


def facts_of(item: Shrunk, fits: bool, seen: World) -> RegrowFacts:
    """A shrunk run as `decide_regrow` sees it."""
    run, job = item.run, item.job
    elastic = Elastic.model_validate(job.spec.get("elastic") or {"min_ranks": 1})
    ranks, now = len(run.placements), seen.now
    fits_for = (now - run.fits_since).total_seconds() if run.fits_since else 0.0
    starting = run.starting_seconds + run.restart_seconds - run.lost_seconds
    return RegrowFacts(
        ranks=ranks,
        full=run.full_ranks or ranks,
        free=_free(item, seen),
        fits_for=fits_for if fits else None,
        since_regrow=(now - item.regrown_at).total_seconds() if item.regrown_at else None,
        eta=job.eta_seconds if run.step is not None else None,
        restart=max(0.0, starting) / ranks,
        regrow_after=elastic.regrow_after,
        regrow_every=elastic.regrow_every,
    )


def _fits(item: Shrunk, before: Sequence[Shrunk], seen: World) -> bool:
    """Whether the scheduler would start the full gang now, were the run's own slots free.

    What waits ahead of the job in the queue comes first, as do the runs `before` that fit. While
    another gives way in its cluster nobody can tell.
    """
    if any(run.stopping_for == REGROW and run.cluster == item.run.cluster for run in seen.holding):
        return False
    giving_way = {item.run.id, *(other.run.id for other in before)}
    holding = [run for run in seen.holding if run.id not in giving_way]
    view = replace(seen, holding=holding)
    requests = [request for job in seen.jobs if (request := _full(job_request(job, view)))]
    requests += [one for service in seen.services for one in replica_requests(service, view)]
    for other in (*before, item):
        if request := _full(job_request(other.job, view)):
            requests.append(request)
    made = plan(snapshot_of(view, requests), seen.now)
    return any(one.request_id == item.job.id for one in made.assignments)


def _full(request: object) -> Request | None:
    return replace(request, smaller=()) if isinstance(request, Request) else None


def _free(item: Shrunk, seen: World) -> int:
    """Slots of the run's cluster that nobody else holds."""
    others = SlotCount()
    for run in seen.holding:
        if run.id != item.run.id:
            others.add(run.placements)
    return sum(
        max(0, node.slots - others.slots.get(node.id, 0))
        for node in seen.nodes
        if node.cluster == item.run.cluster
        and node.phase == "alive"
        and not node.cordoned
        and not node.quarantined
    )
