"""Spans of requests as a collector gets them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from quarterdeck.specs.gateway_snapshot import RouteStep

BODY = {"model": "chat", "prompt": "hi"}
USAGE = b'{"ok": true, "usage": {"prompt_tokens": 5, "completion_tokens": 7}}'
CACHED = b'{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}'
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, CLIENT, INTERNAL = 2, 3, 1
ERROR = 2


def stream(kit: Any) -> list[Any]:
    usage = b'data: {"choices":[],"usage":' + CACHED + b"}\n\n"
    return [
        kit.STREAM_HEAD, kit.chunk(kit.text_event("a")), 0.05,
        kit.chunk(kit.text_event("b") + usage + b"data: [DONE]\n\n"), kit.chunk(b""),
    ]  # fmt: skip


def test_a_stream_with_a_retry_is_one_tree_from_the_client_to_the_replica(
    api: Any, traced: Callable[..., Any], kit: Any, scripted: Any
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
    api: Any, traced: Callable[..., Any], collector: Any, kit: Any, scripted: Any,
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
    api: Any, traced: Callable[..., Any], collector: Any, kit: Any, scripted: Any
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
        kit.route("guard", guard.endpoint(), concurrency=1),
        kit.route("model", model.endpoint()),
        kit.route("chat", chain=steps),
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
    api: Any, traced: Callable[..., Any], collector: Any, kit: Any, scripted: Any
) -> None:
    broken = scripted(
        "run-1", lambda n: [kit.STREAM_HEAD, kit.chunk(kit.text_event("a")), kit.RESET]
    )
    gone = scripted("run-2", lambda n: [kit.RESET])
    at = traced(
        api, kit.route("chat", broken.endpoint()), kit.route("gone", gone.endpoint()),
    )  # fmt: skip

    def one(ask: Callable[[], Any]) -> tuple[Any, Any, list[Any]]:
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
    api: Any, traced: Callable[..., Any], kit: Any, scripted: Any
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
    api: Any, traced: Callable[..., Any], collector: Any, kit: Any, scripted: Any,
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
