"""One line of JSON for each inference request, on the standard output of the gateway.

The fields are those that an operator looks for first; no text of prompts or answers, no keys.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


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
    """The record as one line; most empty fields are left out. What clients chose is either
    checked (the request's id) or encoded."""
    second = int(now)
    whence = _whence(
        record.path, record.key, record.project, record.service, record.model, record.revision,
        record.replica,
    )  # fmt: skip
    text = (
        f'{{"at":"{_moment(second)}.{int((now - second) * 1000):03d}Z",'
        f'"request_id":"{record.request_id}",{whence}"status":{record.status},'
        f'"seconds":{record.seconds:.4f}'
    )
    if record.first_byte is not None:
        text += f',"first_byte":{record.first_byte:.4f}'
    for name in _NUMBERS:
        if value := getattr(record, name):
            text += f',"{name}":{value}'
    if record.trace_id:
        text += f',"trace_id":"{record.trace_id}"'
    for name, value in _unusual(record):
        text += f',"{name}":{_encode(value)}'
    return text + "}"


_NUMBERS = ("tries", "tokens_in", "tokens_out", "tokens_cached", "bytes_in", "priority")


def _unusual(record: Record) -> Iterator[tuple[str, object]]:
    """What most requests do not have."""
    if record.error:
        yield "error", record.error
    if record.stream:
        yield "stream", True
    if record.fallback:
        yield "fallback", True
    if record.waited:
        yield "waited", round(record.waited, 4)
    if len(record.replicas) > 1:
        yield "replicas", record.replicas
    if record.overloaded:
        yield "overloaded", record.overloaded
    if record.steps:
        yield "steps", [step.told() for step in record.steps]


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


def to_stdout(text: str) -> None:
    """Write and flush."""
    sys.stdout.write(text)
    sys.stdout.flush()
