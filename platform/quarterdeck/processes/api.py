"""The api process: migrate, make sure that the home's own keys are known, serve."""

from __future__ import annotations

import uvicorn

from quarterdeck.api.app import create_app
from quarterdeck.api.credentials import digest
from quarterdeck.api.problems import headers_problem
from quarterdeck.api.settings import ApiSettings
from quarterdeck.api.tunnels import LARGEST_MESSAGE
from quarterdeck.client.config import read_key
from quarterdeck.gateway.deadlines import protocol_for
from quarterdeck.processes.home import Home, prepare
from quarterdeck.processes.http_server import serve
from quarterdeck.processes.settings import Settings
from quarterdeck.store import migrate
from quarterdeck.store.access_queries import add_project, project_exists
from quarterdeck.store.failures import Duplicate
from quarterdeck.store.key_queries import add_key, find_key
from quarterdeck.store.sessions import Database

ACTOR = "processes/api"
DEFAULT_PROJECT = "default"
SHOWN_PREFIX = 11
SHUTDOWN_SECONDS = 2
"""For requests under way; long polls and streams are repeated by their callers."""


def run_api(settings: Settings, host: str, port: int, public_url: str | None = None) -> None:
    """Serve until SIGINT or SIGTERM. `public_url` is where supervisors reach this api; None: here.

    Raises migrate.NewerSchema, ConfigurationError, and what the database says.
    """
    prepare(settings.home)
    migrate.upgrade(settings.database_url)
    database = Database.open(settings.database_url)
    seed(database, settings.home)
    api = ApiSettings(
        database=database,
        artifacts_uri=settings.artifacts_uri,
        artifacts_options=settings.artifacts_options,
        api_url=public_url or f"http://{host}:{port}",
        master_key=read_key(settings.home.master_key),
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


def seed(database: Database, home: Home) -> None:
    """Make the default project, and the keys in the home's files, known to the database; what is
    there stays. Another api process may do the same at the same moment."""
    try:
        _seed(database, home)
    except Duplicate:
        _seed(database, home)


def _seed(database: Database, home: Home) -> None:
    keys = (("home", "admin", home.admin_key), ("home-agent", "agent", home.agent_key))
    with database.write() as session:
        if not project_exists(session, DEFAULT_PROJECT):
            add_project(session, DEFAULT_PROJECT, actor=ACTOR)
        for name, access, file in keys:
            text = read_key(file)
            if find_key(session, digest(text)) is None:
                add_key(
                    session, name=name, access=access, sha256=digest(text),
                    prefix=text[:SHOWN_PREFIX], actor=ACTOR,
                )  # fmt: skip
