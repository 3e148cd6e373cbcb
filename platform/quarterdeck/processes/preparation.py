"""What containers of one installation hand to each other, made before the first of them starts.

The database's server needs the password that api and controller use, gateway and machines need
the agent's key, and none of them the rest of the home: so each gets a folder with its part alone.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

from quarterdeck.client.config import read_key
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.home import Home, prepare, write_private

PASSWORD_FILE, URL_FILE = "password", "url"
GROUP_READS = 0o640
"""Of the password: the server runs as a user of its own, in our group."""


def hand_out_agent_key(home: Home, folder: Path) -> Path:
    """Make the home's keys where they are missing; put a copy of the agent's into `folder`, a file
    `key` of mode 0600. Raises ProcessFailed."""
    try:
        prepare(home)
        target = folder / "key"
        write_private(target, read_key(home.agent_key))
    except OSError as error:
        raise ProcessFailed(_unwritable(error)) from error
    return target


def hand_out_database(
    folder: Path,
    url: str,
    given: str | None = None,
    random_text: Callable[[], str] = lambda: secrets.token_hex(32),
) -> Path:
    """Make the credentials of a PostgreSQL that is not there yet: in `folder` the files `password`
    (mode 0640, for the server) and `url` (0600, for QUARTERDECK_DATABASE_URL_FILE).

    A password that is there stays, since the server keeps the first one; `given` is used instead
    of a random one. Raises ProcessFailed for a URL with a password or without user or host, an
    empty `given` one, and one that differs from what is there.
    """
    kept = folder / PASSWORD_FILE
    try:
        there = kept.read_text(encoding="utf-8") if kept.exists() else None
        if given is not None and there not in (None, given):
            raise ProcessFailed(
                f"{kept} holds another password, with which the database was made: change it there "
                "(ALTER ROLE), then remove this file and hand the new one in again"
            )
        password = there if there is not None else random_text() if given is None else given
        whole = _with_password(url, password)
        if there is None:
            _write_for_group(kept, password)
        target = folder / URL_FILE
        write_private(target, whole)
    except OSError as error:
        raise ProcessFailed(_unwritable(error)) from error
    return target


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    if parts.password is not None:
        raise ProcessFailed("--database-url holds a password: hand it in by stdin instead")
    if not (parts.scheme.startswith("postgresql") and parts.username and parts.hostname):
        raise ProcessFailed(f"--database-url {url}: write postgresql+psycopg://USER@HOST/DATABASE")
    if not password or any(ord(character) < 0x20 for character in password):
        raise ProcessFailed("the password is empty or holds a line break or control character")
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}").geturl()


def _write_for_group(file: Path, text: str) -> None:
    """Whole or not at all; readable by the group from the moment that it has its name."""
    fresh = file.with_name(f".{file.name}.group")
    write_private(fresh, text)
    fresh.chmod(GROUP_READS)
    fresh.replace(file)


def _unwritable(error: OSError) -> str:
    return (
        f"{error.filename}: {error.strerror}: the folder must exist and belong to user "
        f"{os.geteuid()}"
    )
