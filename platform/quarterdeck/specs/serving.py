"""How a service treats its clients: names, waiting, timeouts, fallback, shadow traffic."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from quarterdeck.specs.base import Name, Spec
from quarterdeck.specs.units import Seconds, Share

MOST_ALIASES = 50
_DAY = 86_400.0

AliasName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$")]
HeaderName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,100}$")]


class Admission(Spec):
    """How many requests a gateway lets through and how many may wait, by priority.

    `concurrency` is for each replica (None: what the engine batches at once, twice);
    `max_waiting` bounds those that wait in one gateway; `max_wait` is how long one may, `max_wake`
    how long while the service wakes from zero replicas.
    """

    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    max_waiting: int = Field(default=256, ge=0, le=100_000)
    max_wait: Seconds = Field(default=30.0, ge=0, le=3600)
    max_wake: Seconds = Field(default=300.0, ge=0, le=3600)


class Timeouts(Spec):
    """`per_try` is until a replica's first byte, then another one is tried; `between_tokens`
    between two pieces of an answer; `total` for all tries and the whole answer."""

    per_try: Seconds = Field(default=300.0, gt=0, le=_DAY)
    between_tokens: Seconds = Field(default=60.0, gt=0, le=_DAY)
    total: Seconds = Field(default=3600.0, gt=0, le=_DAY)


class Alias(Spec):
    """Another model name that clients may use. Several services may have the same one: `weight`
    is this one's part, and `headers` (all of them, by value) take a request here first."""

    name: AliasName
    weight: int = Field(default=1, ge=0, le=1_000_000)
    headers: dict[HeaderName, str] = Field(default={}, max_length=10)


class Mirror(Spec):
    """A copy of a share of the requests goes to another service; its answers are dropped."""

    service: Name
    share: Share = 1.0


def _aliases(value: object) -> object:
    items = value if isinstance(value, (list, tuple)) else [value]
    return [{"name": item} if isinstance(item, str) else item for item in items]


Aliases = Annotated[tuple[Alias, ...], BeforeValidator(_aliases), Field(max_length=MOST_ALIASES)]
