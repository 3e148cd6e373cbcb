"""What a gateway is told at its start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GatewaySettings:
    """Times are seconds, sizes bytes, the rest counts.

    `key_path` names a file with the key for the api's snapshot (access agent or admin), read anew
    for each poll so that it can be rotated. `snapshot_path` is where the last snapshot is kept.
    """

    api_url: str
    key_path: Path
    snapshot_path: Path
    host: str = "127.0.0.1"
    port: int = 8081
    snapshot_wait: float = 20.0
    """How long the api may hold a poll."""
    max_in_flight: int = 5000
    max_connections: int = 10_000
    max_body: int = 8 * 2**20
    max_bodies: int = 2**30
    """For the bodies of all requests under way, with their parsed forms."""
    max_header: int = 64 * 2**10
    header_timeout: float = 10.0
    """From the connection, or a request's first byte, to the end of its headers."""
    reader_timeout: float = 60.0
    """For a client to take 64 KiB of what was written for it, or all that is left."""
    body_timeout: float = 30.0
    """For a whole request body."""
    connect_timeout: float = 2.0
    head_timeout: float = 10.0
    """From the first byte of a replica's answer to the end of its head, which servers write in one
    piece."""
    first_byte_timeout: float = 300.0
    """Until a stream's first event; answers that do not stream have the total time."""
    between_timeout: float = 60.0
    """Between two pieces of an answer, and for a client to take one."""
    total_timeout: float = 3600.0
    keep_alive_timeout: float = 75.0
    shutdown_timeout: int = 30
