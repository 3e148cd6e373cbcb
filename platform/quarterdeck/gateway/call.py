"""What is passed on to a replica, and how a try of it ends without an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quarterdeck.gateway.access_log import Record
from quarterdeck.gateway.asgi import Headers
from quarterdeck.gateway.cycle import Cycle
from quarterdeck.gateway.errors import ApiError

NEVER = float("inf")


# Not frozen, which would double the cost of what is made for each request.
@dataclass(slots=True)
class Call:
    """What is passed on. `stream` is what the client asked for; `began` is on the loop's clock;
    `record` is told what becomes of it; `asked` is the body as routing reads it."""

    path: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    stream: bool
    record: Record
    began: float
    asked: Mapping[str, Any]
    traceparent: str = ""
    explain: bool = False
    revision: int | None = None
    """The revision that an operator wants."""
    until: float = NEVER
    """When it is given up at the latest, on the loop's clock."""
    inner: bool = False
    """A chain asks: what stands in for the service may not be a chain again."""
    direct: Cycle | None = None
    """Who gets the answer, where nobody in between must see it."""

    def for_another(self, body: bytes) -> Call:
        """The same call to another service, which has other revisions."""
        return replace(self, body=body, revision=None)


@dataclass(frozen=True, slots=True)
class Failure:
    """A try that ended before its first byte: an error of ours, or the replica's own answer."""

    error: ApiError | None = None
    status: int = 0
    headers: Headers | None = None
    body: bytes = b""
    lost: bool = False
    """The replica went away."""
