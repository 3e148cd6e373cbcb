"""Collectors of spans that fail, and gateways without one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

BODY = {"model": "chat", "prompt": "hi"}
USAGE = b'{"ok": true, "usage": {"prompt_tokens": 5, "completion_tokens": 7}}'


def _hang(collector: Any) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        collector.closing.wait(60)
        request.close_connection = True

    return answer


def _garbage(collector: Any) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"\x00\xff not HTTP at all\r\n\r\n")
        request.close_connection = True

    return answer


def _refuse(collector: Any) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(503)
        request.send_header("content-length", "7")
        request.end_headers()
        request.wfile.write(b"\xff\xfe\x00oops")

    return answer


@pytest.mark.parametrize("collecting", [None, _hang, _garbage, _refuse])
def test_a_collector_that_fails_harms_no_request(
    api: Any, traced: Callable[..., Any], collector: Any, kit: Any, scripted: Any,
    monkeypatch: pytest.MonkeyPatch,
    collecting: Callable[[Any], Callable[[BaseHTTPRequestHandler], None]] | None,
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
