"""A collector of spans for tests, by OTLP over real HTTP, and gateways that write to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

BODY = {"model": "chat", "prompt": "hi"}
SERVER = 2


class Span:
    """One span as it was sent."""

    def __init__(self, sent: Any, resource: dict[str, Any]) -> None:
        self.name, self.kind, self.resource = sent.name, sent.kind, resource
        self.trace, self.id = sent.trace_id.hex(), sent.span_id.hex()
        self.parent = sent.parent_span_id.hex()
        self.status, self.words = sent.status.code, sent.status.message
        self.seconds = (sent.end_time_unix_nano - sent.start_time_unix_nano) / 1e9
        self.facts = _plain(sent.attributes)


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


class Collector:
    """Takes what gateways export. `answer` is called instead of taking it, where it is given."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.exports = 0
        self.headers: dict[str, str] = {}
        self.answer: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._take(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.exports += 1
        if self.answer is not None:
            self.answer(request)
            return
        assert request.path == "/v1/traces"
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        message = ExportTraceServiceRequest.FromString(body)
        for group in message.resource_spans:
            resource = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [Span(span, resource) for span in scope.spans]
        request.send_response(200)
        request.send_header("content-length", "0")
        request.end_headers()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, and the variables that name it to gateways started afterwards."""
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield collector
    collector.close()


class Traced:
    """A gateway that writes spans, and what of them has come."""

    def __init__(self, collector: Collector, gateway: Any, kit: Any) -> None:
        self.collector, self.gateway, self._kit = collector, gateway, kit

    def ask(self, body: Any = None, path: str = "/v1/completions", **headers: str) -> Any:
        with self.gateway.client() as client:
            return client.post(path, json=body or BODY, headers=headers)

    def spans(self, most: int = 1) -> tuple[Span, list[Span]]:
        """The server's span, once it and what is below it has come, and those below in order."""

        def whole() -> bool:
            return sum(span.kind == SERVER for span in self.collector.spans) >= most

        self._kit.wait_until(whole, "no span of a request came")
        (top,) = (span for span in self.collector.spans if span.kind == SERVER)
        return top, [span for span in self.collector.spans if span is not top]


@pytest.fixture
def traced(collector: Collector, gateways: Any, kit: Any) -> Callable[..., Traced]:
    """Starts a gateway that serves these routes."""

    def start(api: Any, *routes: Any) -> Traced:
        api.publish(*routes)
        gateway = gateways()
        gateway.wait_for(*(route.name for route in routes))
        return Traced(collector, gateway, kit)

    return start
