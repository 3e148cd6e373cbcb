"""W3C trace context: each request has a trace, its client's or one of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

_PARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")
_NOTHING = frozenset({"0" * 32, "0" * 16})


@dataclass(frozen=True)
class Trace:
    """`span_id` is the gateway's own part of the trace, `parent_id` its client's ("": none)."""

    trace_id: str
    span_id: str
    parent_id: str
    flags: str

    @property
    def header(self) -> str:
        """The `traceparent` for the replica."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def trace_of(traceparent: bytes | None, random: Random) -> Trace:
    """The trace that a request belongs to; a malformed header starts a new one, as the
    specification wants (https://www.w3.org/TR/trace-context/)."""
    span = f"{random.getrandbits(64) or 1:016x}"
    found = _PARENT.match(traceparent.decode("latin-1")) if traceparent else None
    if found is None or _NOTHING & {found[1], found[2]}:
        return Trace(f"{random.getrandbits(128) or 1:032x}", span, "", "01")
    return Trace(found[1], span, found[2], found[3])
