"""The controller process."""

from __future__ import annotations

import logging
import signal
import threading
import time

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.controller.loop import Controller
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.settings import Settings
from quarterdeck.store import migrate
from quarterdeck.store.sessions import Database

MIGRATION_SECONDS = 60.0
"""How long to wait for an api to migrate the database."""


def run_controller(settings: Settings) -> None:
    """Reconcile until SIGINT or SIGTERM. Raises ProcessFailed when nobody migrates the database."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stop.set())
    _wait_for_schema(settings.database_url, stop)
    database = Database.open(settings.database_url)
    try:
        files = ArtifactStore(settings.artifacts_uri, settings.artifacts_options)
        controller = Controller(
            database, files, log_bounds=settings.log_bounds, keep_uploads=settings.keep_uploads
        )
        controller.run(stop)
    finally:
        database.close()


def _wait_for_schema(url: str, stop: threading.Event) -> None:
    head = migrate.head_revision()
    deadline = time.monotonic() + MIGRATION_SECONDS
    while (current := migrate.current_revision(url)) != head and not stop.is_set():
        if time.monotonic() > deadline:
            raise ProcessFailed(
                f"the database is at revision {current}, this version needs {head}: start an api "
                "of this version, or run `quarterdeck db upgrade`"
            )
        stop.wait(0.5)
