"""What a gateway tells the api once a second."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from quarterdeck.specs.base import NAME_PATTERN, Message

TTFT_BUCKETS_S = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0,
    120.0, 300.0,
)  # fmt: skip
"""Upper bounds, in seconds, of the buckets in which gateways count times to the first token."""
MOST_REVISIONS = 2000
"""Revisions that one report may tell of."""
MOST_KEYS = 5000
_Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class RevisionObservation(Message):
    """One revision of one service in one window. `errors` are answers of 5xx and broken streams;
    4xx are the client's. `ttft` counts times to the first token by the index of their bucket (the
    bounds are TTFT_BUCKETS_S), `ttft_seconds` sums them."""

    project: str = Field(pattern=NAME_PATTERN)
    service: str = Field(pattern=NAME_PATTERN)
    revision: _Count = 0
    requests: _Count = 0
    errors: _Count = 0
    ttft: dict[Annotated[int, Field(ge=0, le=100)], _Count] = Field(default={}, max_length=101)
    ttft_seconds: float = Field(default=0.0, ge=0, le=1e12, allow_inf_nan=False)
    in_flight: _Count = 0
    waiting: _Count = 0
    tokens_in: _Count = 0
    tokens_out: _Count = 0


class GatewayObservations(Message):
    """POST /api/v1/gateway/observations: what one gateway process saw in `seconds`. A report with
    a `seq` that was stored already changes nothing."""

    gateway: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    seq: int = Field(ge=1, le=2**53)
    seconds: float = Field(default=1.0, ge=0, le=86400, allow_inf_nan=False)
    revisions: list[RevisionObservation] = Field(default=[], max_length=MOST_REVISIONS)
    demand: dict[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], float] = Field(
        default={}, max_length=MOST_KEYS
    )
    """By the digest of each key with limits: what it asked of this gateway, refused or not, in
    tokens (requests, where only these are limited) a second."""


class Wake(Message):
    """POST /api/v1/gateway/wake: requests wait for a service that is at zero replicas."""

    project: str = Field(pattern=NAME_PATTERN)
    service: str = Field(pattern=NAME_PATTERN)


class GatewayShares(Message):
    """The answer: this gateway's part of each key's limits from now on, and how many gateways
    share those that are not named."""

    gateways: int = 1
    shares: dict[str, float] = {}
