"""W3C trace context: each request has a trace, its client's or one of its own; and whether spans
of it are wanted."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from quarterdeck.gateway.spans import Spans

_PARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")
_NOTHING = frozenset({"0" * 32, "0" * 16})
_log = logging.getLogger(__name__)


class Trace(NamedTuple):
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
    drawn = f"{random.getrandbits(192) | 1 << 64 | 1:048x}"  # neither may be zero
    found = _PARENT.match(traceparent.decode("latin-1")) if traceparent else None
    if found is None or _NOTHING & {found[1], found[2]}:
        return Trace(drawn[:32], drawn[32:], "", "01")
    return Trace(found[1], drawn[32:], found[2], found[3])


def spans_from(environment: Mapping[str, str]) -> Spans | None:
    """Where spans go by OpenTelemetry's variables; None where they name no endpoint.

    What cannot be used is logged and means none: a gateway serves without its collector.
    """
    if not _wanted(environment):
        return None
    try:
        from quarterdeck.gateway.spans import Spans

        return Spans()
    except ImportError:
        _log.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: no spans are "
            "written; pip install 'quarterdeck[tracing]'"
        )
    except Exception as error:
        _log.error("OpenTelemetry: %s: no spans are written", error)
    return None


def _wanted(environment: Mapping[str, str]) -> bool:
    def value(name: str) -> str:
        return environment.get(name, "").strip().lower()

    endpoint = value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or value("OTEL_EXPORTER_OTLP_ENDPOINT")
    off = value("OTEL_SDK_DISABLED") == "true" or value("OTEL_TRACES_EXPORTER") == "none"
    if not endpoint or off:
        return False
    protocol = value("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or value("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        _log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL is %r: no spans are written; set it to http/protobuf",
            protocol,
        )
        return False
    return True
