"""Whether a process of the platform is well, for the checks of containers and pods.

    python -m quarterdeck.processes.health http://127.0.0.1:8080/readyz
    python -m quarterdeck.processes.health agent

Exit code 0 and 1. It runs every few seconds beside its process, so it imports next to nothing: a
tenth of what starting the command line costs.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ANSWER_S = 3.0
FRESH_S = 60.0
"""An agent that no api answers is not well, which is no reason to end it: its ranks go on."""


def pulse_file(home: Path, process: str) -> Path:
    """What `agent`, which listens nowhere, touches while it works."""
    return home / f"{process}.pulse"


class Pulse:
    """Touches a file, once a second at most; that of an earlier process is removed. A file that
    cannot be written stays old: that tells enough, and must not end the process."""

    def __init__(self, file: Path) -> None:
        with suppress(OSError):
            file.unlink()
        self._file = file
        self._touched = 0.0

    def __call__(self) -> None:
        """The process is at work."""
        now = time.monotonic()
        if now - self._touched >= 1.0:
            self._touched = now
            with suppress(OSError):
                self._file.touch(mode=0o600)


def ailment(subject: str, environment: Mapping[str, str], now: float) -> str | None:
    """What is wrong with a process, named by its address or as `agent`; None: nothing.
    `now` in seconds since 1970, as files' times are."""
    if "://" in subject:
        return _silent(subject)
    home = environment.get("QUARTERDECK_HOME")
    if not home:
        return "QUARTERDECK_HOME is not set"
    file = pulse_file(Path(home), subject)
    try:
        age = now - file.stat().st_mtime
    except OSError as error:
        return f"{file}: {error.strerror}: the {subject} has not begun its work"
    if age > FRESH_S:
        return f"the {subject} has shown no sign of life for {age:.0f} s"
    return None


def _silent(url: str) -> str | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ANSWER_S):
            return None
    except urllib.error.HTTPError as error:
        with error:
            detail = error.read(500).decode(errors="replace")
        return f"{url} answers {error.code}: {detail}"
    except (OSError, ValueError) as error:
        return f"{url} does not answer: {error}"


def main(arguments: Sequence[str]) -> int:
    """Tell on stdout; the exit code."""
    if len(arguments) != 1:
        print("usage: python -m quarterdeck.processes.health URL|agent")
        return 2
    found = ailment(arguments[0], os.environ, time.time())
    print(found or "well")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
