"""`quarterdeck db`: migrations, backups, and what they are put back into."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from quarterdeck.artifacts import ArtifactError, ArtifactStore, Corrupt
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.records import alive, read_record
from quarterdeck.processes.settings import Settings
from quarterdeck.specs.beats import CheckpointManifest
from quarterdeck.store import backups, migrate
from quarterdeck.store.failures import UNAVAILABLE
from quarterdeck.store.proof import registered_checkpoints
from quarterdeck.store.retention import forget_missing
from quarterdeck.store.sessions import Database

_SQLITE = "sqlite:///"
WRITERS = ("api", "controller", "up")


MIGRATION_SECONDS = 60.0
"""How long a process that does not migrate waits for who does."""
LOOK_SECONDS = 1.0


def upgrade_database(settings: Settings, *, allow_newer: bool = False, seconds: float = 0.0) -> str:
    """Migrate to this version; answers what was done.

    Raises ProcessFailed when the database still does not answer after `seconds`, and for a newer
    schema, unless `allow_newer`: then nothing is to do, as when an upgrade is rolled back.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            backup = migrate.upgrade(settings.database_url)
        except migrate.NewerSchema as error:
            if allow_newer:
                return f"nothing to do: {str(error).partition(':')[0]}; it serves this version too"
            raise ProcessFailed(str(error)) from error
        except migrate.RestoreUnfinished as error:
            raise ProcessFailed(str(error)) from error
        except UNAVAILABLE as error:
            if time.monotonic() > deadline:
                raise ProcessFailed(_silent(error)) from error
            time.sleep(LOOK_SECONDS)
        else:
            break
    kept = f", the old one is kept in {backup}" if backup else ""
    return f"the database is at revision {migrate.head_revision()}{kept}"


def wait_for_schema(
    url: str, seconds: float, tell: Callable[[str], None], stop: threading.Event | None = None
) -> str:
    """Wait until the database answers and somebody has migrated it to this version or a newer
    one, or until `stop` is set; answers what is there. Raises ProcessFailed after `seconds`.
    """
    stop = stop or threading.Event()
    head, said = migrate.head_revision(), ""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = migrate.current_revision(url)
        except UNAVAILABLE as error:
            why = _silent(error)
        else:
            if migrate.schema_of(found) != "older":
                return f"the database is at revision {found}"
            why = f"the database is at revision {found or 'none'}, this version needs {head}"
        if why != said:
            tell(f"waiting: {why}")
            said = why
        if time.monotonic() > deadline:
            raise ProcessFailed(
                f"waited {seconds:g} s: {why}: start an api of this version, or run `quarterdeck "
                "db upgrade`"
            )
        if stop.wait(LOOK_SECONDS):
            return f"stopped: {why}"


def _silent(error: Exception) -> str:
    cause = str(getattr(error, "orig", None) or error).strip().splitlines()
    return f"the database does not answer: {cause[0] if cause else type(error).__name__}"


def backup_database(settings: Settings, target: Path | None) -> str:
    """Copy the database while it is in use; the copy has mode 0600. Without a target it goes into
    the home's folder `backups`.

    Raises ProcessFailed for a missing source, an existing target, or missing tools.
    """
    if target is None:
        folder = settings.home.folder / "backups"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = folder / f"quarterdeck-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.backup"
    try:
        backups.back_up(settings.database_url, target)
    except backups.BackupError as error:
        raise ProcessFailed(str(error)) from error
    return f"{target}: {target.stat().st_size:,} bytes"


def restore_database(
    settings: Settings, source: Path, tell: Callable[[str], None], *, forget_all: bool = False,
    seconds: float = 0.0,
) -> str:  # fmt: skip
    """Put a backup in the place of the database, and raise the generation. Checkpoints whose files
    are gone are forgotten, in an empty store only with `forget_all`.

    Raises ProcessFailed while processes use the database, after `seconds`, for a newer schema, and
    for what is no backup: then nothing has changed; and where the store is empty: then all was
    restored, but trainings would resume from checkpoints that are not there.
    """
    _wait_for_users(settings, seconds, tell)
    try:
        generation, kept = backups.restore(settings.database_url, source)
    except (backups.BackupError, migrate.NewerSchema) as error:
        raise ProcessFailed(str(error)) from error
    done = f"restored {source}: generation {generation}"
    missed = _forget_missing(settings, tell, forget_all)
    if kept is not None:
        tell(f"what was there is kept in {kept}")
    tell(
        "keys, secrets and intents are those of the backup: revoke again what was revoked since. "
        "Jobs wait until every cluster has told what lives there; then see quarterdeck doctor"
    )
    if missed:
        raise ProcessFailed(f"{done}, but {missed}")
    return done


def _forget_missing(settings: Settings, tell: Callable[[str], None], forget_all: bool) -> str:
    """Forget checkpoints without their files, so that nothing resumes from them; why they are kept
    all the same, where another store is likelier than that all have gone."""
    database = Database.open(settings.database_url)
    try:
        store = ArtifactStore(settings.artifacts_uri, settings.artifacts_options)
        with database.write() as session:
            rows = registered_checkpoints(session)
            missing = [row for row in rows if _is_missing(store, row.manifest)]
            if missing and not forget_all and store.is_empty():
                return (
                    f"{settings.artifacts_uri} is empty, and the backup knows {len(rows)} "
                    "checkpoints: bring the files back or mount what has them, and restore again; "
                    "if they are gone, with --forget-checkpoints"
                )
            for row in missing:
                forget_missing(session, row)
    except (ArtifactError, ValueError, OSError) as error:
        tell(f"checkpoints were not looked at, see doctor: {error}")
        return ""
    finally:
        database.close()
    if missing:
        tell(f"{len(missing)} checkpoints that the backup knew have been deleted since: forgotten")
    return ""


def _is_missing(store: ArtifactStore, manifest: object) -> bool:
    try:
        store.verify(CheckpointManifest.model_validate(manifest), digests=False)
    except Corrupt:
        return True
    return False


def _wait_for_users(settings: Settings, seconds: float, tell: Callable[[str], None]) -> None:
    deadline, said = time.monotonic() + seconds, ""
    while users := _users(settings):
        why = "the database is in use by " + ", ".join(users)
        if time.monotonic() >= deadline:
            raise ProcessFailed(
                f"{why}: stop them first (quarterdeck down; agents and what runs on machines may "
                "go on)"
            )
        if why != said:
            tell(f"waiting: {why}")
            said = why
        time.sleep(LOOK_SECONDS)


def _users(settings: Settings) -> list[str]:
    record = read_record(settings.home)
    found = [
        f"{entry.name} (pid {entry.pid})"
        for entry in (record.processes if record else ())
        if entry.name in WRITERS and alive(entry)
    ]
    if not settings.database_url.startswith(_SQLITE):
        return found + backups.others_connected(settings.database_url)
    place = Path(settings.database_url.removeprefix(_SQLITE)).absolute()
    known = {entry.pid for entry in (record.processes if record else ())}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid in known or process.pid == psutil.Process().pid:
                continue
            if any(Path(file.path) == place for file in process.open_files()):
                name = " ".join(" ".join(process.cmdline()).split())[:80]
                found.append(f"{name or process.name()} (pid {process.pid})")
    return found
