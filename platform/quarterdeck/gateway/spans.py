"""OpenTelemetry: what the standard environment variables ask for, and how spans are written.

Only imported where tracing is wanted: without it a gateway needs nothing of OpenTelemetry.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

import quarterdeck
from quarterdeck.gateway.asgi import ClientGone
from quarterdeck.gateway.errors import ApiError

NAME = "quarterdeck-gateway"
_UNKNOWN = "unknown_service"
LEFT = "client_left"


class Spans:
    """Makes spans and sends them in batches from a thread of its own; what the collector does not
    take in time is dropped. The SDK reads the environment variables."""

    def __init__(self) -> None:
        """Raises ValueError and the like for variables that cannot be understood."""
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer: Tracer = self._provider.get_tracer("quarterdeck.gateway")

    def close(self, seconds: float) -> None:
        """Send what is left, for so many seconds at most; blocks."""
        ending = threading.Thread(target=self._provider.shutdown, name="spans-end", daemon=True)
        ending.start()
        ending.join(seconds)


def _resource() -> Resource:
    """What the environment says of the service, with our name where it gives none."""
    found = Resource.create({SERVICE_VERSION: quarterdeck.__version__})
    if str(found.attributes.get(SERVICE_NAME, _UNKNOWN)).startswith(_UNKNOWN):
        found = found.merge(Resource({SERVICE_NAME: NAME}))
    return found


@contextmanager
def spanned(
    tracer: Tracer, name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]
) -> Iterator[Span]:
    """A span around the block, under the present one; errors that leave the block are its own."""
    with tracer.start_as_current_span(
        name, kind=kind, attributes=attributes, record_exception=False,
        set_status_on_exception=False,
    ) as span:  # fmt: skip
        try:
            yield span
        except ApiError as error:
            failed(span, error.code or str(error.status), str(error))
            raise
        except (ClientGone, asyncio.CancelledError):
            span.set_attribute("error.type", LEFT)
            raise


def failed(span: Span, kind: str, why: str) -> None:
    """Mark a span as failed; `kind` is one of few words."""
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, why))


def traceparent(context: SpanContext) -> str:
    """The header that makes a span the parent of what the next process does."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
