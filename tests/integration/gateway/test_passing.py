"""What the gateway passes on, what it retries, and how it ends what breaks."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest

BODY = {"model": "chat", "prompt": "hi"}
STREAM = {**BODY, "stream": True}
DONE = b"data: [DONE]\n\n"


def streamed(kit: Any, *pieces: Any) -> list[Any]:
    return [kit.STREAM_HEAD, *[kit.chunk(p) if isinstance(p, bytes) else p for p in pieces]]


def test_a_stream_passes_byte_for_byte_and_headers_are_clean(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    # Events cut at every wrong place, with comments, CRLF, and characters of several bytes.
    content = kit.text_event("grüße 你好 🚀") + b": ping\n\n" + b"data: {}\r\n\r\n" + DONE
    pieces = [content[i : i + 7] for i in range(0, len(content), 7)]
    replica = scripted("run-1", lambda n: [*streamed(kit, *pieces), b"0\r\n\r\n"])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    raw = json.dumps({**STREAM, "odd": "  spaces ü"}).encode()
    with gateway.client() as client:
        answer = client.post(
            "/v1/completions",
            content=raw,
            headers={
                "content-type": "application/json",
                "x-request-id": "mine-1",
                "cookie": "a=b",
                "x-forwarded-for": "1.2.3.4",
            },
        )
    assert answer.status_code == 200
    assert answer.content == content
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-quarterdeck-replica"] == "run-1"
    first, headers, body = replica.requests[0]
    assert first == "POST /v1/completions HTTP/1.1"
    assert body == raw
    assert headers["x-request-id"] == "mine-1"
    assert kit.USER_KEY not in str(headers)
    assert not {"authorization", "cookie", "x-forwarded-for"} & set(headers)


def test_events_arrive_when_they_are_sent(api: Any, gateways: Any, scripted: Any, kit: Any) -> None:
    replica = scripted("run-1", lambda n: streamed(kit, kit.text_event("a"), kit.HANG))
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        with client.stream("POST", "/v1/completions", json=STREAM) as stream:
            lines = stream.iter_lines()
            assert json.loads(next(lines)[6:])["choices"][0]["text"] == "a"
            assert replica.left == 0
    kit.wait_until(lambda: replica.left == 1, "the upstream was not cancelled")


def test_a_client_that_leaves_before_the_first_byte_cancels_upstream(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    replica = scripted("run-1", lambda n: [kit.HANG])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client(timeout=0.3) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json=BODY)
    kit.wait_until(lambda: replica.left == 1, "the upstream was not cancelled")
    kit.wait_until(lambda: 'status="499"' in httpx.get(gateway.url + "/metrics").text, "no 499")
    assert "quarterdeck_gateway_in_flight_requests 0.0" in httpx.get(gateway.url + "/metrics").text


def test_a_client_that_leaves_after_a_large_body_cancels_upstream(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    replica = scripted("run-1", lambda n: [kit.HANG])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    body = json.dumps({**BODY, "pad": "x" * 2_000_000}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {kit.USER_KEY}\r\n"
    with ExitStack() as held:
        for _ in range(20):  # how a body is cut into pieces is the kernel's business
            client = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
            held.enter_context(client)
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode())
            time.sleep(0.02)  # the body is awaited when it comes at once
            client.sendall(body)
        kit.wait_until(lambda: len(replica.requests) == 20, "not all were passed on")
    kit.wait_until(lambda: replica.left == 20, "the upstream was not cancelled")


@pytest.mark.parametrize(
    "failure",
    ["reset", "refused", "503", "429", "head", "empty-stream", "half-event"],
)
def test_another_replica_takes_over_before_the_first_byte(
    api: Any, gateways: Any, scripted: Any, kit: Any, failure: str
) -> None:
    scripts = {
        "reset": [kit.RESET],
        "refused": [],
        "503": [kit.whole(b"{}", "503 Service Unavailable", "retry-after: 3")],
        "429": [kit.whole(b"{}", "429 Too Many Requests", "retry-after: 3")],
        "head": [b"HTTP/1.1 2", kit.RESET],
        "empty-stream": [kit.STREAM_HEAD, b"0\r\n\r\n"],
        "half-event": [*streamed(kit, b'data: {"id"'), kit.RESET],
    }
    bad = scripted("run-bad", lambda n: scripts[failure])
    good = scripted("run-good", lambda n: [*streamed(kit, kit.text_event("a"), DONE), b"0\r\n\r\n"])
    if failure == "refused":
        bad.close()
    # The bad one alone at first, so that the retry is certain to be one.
    api.publish(kit.route("chat", bad.endpoint(weight=100), good.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=STREAM)
    assert answer.status_code == 200
    assert answer.content == kit.text_event("a") + DONE
    assert answer.headers["x-quarterdeck-replica"] == "run-good"
    if failure != "refused":
        assert len(bad.requests) == 1
    metrics = httpx.get(gateway.url + "/metrics").text
    assert 'quarterdeck_gateway_retries_total{project="default",service="chat"} 1.0' in metrics


def test_a_dead_replica_does_not_draw_every_request(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    bad = scripted("run-bad", lambda n: [kit.RESET])
    good = scripted("run-good", lambda n: [kit.whole(b"{}")])
    api.publish(kit.route("chat", bad.endpoint(weight=100), good.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        for _ in range(10):
            assert client.post("/v1/completions", json=BODY).status_code == 200
    assert len(bad.requests) < 5


def test_errors_of_the_model_are_passed_on_and_not_retried(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    content = b'{"error": {"message": "too long", "code": "context_length_exceeded"}}'
    replies = {0: kit.whole(content, "400 Bad Request"), 1: kit.whole(b"{}", "500 Oops")}
    one = scripted("run-1", lambda n: [replies[n]])
    api.publish(kit.route("chat", one.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=BODY)
        assert (answer.status_code, answer.content) == (400, content)
        assert client.post("/v1/completions", json=BODY).status_code == 500
    assert len(one.requests) == 2


def test_when_every_replica_is_busy_its_own_refusal_is_passed_on(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    busy = b'{"error": {"message": "busy", "code": "engine_overloaded"}}'
    both = [
        scripted(f"run-{i}", lambda n: [kit.whole(busy, "429 Too Many", "retry-after: 7")])
        for i in (1, 2)
    ]
    api.publish(kit.route("chat", *[replica.endpoint() for replica in both]))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=BODY)
    assert (answer.status_code, answer.content) == (429, busy)
    assert answer.headers["retry-after"] == "7"
    assert [len(replica.requests) for replica in both] == [1, 1]


@pytest.mark.parametrize("end", ["reset", "half-event", "silent", "clean-without-done", "garbage"])
def test_a_stream_that_breaks_off_ends_with_an_error_event(
    api: Any, gateways: Any, scripted: Any, kit: Any, end: str
) -> None:
    ends = {
        "reset": [kit.RESET],
        "half-event": [kit.chunk(b'data: {"id": "c", "cho'), kit.RESET],
        "silent": [kit.HANG],
        "clean-without-done": [b"0\r\n\r\n"],
        "garbage": [b"zzzz\r\n", kit.HANG],
    }
    one = scripted("run-1", lambda n: [*streamed(kit, kit.text_event("a")), 0.05, *ends[end]])
    two = scripted("run-2", lambda n: [kit.whole(b"{}")])
    api.publish(kit.route("chat", one.endpoint(weight=100), two.endpoint()))
    gateway = gateways(between_timeout=0.5)
    gateway.wait_for("chat")
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=STREAM)
    events = answer.content.split(b"\n\n")
    assert events[0] + b"\n\n" == kit.text_event("a")
    assert events[2:] == [b""]
    error = json.loads(events[1].removeprefix(b"data: "))["error"]
    assert error["code"] == "stream_broken" and error["message"]
    assert not two.requests
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key=kit.USER_KEY, max_retries=0) as ai:
        stream = ai.completions.create(model="chat", prompt="x", stream=True)
        if stream.response.headers["x-quarterdeck-replica"] == "run-1":
            assert next(iter(stream)).choices[0].text == "a"
            with pytest.raises(openai.APIError, match="replica"):
                list(stream)
        stream.close()


def test_bytes_that_make_no_event_are_no_sign_of_life(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    drops = [each for _ in range(60) for each in (kit.chunk(b"x"), 0.1)]
    replica = scripted("run-1", lambda n: [*streamed(kit, kit.text_event("a")), *drops])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways(between_timeout=1.0)
    gateway.wait_for("chat")
    began = time.monotonic()
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=STREAM)
    assert b"stream_broken" in answer.content
    assert 0.9 < time.monotonic() - began < 4


@pytest.mark.parametrize("stream", [True, False])
def test_a_head_that_trickles_is_asked_of_another(
    api: Any, gateways: Any, scripted: Any, kit: Any, stream: bool
) -> None:
    drops = [each for byte in kit.STREAM_HEAD for each in (bytes([byte]), 0.2)]
    slow = scripted("run-1", lambda n: drops)
    event = kit.text_event("b") + b"data: [DONE]\n\n"
    answer = [*streamed(kit, event), b"0\r\n\r\n"] if stream else [kit.whole(b"{}")]
    other = scripted("run-2", lambda n: answer)
    api.publish(kit.route("chat", slow.endpoint(weight=1000), other.endpoint()))
    gateway = gateways(head_timeout=0.5)
    gateway.wait_for("chat")
    began = time.monotonic()
    with gateway.client() as client:
        got = client.post("/v1/completions", json=STREAM if stream else BODY)
    assert got.status_code == 200 and got.content == (event if stream else b"{}")
    assert len(slow.requests) == len(other.requests) == 1
    assert 0.4 < time.monotonic() - began < 4


def test_a_whole_answer_that_stands_still_is_asked_of_another(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    half = scripted("run-1", lambda n: [kit.whole(b'{"choices": []}')[:-5], kit.HANG])
    other = scripted("run-2", lambda n: [kit.whole(b"{}")])
    api.publish(kit.route("chat", half.endpoint(weight=1000), other.endpoint()))
    gateway = gateways(between_timeout=0.5)
    gateway.wait_for("chat")
    with gateway.client() as client:
        assert client.post("/v1/completions", json=BODY).content == b"{}"
    assert len(half.requests) == len(other.requests) == 1


def test_an_error_event_of_the_engine_is_not_doubled(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    content = kit.text_event("a") + b'data: {"error":{"message":"m"}}\n\n'
    one = scripted("run-1", lambda n: [*streamed(kit, content), b"0\r\n\r\n"])
    api.publish(kit.route("chat", one.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        assert client.post("/v1/completions", json=STREAM).content == content


def test_a_whole_answer_that_breaks_off_is_never_shown_as_complete(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    # What is larger than the gateway holds back has begun to arrive when it breaks off.
    half = kit.whole(b'{"choices": [' + b" " * 2**21 + b"]}")[:-20]
    one = scripted("run-1", lambda n: [half, 1.0, kit.RESET])
    api.publish(kit.route("chat", one.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.post("/v1/completions", json=BODY)


def test_timeouts_of_the_first_byte_and_of_the_whole(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    one = scripted("run-1", lambda n: [kit.HANG])
    api.publish(kit.route("chat", one.endpoint()))
    gateway = gateways(first_byte_timeout=0.3, total_timeout=0.6)
    gateway.wait_for("chat")
    with gateway.client() as client:
        for body in (STREAM, BODY):
            answer = client.post("/v1/completions", json=body)
            assert answer.status_code == 504
            assert answer.json()["error"]["code"] == "timeout"
    kit.wait_until(lambda: one.left == 2, "the upstream was not cancelled")


def test_requests_go_where_the_fewest_are_under_way(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    def script(number: int) -> list[Any]:
        return streamed(kit, kit.text_event("a"), kit.HANG)

    fleet = [scripted(f"run-{i}", script) for i in range(3)]
    route = kit.route("chat", *[replica.endpoint() for replica in fleet])
    route.routing.policy = "least_requests"
    api.publish(route)
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        streams = [client.stream("POST", "/v1/completions", json=STREAM) for _ in range(9)]
        for stream in streams:
            stream.__enter__()
        assert [len(replica.requests) for replica in fleet] == [3, 3, 3]
        for stream in streams:
            stream.__exit__(None, None, None)
    kit.wait_until(lambda: sum(r.left for r in fleet) == 9, "some upstreams were not cancelled")


def test_a_whole_answer_that_breaks_off_is_asked_for_elsewhere(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    half = kit.whole(b'{"choices": [' + b" " * 5000 + b"]}")[:-2000]
    sick = scripted("sick", lambda n: [half, 0.05, kit.RESET])
    well = scripted("well", lambda n: [kit.whole(b'{"ok": true}')])
    api.publish(kit.route("chat", sick.endpoint(weight=1000), well.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        for _ in range(4):
            assert client.post("/v1/completions", json=BODY).json() == {"ok": True}
    assert sick.requests


def test_an_engine_that_takes_no_connection_again_costs_nothing(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    """Engines close idle connections at any moment: a single replica's must not be an error."""
    replica = scripted("run-1", lambda n: [kit.whole(b'{"ok": true}'), *([kit.RESET] * (n % 2))])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        for _ in range(20):
            assert client.post("/v1/completions", json=BODY).json() == {"ok": True}


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: banana\r\n\r\n",
        b"HTTP/1.1 99999 X\r\n\r\n",
        b"",
    ],
)
def test_an_answer_that_is_no_http_is_a_replica_that_broke_off(
    api: Any, gateways: Any, scripted: Any, kit: Any, answer: bytes
) -> None:
    replica = scripted("run-1", lambda n: [answer, kit.RESET])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        told = client.post("/v1/completions", json=BODY)
    assert told.status_code == 503 and told.json()["error"]["code"] == "replica_unreachable"


def test_an_answer_without_a_length_ends_with_its_connection(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    plain = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + b'{"ok": true}'
    early = b"HTTP/1.1 100 Continue\r\n\r\n"
    replica = scripted("run-1", lambda n: [early, plain])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    closing = threading.Timer(0.5, replica.close)
    closing.start()
    with gateway.client() as client:
        assert client.post("/v1/completions", json=BODY).json() == {"ok": True}
    closing.join()
