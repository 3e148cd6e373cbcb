"""Where the control plane is and which key opens it.

Order: arguments, `QUARTERDECK_URL` and `QUARTERDECK_KEY`, then the home folder: the one that
`QUARTERDECK_HOME` names, else the nearest `.quarterdeck` upwards, else `~/.config/quarterdeck`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quarterdeck.client.errors import ConfigurationError

HOME_NAME = ".quarterdeck"
URL_FILE = "url"
KEY_FILE = Path("keys") / "admin"
DEFAULT_URL = "http://127.0.0.1:8080"
_OTHERS, _GROUP_READS = 0o077, 0o040


@dataclass(frozen=True)
class Connection:
    """An address with the key for it; the key is not part of `repr`."""

    url: str
    key: str | None = field(repr=False)
    project: str = "default"
    home: Path | None = None


def find_home(environment: Mapping[str, str], start: Path, user_home: Path) -> Path | None:
    """The folder that holds address and key, or None when there is none yet."""
    if named := environment.get("QUARTERDECK_HOME"):
        return Path(named).expanduser().absolute()
    for folder in (start, *start.parents):
        if (folder / HOME_NAME / URL_FILE).is_file():
            return folder / HOME_NAME
    settled = user_home / ".config" / "quarterdeck"
    return settled if (settled / URL_FILE).is_file() else None


def read_key(file: Path) -> str:
    """The key in a file; raises ConfigurationError when others can read it or it is absent.

    A file that is not ours may be readable by its group, which then is how we read it: so
    Kubernetes mounts secrets for a process that is not root.
    """
    try:
        status = file.stat()
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the key in {file}: {error}") from error
    mode, ours = status.st_mode & 0o777, status.st_uid == os.geteuid()
    if mode & (_OTHERS if ours else _OTHERS & ~_GROUP_READS):
        raise ConfigurationError(
            f"{file} has mode {mode:03o}, others can read the key: run `chmod 600 {file}` (a "
            "mounted secret: defaultMode 0440), and replace the key if the machine is shared"
        )
    if not text:
        raise ConfigurationError(f"{file} is empty: run `quarterdeck login URL`")
    return text


def discover(
    environment: Mapping[str, str] | None = None,
    start: Path | None = None,
    user_home: Path | None = None,
) -> Connection:
    """Address, key and project from the environment and files.

    Raises ConfigurationError when no address is known or the key file is not private.
    """
    variables = os.environ if environment is None else environment
    home = find_home(variables, start or Path.cwd(), user_home or Path.home())
    url = variables.get("QUARTERDECK_URL")
    key = variables.get("QUARTERDECK_KEY")
    if key is None and (named := variables.get("QUARTERDECK_KEY_FILE")):
        key = read_key(Path(named))
    if url is None and home is not None and (home / URL_FILE).is_file():
        url = (home / URL_FILE).read_text(encoding="utf-8").strip()
    if url is None:
        raise ConfigurationError(
            "no Quarterdeck is known here: run `quarterdeck up` to start one on this machine, or "
            "`quarterdeck login URL`, or set QUARTERDECK_URL and QUARTERDECK_KEY"
        )
    if key is None and home is not None and (home / KEY_FILE).exists():
        key = read_key(home / KEY_FILE)
    return Connection(url, key, variables.get("QUARTERDECK_PROJECT", "default"), home)
