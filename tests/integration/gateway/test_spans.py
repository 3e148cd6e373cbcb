"""Spans of requests as a collector gets them, by OTLP over real HTTP; and collectors that fail."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from quarterdeck.specs.gateway_snapshot import RouteStep

BODY = {"model": "chat", "prompt": "hi"}
USAGE = b'{"ok": true, "usage": {"prompt_tokens": 5, "completion_tokens": 7}}'
CACHED = b'{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}'
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, CLIENT, INTERNAL = 2, 3, 1
ERROR = 2


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


def routed(kit: Any, name: str, *endpoints: Any, **values: Any) -> Any:
    plain = kit.route(name, *endpoints)
    return type(plain).model_validate({**plain.model_dump(), **values})


def stream(kit: Any) -> list[Any]:
    usage = b'data: {"choices":[],"usage":' + CACHED + b"}\n\n"
    return [
        kit.STREAM_HEAD, kit.chunk(kit.text_event("a")), 0.05,
        kit.chunk(kit.text_event("b") + usage + b"data: [DONE]\n\n"), kit.chunk(b""),
    ]  # fmt: skip


def test_a_stream_with_a_retry_is_one_tree_from_the_client_to_the_replica(
    api: Any, traced: Callable[..., Traced], kit: Any, scripted: Any
) -> None:
    first = iter([[kit.whole(b"{}", "503 Busy")]])
    script = lambda _: next(first, stream(kit))  # noqa: E731 (whoever is asked first is busy)
    replicas = [scripted(name, script) for name in ("run-1", "run-2")]
    at = traced(api, kit.route("chat", *(one.endpoint(revision=4) for one in replicas)))
    answer = at.ask(
        {**BODY, "stream": True}, traceparent=f"00-{TRACE}-{PARENT}-01", **{"x-request-id": "mine"}
    )
    assert answer.status_code == 200
    top, tries = at.spans()
    assert (top.name, top.trace, top.parent) == ("POST /v1/completions", TRACE, PARENT)
    assert top.status == 0
    expected = {
        "http.request.method": "POST", "http.route": "/v1/completions", "url.scheme": "http",
        "http.response.status_code": 200, "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "chat", "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 4, "quarterdeck.service": "chat",
        "quarterdeck.project": "default", "quarterdeck.request_id": "mine",
        "quarterdeck.key": "user", "quarterdeck.tries": 2, "quarterdeck.revision": 4,
    }  # fmt: skip
    assert expected.items() <= top.facts.items()
    assert 0 < top.facts["gen_ai.response.time_to_first_chunk"] < top.seconds
    assert (top.resource["service.name"], "service.version" in top.resource) == (
        "quarterdeck-gateway", True,
    )  # fmt: skip

    busy, good = tries
    for one in tries:
        assert (one.name, one.kind, one.trace, one.parent) == (
            "POST /v1/completions", CLIENT, TRACE, top.id,
        )  # fmt: skip
        replica = next(r for r in replicas if r.run_id == one.facts["quarterdeck.replica"])
        assert one.facts["server.port"] == replica.port
        # What the replica does belongs under the try that reached it.
        assert replica.requests[-1][1]["traceparent"] == f"00-{TRACE}-{one.id}-01"
    assert busy.facts["quarterdeck.replica"] != good.facts["quarterdeck.replica"]
    assert (busy.status, busy.facts["error.type"]) == (ERROR, "503")
    assert "http.request.resend_count" not in busy.facts
    assert (good.status, good.facts["http.response.status_code"]) == (0, 200)
    assert good.facts["http.request.resend_count"] == 1


@pytest.mark.parametrize(
    ("sampler", "argument", "flags", "passed"),
    [
        ("", "", "00", "00"),
        ("", "", "01", "01"),
        ("", "", None, "01"),
        ("parentbased_always_off", "", None, "00"),
        ("parentbased_always_off", "", "01", "01"),
        ("always_off", "", "01", "00"),
        ("traceidratio", "0", "01", "00"),
        ("nonsense", "", None, "01"),
    ],
)
def test_who_decides_what_is_sampled(
    api: Any, traced: Callable[..., Traced], collector: Collector, kit: Any, scripted: Any,
    monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str, flags: str | None, passed: str,
) -> None:  # fmt: skip
    if sampler:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    replica = scripted("run-1", lambda n: [kit.whole(USAGE)])
    at = traced(api, kit.route("chat", replica.endpoint()))
    given = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"} if flags else {}
    assert at.ask(**given).status_code == 200
    _, trace, _, found = replica.requests[0][1]["traceparent"].split("-")
    assert int(found, 16) & 1 == int(passed, 16)
    assert trace == TRACE or not flags
    at.gateway.close()  # sends what there is
    assert len(collector.spans) == (2 if passed == "01" else 0)


def test_waiting_and_steps_of_chains_have_spans_of_their_own(
    api: Any, traced: Callable[..., Traced], collector: Collector, kit: Any, scripted: Any
) -> None:
    verdict = b'{"choices":[{"message":{"role":"assistant","content":"safe"}}]}'
    guard = scripted("guard-1", lambda n: [0.3, kit.whole(verdict)])
    model = scripted("model-1", lambda n: [kit.whole(USAGE)])
    steps = [
        RouteStep.model_validate({"role": "guard", "service": "guard", "refuse_when": "unsafe"}),
        RouteStep.model_validate({"role": "model", "service": "model"}),
    ]
    at = traced(
        api,
        routed(kit, "guard", guard.endpoint(), concurrency=1),
        kit.route("model", model.endpoint()),
        routed(kit, "chat", chain=steps),
    )
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    asking = [
        threading.Thread(target=at.ask, args=(body, "/v1/chat/completions")) for _ in range(2)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    kit.wait_until(lambda: len(collector.spans) == 11, "spans are missing")
    by_id = {span.id: span for span in collector.spans}
    (waited,) = (span for span in collector.spans if span.name == "wait for a place")
    step = by_id[waited.parent]
    assert (step.name, step.kind, step.facts) == (
        "chain step", INTERNAL, {"quarterdeck.service": "guard"},
    )  # fmt: skip
    assert 0 < waited.seconds < step.seconds
    top = by_id[step.parent]
    assert (top.kind, top.facts["gen_ai.operation.name"]) == (SERVER, "chat")
    tries = [span for span in collector.spans if span.kind == CLIENT]
    assert sorted(by_id[one.parent].facts["quarterdeck.service"] for one in tries) == [
        "guard", "guard", "model", "model",
    ]  # fmt: skip
    assert {by_id[one.parent].name for one in tries} == {"chain step"}


def test_failures_are_told_on_the_span_that_failed(
    api: Any, traced: Callable[..., Traced], collector: Collector, kit: Any, scripted: Any
) -> None:
    broken = scripted(
        "run-1", lambda n: [kit.STREAM_HEAD, kit.chunk(kit.text_event("a")), kit.RESET]
    )
    gone = scripted("run-2", lambda n: [kit.RESET])
    at = traced(
        api, kit.route("chat", broken.endpoint()), kit.route("gone", gone.endpoint()),
    )  # fmt: skip

    def one(ask: Callable[[], Any]) -> tuple[Any, Span, list[Span]]:
        collector.spans.clear()
        answer = ask()
        return (answer, *at.spans())

    _, top, (attempt,) = one(lambda: at.ask({**BODY, "stream": True}))
    for span in (top, attempt):
        assert (span.status, span.facts["error.type"]) == (ERROR, "stream_broken")
    answer, top, (attempt,) = one(lambda: at.ask({**BODY, "model": "gone"}))
    assert answer.status_code == 503
    assert (top.status, top.facts["error.type"]) == (ERROR, "503")
    assert "broke off before it answered" in top.words
    assert (attempt.status, attempt.facts["error.type"]) == (ERROR, "replica_unreachable")
    _, top, below = one(lambda: at.ask({**BODY, "model": "nothing"}))
    # The client's own fault is no error of ours.
    assert (top.status, top.facts["error.type"], below) == (0, "404", [])
    assert "quarterdeck.service" not in top.facts


def test_a_client_that_leaves_is_told(
    api: Any, traced: Callable[..., Traced], kit: Any, scripted: Any
) -> None:
    replica = scripted(
        "run-1", lambda n: [kit.STREAM_HEAD, kit.chunk(kit.text_event("a")), kit.HANG]
    )
    at = traced(api, kit.route("chat", replica.endpoint()))
    with at.gateway.client() as client:
        with client.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as answer:
            next(answer.iter_bytes())
    top, (attempt,) = at.spans()
    assert top.facts["error.type"] == attempt.facts["error.type"] == "client_left"
    assert "http.response.status_code" not in top.facts and top.status == 0


def test_variables_name_the_service_headers_and_what_else_is_standard(
    api: Any, traced: Callable[..., Traced], collector: Collector, kit: Any, scripted: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    replica = scripted("run-1", lambda n: [kit.whole(USAGE)])
    at = traced(api, kit.route("chat", replica.endpoint()))
    at.ask()
    top, _ = at.spans()
    assert top.parent == ""
    assert top.resource["service.name"] == "front"
    assert top.resource["deployment.environment.name"] == "test"
    assert collector.headers["x-tenant"] == "blue"


def _hang(collector: Collector) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        collector.closing.wait(60)
        request.close_connection = True

    return answer


def _garbage(collector: Collector) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"\x00\xff not HTTP at all\r\n\r\n")
        request.close_connection = True

    return answer


def _refuse(collector: Collector) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(503)
        request.send_header("content-length", "7")
        request.end_headers()
        request.wfile.write(b"\xff\xfe\x00oops")

    return answer


@pytest.mark.parametrize("collecting", [None, _hang, _garbage, _refuse])
def test_a_collector_that_fails_harms_no_request(
    api: Any, traced: Callable[..., Traced], collector: Collector, kit: Any, scripted: Any,
    monkeypatch: pytest.MonkeyPatch,
    collecting: Callable[[Collector], Callable[[BaseHTTPRequestHandler], None]] | None,
) -> None:  # fmt: skip
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    if collecting is None:  # nobody listens there
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    else:
        collector.answer = collecting(collector)
    replica = scripted("run-1", lambda n: [kit.whole(USAGE)])
    at = traced(api, kit.route("chat", replica.endpoint()))
    with at.gateway.client() as client:
        for _ in range(100):  # 200 spans for a queue of 16
            assert client.post("/v1/completions", json=BODY).status_code == 200
    if collecting is not None:
        kit.wait_until(lambda: collector.exports > 0, "nothing was tried")
    at.gateway.close()  # asserts that it ends
    if collecting is None:
        return
    collector.answer = None  # a collector that is well again gets what comes then
    again = traced(api, kit.route("chat", replica.endpoint()))
    again.ask()
    again.spans()


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True,
        text=True, timeout=60, check=True,
    )  # fmt: skip


MAKE = """
import sys
from pathlib import Path
from quarterdeck.gateway.app import create_app
from quarterdeck.gateway.settings import GatewaySettings
create_app(GatewaySettings("http://127.0.0.1:9", Path("key"), Path("snapshot")))
print(any(name.split(".")[0] == "opentelemetry" for name in sys.modules))
"""


@pytest.mark.parametrize(
    ("environment", "loaded", "said"),
    [
        ({}, "False", ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, "False", ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, "True", ""),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
            "False", "",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
            "False", "",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
             "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "False", "set it to http/protobuf",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
             "OTEL_BSP_MAX_QUEUE_SIZE": "-1"},
            "True", "max_queue_size must be a positive integer",
        ),
    ],
)  # fmt: skip
def test_without_an_endpoint_nothing_of_it_is_loaded(
    environment: dict[str, str], loaded: str, said: str
) -> None:
    found = _python(MAKE, **environment)
    assert found.stdout.strip() == loaded
    assert (said in found.stderr) if said else found.stderr == ""


def test_an_installation_without_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None" + MAKE.rpartition("print")[0]
    found = _python(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert "pip install 'quarterdeck[tracing]'" in found.stderr
