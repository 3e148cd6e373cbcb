"""One line of JSON for each inference request, on the standard output of the gateway.

The fields are those that an operator looks for first; no text of prompts or answers, no keys.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

Write = Callable[[str], None]


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
    bytes_in: int = 0
    trace_id: str = ""
    replicas: list[str] = field(default_factory=list)
    """Every replica that was tried, in order."""


def line(record: Record, now: float) -> str:
    """The record as one line; empty fields are left out."""
    shown: dict[str, object] = {
        "at": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    }
    for name, value in vars(record).items():
        rounded = round(value, 4) if isinstance(value, float) else value
        if name == "status" or rounded not in ("", 0, None, False, []):
            shown[name] = rounded
    if len(record.replicas) < 2:
        shown.pop("replicas", None)
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":"))


def to_stdout(text: str) -> None:
    """Write a line; a closed or full pipe must not fail a request."""
    with suppress(OSError, ValueError):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
