"""The api process: migrate, make sure that the installation's own keys are known, serve."""

from __future__ import annotations

from collections.abc import Sequence

import uvicorn

from quarterdeck.api.app import create_app
from quarterdeck.api.credentials import digest
from quarterdeck.api.problems import headers_problem
from quarterdeck.api.settings import ApiSettings
from quarterdeck.api.tunnels import LARGEST_MESSAGE
from quarterdeck.gateway.deadlines import protocol_for
from quarterdeck.processes.db import MIGRATION_SECONDS, wait_for_schema
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.home import prepare
from quarterdeck.processes.http_server import serve
from quarterdeck.processes.keys import KeyFiles, read_access_key, read_master_key
from quarterdeck.processes.settings import Settings
from quarterdeck.store import migrate
from quarterdeck.store.access_queries import add_project, project_exists
from quarterdeck.store.failures import Duplicate
from quarterdeck.store.key_queries import add_key, key_known
from quarterdeck.store.sessions import Database

ACTOR = "processes/api"
DEFAULT_PROJECT = "default"
SHOWN_PREFIX = 11
SHUTDOWN_SECONDS = 2
"""For requests under way; long polls and streams are repeated by their callers."""


def run_api(
    settings: Settings, keys: KeyFiles, host: str, port: int, public_url: str | None = None, *,
    to_migrate: bool = True,
) -> None:  # fmt: skip
    """Serve until SIGINT or SIGTERM. `public_url` is where supervisors reach this api; None: here.

    Without `to_migrate` somebody else migrates the database, and a newer schema is served too.
    Raises migrate.NewerSchema, ProcessFailed for keys and a database that is not migrated, and
    what the database says.
    """
    prepare(settings.home, keys=keys.homes_own())
    master_key = read_master_key(keys.master)
    if to_migrate:
        migrate.upgrade(settings.database_url)
    else:
        wait_for_schema(settings.database_url, MIGRATION_SECONDS, print)
    database = Database.open(settings.database_url)
    seed(database, keys)
    api = ApiSettings(
        database=database,
        artifacts_uri=settings.artifacts_uri,
        artifacts_options=settings.artifacts_options,
        api_url=public_url or f"http://{host}:{port}",
        master_key=master_key,
    )
    serve(server_for(api, host, port))


def server_for(settings: ApiSettings, host: str, port: int) -> uvicorn.Server:
    """The api under uvicorn, with the bounds of its settings on connections and headers."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=host,
            port=port,
            http=protocol_for(settings, headers_problem),
            ws="websockets-sansio",
            ws_max_size=LARGEST_MESSAGE,
            access_log=False,
            server_header=False,
            log_level="info",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )


def seed(database: Database, keys: KeyFiles) -> None:
    """Make the default project, and the installation's own keys, known to the database; what is
    there stays, revoked keys too. Another api process may do the same at the same moment.

    Raises ProcessFailed for keys that cannot be read or are the same.
    """
    admin, agent = read_access_key(keys.admin), read_access_key(keys.agent)
    if admin == agent:
        raise ProcessFailed(
            f"{keys.admin.place} and {keys.agent.place} hold the same key: agents and gateways "
            "need one of their own, which opens less"
        )
    known = (("home", "admin", admin), ("home-agent", "agent", agent))
    try:
        _seed(database, known)
    except Duplicate:
        _seed(database, known)


def _seed(database: Database, keys: Sequence[tuple[str, str, str]]) -> None:
    with database.write() as session:
        if not project_exists(session, DEFAULT_PROJECT):
            add_project(session, DEFAULT_PROJECT, actor=ACTOR)
        for name, access, text in keys:
            if not key_known(session, digest(text)):
                add_key(
                    session, name=name, access=access, sha256=digest(text),
                    prefix=text[:SHOWN_PREFIX], actor=ACTOR,
                )  # fmt: skip
