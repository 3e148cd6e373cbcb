"""Clusters for one run each: which are wanted, and what becomes of those that are there.

Level by level, under the lease of the pool from which they are made: what queued jobs with images
lack is written down; what is written down is looked at as any pool is; what has served is told to
end, deleted, and only then forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from quarterdeck.cluster.images import for_image, own_pool
from quarterdeck.cluster.provider import PoolProvider, ProviderError
from quarterdeck.controller.own_requests import home_of
from quarterdeck.controller.requests import bare_request, image_of, pool_groups
from quarterdeck.specs.pools import Pool
from quarterdeck.store.admission import world
from quarterdeck.store.own_clusters import (
    end_if_done,
    forget,
    own_clusters,
    waiting_jobs,
    want_own,
)
from quarterdeck.store.pools import claim_pool, note_trouble, pool_of, release_pool, renew_pool
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import JobRow, PoolRow

log = logging.getLogger(__name__)

MOST = 32
"""Clusters of one pool at once; further gangs wait for one of them to end."""
MOST_LOOKED_AT = 1000
"""Of the jobs with images that wait, whichever pool they are for."""
Look = Callable[[Pool, PoolProvider, str], int]


class OwnClusters:
    """Those of one pool. `look` sizes a cluster that is leased."""

    def __init__(self, database: Database, pool: Pool, provider: PoolProvider, look: Look) -> None:
        self._database = database
        self._pool = pool
        self._provider = provider
        self._look = look

    def tick(self, lease_id: str) -> int:
        """Want, look at, and end clusters; how many things were changed outside."""
        changed = 0
        for row in self._wanted():
            with self._database.write() as session:
                # All out of one budget: only who holds the pool sizes those that are made from it.
                if not renew_pool(session, self._pool.name, lease_id):
                    return changed
                if not claim_pool(session, row.name, lease_id):
                    continue
            try:
                changed += self._one(row, lease_id)
            finally:
                with self._database.write() as session:
                    release_pool(session, row.name, lease_id, rest=0.0)
        return changed

    def _wanted(self) -> list[PoolRow]:
        """All there are, with those that jobs lack."""
        with self._database.read() as session:
            parent = pool_of(session, self._pool.name)
            if parent is None or parent.reason == "KubernetesUnreachable":
                return []  # each call would take its whole time
            rows = list(own_clusters(session, self._pool.name))
            waiting = waiting_jobs(session, MOST_LOOKED_AT)
            if len(rows) >= MOST or not waiting:
                return rows
            seen = world(session)
        groups = pool_groups(seen)
        fresh: list[JobRow] = []
        for job in waiting:
            if (job.id, job.epoch) in seen.own_clusters or len(rows) + len(fresh) >= MOST:
                continue
            request = bare_request(job, seen)
            if request is not None and home_of(request, seen, groups) == self._pool.name:
                fresh.append(job)
        if not fresh:
            return rows
        with self._database.write() as session:
            for job in fresh:
                made = own_pool(self._pool, job.id, job.epoch)
                want_own(session, made, self._pool.name, job, image_of(job.spec))
            return list(own_clusters(session, self._pool.name))

    def _one(self, row: PoolRow, lease_id: str) -> int:
        assert row.owner_id is not None and row.owner_epoch is not None
        with self._database.write() as session:
            ending = end_if_done(session, row.name)
        try:
            if not ending:
                made = for_image(self._pool, row.owner_id, row.owner_epoch, row.image)
                return self._look(made, self._provider.beside(made), lease_id)
            made = own_pool(self._pool, row.owner_id, row.owner_epoch)
            provider = self._provider.beside(made)
            gone = provider.delete()
        except ProviderError as error:
            log.warning("cluster %s: %s: %s", row.name, error.reason, error)
            with self._database.write() as session:
                note_trouble(session, row.name, lease_id, error.reason, str(error))
            return 0
        if not gone:
            return 1 + self._look(made, provider, lease_id)  # for pods that wait to be buried
        with self._database.write() as session:
            forget(session, row.name)
        return 1
