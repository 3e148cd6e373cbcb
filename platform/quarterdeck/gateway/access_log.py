"""One line of JSON for each inference request, on the standard output of the gateway.

The fields are those that an operator looks for first; no text of prompts or answers, no keys.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

Write = Callable[[str], None]
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_MOST_LINES = 256
_SECONDS = 0.1


@dataclass
class Record:
    """What is known of one request when it ends. Times are seconds, sizes bytes."""

    request_id: str
    path: str
    key: str = ""
    project: str = ""
    service: str = ""
    model: str = ""
    revision: int = 0
    replica: str = ""
    status: int = 499
    error: str = ""
    stream: bool = False
    tries: int = 0
    fallback: bool = False
    priority: int = 0
    waited: float = 0.0
    first_byte: float | None = None
    seconds: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int | None = None
    bytes_in: int = 0
    trace_id: str = ""
    replicas: list[str] = field(default_factory=list)
    """Every replica that was tried, in order."""
    overloaded: list[str] = field(default_factory=list)
    """Those of them that answered 429: they work, and have no room."""
    steps: list[Step] = field(default_factory=list)
    """Of a chain: what each step was, in order."""
    explanation: bytes = b""
    """Why this replica, for who asked; not in the line."""


Outcome = Literal["answered", "passed", "refused", "failed", "skipped", "left"]


@dataclass
class Step:
    """One step of a chain; `record` is that of its own request, which has no line. `documents`:
    how many it handed on."""

    role: str
    service: str
    record: Record
    outcome: Outcome = "left"
    documents: int | None = None

    def told(self) -> dict[str, object]:
        """What people are told of it; empty fields are left out."""
        record = self.record
        fields: dict[str, object] = {
            "step": self.role, "service": self.service, "outcome": self.outcome,
            "seconds": round(record.seconds, 4), "status": record.status,
            "replica": record.replica, "error": record.error, "documents": self.documents,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value not in ("", None)}


def line(record: Record, now: float) -> str:
    """The record as one line; empty fields are left out."""
    second = int(now)
    shown: dict[str, object] = {"at": f"{_moment(second)}.{int((now - second) * 1000):03d}Z"}
    for name, value in vars(record).items():
        told = round(value, 4) if type(value) is float else value
        if told or name == "status":
            shown[name] = told
    shown.pop("explanation", None)
    if record.steps:
        shown["steps"] = [step.told() for step in record.steps]
    if len(record.replicas) < 2:
        shown.pop("replicas", None)
    return _encode(shown)


@lru_cache(maxsize=2)
def _moment(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Lines:
    """Writes lines in bunches: after a tenth of a second, or when many have come.

    `write` takes the text of whole lines. A pipe that is closed must not fail a request.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, text: str) -> None:
        """Write a line soon."""
        self._lines.append(text)
        if len(self._lines) >= _MOST_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what there is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if lines:
            with suppress(OSError, ValueError):
                self._write("\n".join(lines) + "\n")


def to_stdout(text: str) -> None:
    """Write and flush."""
    sys.stdout.write(text)
    sys.stdout.flush()
