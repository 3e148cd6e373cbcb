"""The command line of `quarterdeck db`; db.py does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quarterdeck.processes.surroundings import failures, own_settings, tell

db = typer.Typer(
    name="db", help="The database: upgrade, wait, backup, restore.", no_args_is_help=True
)


@db.command()
def upgrade(
    allow_newer: Annotated[
        bool, typer.Option("--allow-newer", help="A newer schema is no error: leave it alone.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds to wait for one that is silent.")
    ] = 0.0,
) -> None:
    """Migrate the database to this version; SQLite is backed up first.

    Example: quarterdeck db upgrade
    """
    from quarterdeck.processes.db import upgrade_database

    with failures():
        print(upgrade_database(own_settings(), allow_newer=allow_newer, seconds=timeout))


@db.command()
def wait(
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds, after which it gives up.")
    ] = 600.0,
) -> None:
    """Wait until the database answers and has the schema of this version, or a newer one.

    Example: quarterdeck db wait --timeout 60
    """
    from quarterdeck.processes.db import wait_for_schema

    settings = own_settings()
    with failures():
        print(wait_for_schema(settings.database_url, timeout, tell))


@db.command()
def backup(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A new file; default: in the home."),
    ] = None,
) -> None:
    """Copy the database while it is in use.

    SQLite is copied by itself, PostgreSQL by pg_dump, which must be on PATH. Artifacts and the
    home's keys are not in it: keep keys/master too, without which secrets are lost.

    Example: quarterdeck db backup quarterdeck-2026-01-31.backup
    """
    from quarterdeck.processes.db import backup_database

    with failures():
        print(backup_database(own_settings(), target))


@db.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="What `db backup` wrote.")],
    forget_checkpoints: Annotated[
        bool,
        typer.Option("--forget-checkpoints", help="Forget checkpoints even in an empty store."),
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds to wait for processes that end.")
    ] = 0.0,
) -> None:
    """Put a backup in the place of the database; api and controller must not run.

    What runs on machines goes on: when the platform is up again, runs that the backup does not know
    are taken back, and nothing that it knew is started before every cluster has told what lives.

    Example: quarterdeck db restore quarterdeck-2026-01-31.backup
    """
    from quarterdeck.processes.db import restore_database

    with failures():
        print(
            restore_database(
                own_settings(), source, tell, forget_all=forget_checkpoints, seconds=timeout
            )
        )
