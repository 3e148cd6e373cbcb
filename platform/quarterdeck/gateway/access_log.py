"""One line of JSON for each inference request, on the standard output of the gateway.

The fields are those that an operator looks for first; no text of prompts or answers, no keys.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring as _quoted
from typing import Any, Literal

Write = Callable[[str], None]
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_MOST_LINES = 256
_SECONDS = 0.1


class Record:
    """What is known of one request when it ends. Times are seconds, sizes bytes."""

    # A record keeps of its own only what differs from these: one is made for each request.
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
    overloaded: Sequence[str] = ()
    """The replicas that answered 429: they work, and have no room."""
    steps: Sequence[Step] = ()
    """Of a chain: what each step was, in order."""
    explanation: bytes = b""
    """Why this replica, for who asked; not in the line."""

    def __init__(self, request_id: str, path: str, **known: Any) -> None:
        self.request_id = request_id
        self.path = path
        self.replicas: list[str] = []
        """Every replica that was tried, in order."""
        for name, value in known.items():
            setattr(self, name, value)


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
    parts = [
        f'{{"at":"{_moment(second)}.{int((now - second) * 1000):03d}Z",'
        f'"request_id":{_quoted(record.request_id)},'
        + _whence(
            record.path, record.key, record.project, record.service, record.model,
            record.revision, record.replica,
        )
        + f'"status":{record.status}'
    ]  # fmt: skip
    if record.error:
        parts.append(f'"error":{_quoted(record.error)}')
    if record.stream:
        parts.append('"stream":true')
    if record.tries:
        parts.append(f'"tries":{record.tries}')
    if record.fallback:
        parts.append('"fallback":true')
    if record.priority:
        parts.append(f'"priority":{record.priority}')
    if waited := round(record.waited, 4):
        parts.append(f'"waited":{waited}')
    if first_byte := round(record.first_byte or 0.0, 4):
        parts.append(f'"first_byte":{first_byte}')
    if seconds := round(record.seconds, 4):
        parts.append(f'"seconds":{seconds}')
    if record.tokens_in:
        parts.append(f'"tokens_in":{record.tokens_in}')
    if record.tokens_out:
        parts.append(f'"tokens_out":{record.tokens_out}')
    if record.tokens_cached:
        parts.append(f'"tokens_cached":{record.tokens_cached}')
    if record.bytes_in:
        parts.append(f'"bytes_in":{record.bytes_in}')
    if record.trace_id:
        parts.append(f'"trace_id":"{record.trace_id}"')
    if len(record.replicas) > 1:
        parts.append(f'"replicas":{_encode(record.replicas)}')
    if record.overloaded:
        parts.append(f'"overloaded":{_encode(record.overloaded)}')
    if record.steps:
        parts.append(f'"steps":{_encode([step.told() for step in record.steps])}')
    return ",".join(parts) + "}"


@lru_cache(maxsize=1024)
def _whence(
    path: str, key: str, project: str, service: str, model: str, revision: int, replica: str
) -> str:
    """The part of a line that most requests share with others, a comma behind each field."""
    fields = {
        "path": path, "key": key, "project": project, "service": service, "model": model,
        "revision": revision, "replica": replica,
    }  # fmt: skip
    return "".join(f'"{name}":{_encode(value)},' for name, value in fields.items() if value)


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
