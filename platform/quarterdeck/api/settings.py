"""What one api process needs to know; time and randomness come in here."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from quarterdeck.store.sessions import Database


def utc_now() -> datetime:
    """The machine's clock, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class ApiSettings:
    """Settings of `create_app`. Sizes are bytes, times seconds.

    `api_url` is where supervisors reach this api; `master_key` is the Fernet key that encrypts
    secrets at rest. Neither credential appears in `repr`.
    """

    database: Database
    artifacts_uri: str
    api_url: str
    master_key: str = field(repr=False)
    artifacts_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    clock: Callable[[], datetime] = utc_now
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    body_limit: int = 10_000_000
    machine_body_limit: int = 64_000_000
    """Of beats: logs and metrics that piled up while the api was away."""
    upload_limit: int = 2 * 2**30
    """Of one uploaded artifact."""
    upload_seconds: float = 3600.0
    """An upload must have ended after this, and never be silent for `body_seconds`."""
    max_connections: int = 4096
    max_header: int = 64 * 2**10
    header_timeout: float = 10.0
    """From the connection, or a request's first byte, to the end of its headers."""
    reader_timeout: float = 600.0
    """For a client to take 64 KiB of what was written for it: somebody who reads a log in a pager
    stops for a while."""
    body_seconds: float = 30.0
    """A body must have arrived after this."""
    answer_seconds: float = 60.0
    """An answer must have begun after this."""
    poll_seconds: float = 0.25
    """Between looks at the outbox, while somebody waits."""
    keep_alive_seconds: float = 10.0
    longest_wait: float = 25.0
    """Of a long poll."""
    longest_stream: float = 3600.0
    """Then a stream ends, and its reader comes back with Last-Event-ID and a valid key."""
    max_streams: int = 200
    """Streams and long polls at once."""
    run_key_grace: float = 900.0
    """A run's key still reaches its beat this long after the run's end: replay."""
    stall_after: float = 300.0
    stall_after_first: float = 600.0
    idempotency_days: float = 7.0
