"""`report()` for users' own scripts: a no-op wherever no host actor listens."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

REPORT_SOCKET = "QUARTERDECK_REPORT_SOCKET"
STACKS = "QUARTERDECK_STACKS"
_SEND_SECONDS = 5.0


class _Reporter:
    """The connection of one process; a fork makes its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = -1
        self._connection: socket.socket | None = None

    def send(self, message: Mapping[str, object]) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._connection = _connect()
            if self._connection is None:
                return
            try:
                self._connection.sendall(json.dumps(message, default=str).encode() + b"\n")
            except OSError:
                self._connection.close()
                self._connection = None


def _connect() -> socket.socket | None:
    path = os.environ.get(REPORT_SOCKET)
    if not path:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_SEND_SECONDS)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        return None
    if threading.current_thread() is threading.main_thread() and (stacks := os.environ.get(STACKS)):
        faulthandler.register(signal.SIGUSR1, Path(stacks).open("a", encoding="utf-8"))  # noqa: SIM115
        hello = {"type": "hello", "pid": os.getpid()}
        connection.sendall(json.dumps(hello).encode() + b"\n")
    return connection


_reporter = _Reporter()


def report(
    step: int,
    metrics: Mapping[str, float] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    steps_total: int | None = None,
    seconds: float = 0.0,
) -> None:
    """Tell the platform that `step` is done; outside of it this does nothing.

    `metrics` are kept per step. `checkpoint` (of rank 0) is a folder of complete files that stays
    as it is until the next one is reported: the platform copies it to the artifact store and
    gives it to the next attempt as `$QUARTERDECK_RESUME_DIR`, with `$QUARTERDECK_RESUME_STEP`.
    `seconds` is the productive time of the step, for goodput.
    """
    _reporter.send(
        {
            "type": "step", "at": time.time(), "step": int(step), "seconds": float(seconds),
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
            "steps_total": steps_total,
        }
    )  # fmt: skip
    if checkpoint is not None:
        folder = str(Path(checkpoint).absolute())
        _reporter.send({"type": "checkpoint_folder", "step": int(step), "folder": folder})
