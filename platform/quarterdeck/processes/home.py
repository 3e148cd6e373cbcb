"""The home folder of one installation on one machine: data, keys, logs, records."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from quarterdeck.client.config import HOME_NAME, KEY_FILE, URL_FILE, find_home

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
KEY_BYTES = 32


@dataclass(frozen=True)
class Home:
    """Where everything of an installation lies."""

    folder: Path

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.folder / 'quarterdeck.db'}"

    @property
    def artifacts_uri(self) -> str:
        return (self.folder / "artifacts").as_uri()

    @property
    def url_file(self) -> Path:
        return self.folder / URL_FILE

    @property
    def admin_key(self) -> Path:
        """The person's key, found by the CLI."""
        return self.folder / KEY_FILE

    @property
    def agent_key(self) -> Path:
        """The key of the agent and the gateway."""
        return self.folder / "keys" / "agent"

    @property
    def master_key(self) -> Path:
        """The Fernet key that encrypts secrets at rest."""
        return self.folder / "keys" / "master"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def ray(self) -> Path:
        """Ray's own folder, with its `token` (0600)."""
        return self.folder / "ray"

    @property
    def processes(self) -> Path:
        """Who was started: pids with their moments of creation."""
        return self.folder / "processes.json"

    @property
    def suspended(self) -> Path:
        """Jobs that a stop suspended, for the next start to resume."""
        return self.folder / "suspended.json"

    @property
    def instance(self) -> Path:
        """A random name of this installation, which its processes carry in their environment."""
        return self.folder / "instance"


def choose_home(
    environment: Mapping[str, str], start: Path, user_home: Path, *, create: bool = True
) -> Home:
    """The home that the environment names, else the nearest one upwards.

    With `create`, where there is none, `.quarterdeck` in `start`; without it raises
    FileNotFoundError.
    """
    found = find_home(environment, start, user_home)
    if found is None and not create:
        raise FileNotFoundError(
            f"there is no {HOME_NAME} here or above, and QUARTERDECK_HOME is not set"
        )
    return Home((found or start / HOME_NAME).absolute())


def prepare(
    home: Home,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    *,
    keys: Container[Path] | None = None,
) -> None:
    """Make folders and keys that are missing; what is there stays. Keys are readable by the
    owner only. Of the installation's keys only those in `keys` are made; None: all."""
    for folder in (home.folder, home.admin_key.parent, home.logs, home.ray):
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        folder.chmod(PRIVATE_FOLDER)
    ignore = home.folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="ascii")

    def text() -> str:
        return base64.urlsafe_b64encode(random_bytes(KEY_BYTES)).decode()

    for file, content in (
        (home.admin_key, "qd_" + text().rstrip("=")),
        (home.agent_key, "qd_" + text().rstrip("=")),
        (home.master_key, text()),
    ):
        if keys is None or file in keys:
            _keep_or_write(file, content)
    _keep_or_write(home.ray / "token", random_bytes(KEY_BYTES).hex())
    _keep_or_write(home.instance, random_bytes(8).hex())


def _keep_or_write(file: Path, content: str) -> None:
    if not file.exists():
        write_private(file, content)


def write_private(file: Path, content: str) -> None:
    """Write a file of mode 0600, whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
