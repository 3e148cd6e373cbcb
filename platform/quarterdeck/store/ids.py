"""Opaque ids and the submission order."""

from __future__ import annotations

import base64
import secrets
import threading
import time

_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """`PREFIX-` and 12 random base32 characters (60 bits), e.g. `job-5jq2v7k3m4xa`."""
    return f"{prefix}-{base64.b32encode(secrets.token_bytes(8))[:12].decode().lower()}"


def next_ordinal() -> int:
    """A submission's place: wall-clock nanoseconds, strictly rising inside this process.

    Two api replicas order by their clocks; equal places are ordered by id.
    """
    global _last
    with _lock:
        _last = max(_last + 1, time.time_ns())
        return _last
