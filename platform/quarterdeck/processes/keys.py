"""An installation's own three keys: made in its home, or handed in as files of a mounted secret.

Several api processes of one installation need the same ones, and their homes are not shared: a
variable then names a file of each.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quarterdeck.client.config import read_key
from quarterdeck.client.errors import ConfigurationError
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.home import KEY_BYTES, Home

_ACCESS_KEY = re.compile(r"qd_[A-Za-z0-9_-]{43,128}")
_MAKE_ACCESS_KEY = 'echo "qd_$(openssl rand -hex 32)"'
_MAKE_MASTER_KEY = "openssl rand -base64 32 | tr '+/' '-_'"


@dataclass(frozen=True)
class KeyFile:
    """Where one key lies, and which variable said so (None: it is the home's own)."""

    path: Path
    variable: str | None = None

    @property
    def place(self) -> str:
        return f"{self.variable}: {self.path}" if self.variable else str(self.path)


@dataclass(frozen=True)
class KeyFiles:
    """`master` encrypts secrets at rest, `admin` is the first person's, `agent` is for agents and
    gateways."""

    master: KeyFile
    admin: KeyFile
    agent: KeyFile

    def homes_own(self) -> frozenset[Path]:
        """The files that the home makes by itself where they are missing."""
        every = (self.master, self.admin, self.agent)
        return frozenset(file.path for file in every if file.variable is None)


def key_files(environment: Mapping[str, str], home: Home) -> KeyFiles:
    """The files that `QUARTERDECK_MASTER_KEY_FILE`, `…_ADMIN_KEY_FILE` and `…_AGENT_KEY_FILE`
    name; of those that are not set, the home's."""

    def named(kind: str, own: Path) -> KeyFile:
        variable = f"QUARTERDECK_{kind}_KEY_FILE"
        path = environment.get(variable)
        return KeyFile(Path(path), variable) if path else KeyFile(own)

    return KeyFiles(
        master=named("MASTER", home.master_key),
        admin=named("ADMIN", home.admin_key),
        agent=named("AGENT", home.agent_key),
    )


def read_master_key(file: KeyFile) -> str:
    """The Fernet key in a file. Raises ProcessFailed for a missing or malformed one."""
    text = _read(file, _MAKE_MASTER_KEY)
    try:
        size = len(base64.b64decode(text.encode(), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != KEY_BYTES:
        raise ProcessFailed(
            f"{file.place} is no master key: it must be {KEY_BYTES} bytes in url-safe base64, of "
            f"44 characters; make one with: {_MAKE_MASTER_KEY}"
        )
    return text


def read_access_key(file: KeyFile) -> str:
    """A key that opens the api. Raises ProcessFailed for a missing or malformed one."""
    text = _read(file, _MAKE_ACCESS_KEY)
    if not _ACCESS_KEY.fullmatch(text):
        raise ProcessFailed(
            f"{file.place} is no key: it must be qd_ and 43 to 128 letters, digits, _ or -; make "
            f"one with: {_MAKE_ACCESS_KEY}"
        )
    return text


def _read(file: KeyFile, make: str) -> str:
    try:
        return read_key(file.path)
    except ConfigurationError as error:
        if file.variable is None:
            raise ProcessFailed(str(error)) from error
        raise ProcessFailed(
            f"{file.variable}: {error}; mount a secret with it there (make one with: {make}), or "
            "unset the variable: then the home has keys of its own"
        ) from error
