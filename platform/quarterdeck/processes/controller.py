"""The controller process."""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import nullcontext
from pathlib import Path

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.cluster.provider import PoolProvider, ProviderError
from quarterdeck.controller.health import Health
from quarterdeck.controller.loop import Controller
from quarterdeck.processes.db import MIGRATION_SECONDS, wait_for_schema
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.health_server import served_health
from quarterdeck.processes.settings import Settings
from quarterdeck.specs.loading import LoadError
from quarterdeck.specs.pools import Pool, read_pools
from quarterdeck.store.sessions import Database

log = logging.getLogger(__name__)


def run_controller(
    settings: Settings, health_port: int | None = None, host: str = "127.0.0.1"
) -> None:
    """Reconcile until SIGINT or SIGTERM; with a `health_port`, tell there how it is.

    Raises ProcessFailed when nobody migrates the database, the port is taken, or the file of pools
    is wrong.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stop.set())
    pools = _pools(settings.pools)
    health = Health()
    told = nullcontext(0) if health_port is None else served_health(health, host, health_port)
    with told:
        wait_for_schema(settings.database_url, MIGRATION_SECONDS, log.info, stop)
        database = Database.open(settings.database_url)
        try:
            files = ArtifactStore(settings.artifacts_uri, settings.artifacts_options)
            controller = Controller(
                database, files, log_bounds=settings.log_bounds,
                keep_uploads=settings.keep_uploads, pools=pools,
            )  # fmt: skip
            controller.run(stop, health)
        finally:
            database.close()


def _pools(path: Path | None) -> list[tuple[Pool, PoolProvider]]:
    """The pools of a file with their providers. Raises ProcessFailed where the file is wrong or
    there is no way to Kubernetes."""
    if path is None:
        return []
    try:
        pools = read_pools(path)
    except LoadError as error:
        raise ProcessFailed(f"the pools of QUARTERDECK_POOLS are wrong:\n{error}") from error
    if not pools:
        return []
    from quarterdeck.cluster.kuberay import KubeRay
    from quarterdeck.cluster.kubernetes_client import connect
    from quarterdeck.cluster.nodes import Nodes

    try:
        kubernetes = connect()
    except ProviderError as error:
        raise ProcessFailed(f"no way to Kubernetes: {error}") from error
    nodes = Nodes(kubernetes)
    return [(pool, KubeRay(kubernetes, pool, nodes)) for pool in pools]
