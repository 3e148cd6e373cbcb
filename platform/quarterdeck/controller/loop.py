"""The controller: its reconcilers, one after the other for tests, or each at its own pace."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from quarterdeck.cluster.provider import PoolProvider
from quarterdeck.controller.admission import Admission
from quarterdeck.controller.arrays import Arrays
from quarterdeck.controller.capacity import Capacity
from quarterdeck.controller.clusters import Clusters
from quarterdeck.controller.elastic import Regrowing
from quarterdeck.controller.health import Health
from quarterdeck.controller.log_keeper import LogKeeper
from quarterdeck.controller.log_retention import LogRetention
from quarterdeck.controller.orphans import Orphans
from quarterdeck.controller.retention import Retention
from quarterdeck.controller.runs import Runs
from quarterdeck.controller.services import Services
from quarterdeck.controller.uploads import UploadFiles, UploadRetention
from quarterdeck.lifecycle.logs import LogBounds
from quarterdeck.lifecycle.uploads import KEEP_S
from quarterdeck.specs.pools import Pool
from quarterdeck.store.fleet_watch import SILENT_AFTER_S
from quarterdeck.store.sessions import Database

log = logging.getLogger(__name__)

BUSY_PAUSE_S = 0.05
IDLE_PAUSE_S = 0.5
ERROR_PAUSE_S = (1.0, 30.0)
RETENTION_PAUSE_S = 10.0
LOG_PAUSE_S = 2.0
LOG_RETENTION_PAUSE_S = 300.0
UPLOAD_RETENTION_PAUSE_S = 900.0
REGROW_PAUSE_S = 2.0
CAPACITY_PAUSE_S = 2.0


class Controller:
    """All reconcilers over one database. Several controllers may run at once.

    `files` is the artifact store; None leaves files alone. `lost_after` overrides the seconds of
    silence by owner type (`job`, `service`); `silent_after` those of a cluster's agent;
    `log_bounds` how much of logs is kept, `keep_uploads` for how many seconds after the end of
    its last job an upload is; `pools` are Kubernetes' clusters that are sized here, each with
    the provider of its machines.
    """

    def __init__(
        self,
        database: Database,
        files: UploadFiles | None = None,
        *,
        lost_after: dict[str, float] | None = None,
        silent_after: float = SILENT_AFTER_S,
        log_bounds: LogBounds | None = None,
        keep_uploads: float | None = KEEP_S,
        pools: Sequence[tuple[Pool, PoolProvider]] = (),
    ) -> None:
        self.clusters = Clusters(database, silent_after)
        self.orphans = Orphans(database)
        self.runs = Runs(database, lost_after)
        self.services = Services(database)
        self.admission = Admission(database)
        self.arrays = Arrays(database)
        self.regrowing = Regrowing(database)
        self.capacity = Capacity(database, pools) if pools else None
        self.retention = Retention(database, files) if files is not None else None
        self.log_keeper = LogKeeper(database, files) if files is not None else None
        bounds = log_bounds or LogBounds()
        self.log_retention = LogRetention(database, files, bounds) if files is not None else None
        self.uploads = UploadRetention(database, files, keep_uploads) if files is not None else None

    def tick(self) -> int:
        """Every reconciler once, in the order of cause and effect; how much changed."""
        changed = self.clusters.tick() + self.orphans.tick()
        changed += self.runs.tick() + self.services.tick()
        changed += self.arrays.tick() + self.admission.tick() + self.regrowing.tick()
        if self.capacity is not None:
            changed += self.capacity.tick()
        if self.retention is not None:
            changed += self.retention.tick()
        if self.log_keeper is not None:
            changed += self.log_keeper.tick()
        if self.log_retention is not None:
            changed += self.log_retention.tick()
        if self.uploads is not None:
            changed += self.uploads.tick()
        return changed

    def run(self, stop: threading.Event, health: Health | None = None) -> None:
        """Reconcile until `stop` is set, and tell `health` of every turn. A reconciler that fails
        is tried again, ever more slowly, and does not hold up the others."""
        health = health or Health()
        loops: list[tuple[str, Callable[[], int], float]] = [
            ("clusters", self.clusters.tick, 2.0),
            ("orphans", self.orphans.tick, 2.0),
            ("runs", self.runs.tick, IDLE_PAUSE_S),
            ("services", self.services.tick, IDLE_PAUSE_S),
            ("arrays", self.arrays.tick, IDLE_PAUSE_S),
            ("admission", self.admission.tick, IDLE_PAUSE_S),
            ("regrowing", self.regrowing.tick, REGROW_PAUSE_S),
        ]
        if self.capacity is not None:
            loops.append(("capacity", self.capacity.tick, CAPACITY_PAUSE_S))
        if self.retention is not None:
            loops.append(("retention", self.retention.tick, RETENTION_PAUSE_S))
        if self.log_keeper is not None:
            loops.append(("log keeper", self.log_keeper.tick, LOG_PAUSE_S))
        if self.log_retention is not None:
            loops.append(("log retention", self.log_retention.tick, LOG_RETENTION_PAUSE_S))
        if self.uploads is not None:
            loops.append(("uploads", self.uploads.tick, UPLOAD_RETENTION_PAUSE_S))
        threads = [
            threading.Thread(
                target=_repeat, args=(name, tick, pause, stop, health), name=f"controller-{name}"
            )
            for name, tick, pause in loops
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            # A signal may reach another thread (after SIGCONT it does), and Python hears it only
            # when the main one turns.
            while thread.is_alive():
                thread.join(1.0)


def _repeat(
    name: str, tick: Callable[[], int], pause: float, stop: threading.Event, health: Health
) -> None:
    failures = 0
    while not stop.is_set():
        health.begin(name)
        try:
            changed = tick()
        except Exception:
            # A database that is away, a row that nobody foresaw: the loop itself must live.
            failures += 1
            log.exception("%s failed %d times in a row", name, failures)
            first, longest = ERROR_PAUSE_S
            wait = min(first * 2.0 ** min(failures - 1, 10), longest)
        else:
            failures = 0
            wait = BUSY_PAUSE_S if changed else pause
        health.end(name, failures=failures)
        stop.wait(wait)
