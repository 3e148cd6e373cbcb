"""Places for requests: waiting by priority, for replicas, and for a service that wakes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.integration.gateway.gates import BODY, USAGE, Gate, code_of, metric


def test_requests_wait_by_priority_and_the_low_give_way(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    gate = Gate(scripted, kit)
    api.publish(kit.route("chat", gate.replica.endpoint(), concurrency=1, max_waiting=2))
    gateway = gateways()
    gateway.wait_for("chat")
    with ThreadPoolExecutor(8) as pool:

        def ask(priority: str) -> Any:
            def work() -> httpx.Response:
                with gateway.client() as client:
                    headers = {"x-quarterdeck-priority": priority}
                    return client.post("/v1/completions", json=BODY, headers=headers)

            return pool.submit(work)

        def wait_for(count: int) -> None:
            start = "quarterdeck_gateway_waiting_requests{"
            kit.wait_until(lambda: metric(gateway.url, start) == count, "never waited")

        first = ask("normal")
        gate.holds(1)
        waiting = [ask("normal")]
        wait_for(1)
        waiting.append(ask("normal"))
        wait_for(2)
        refused = ask("normal").result(10)
        assert (refused.status_code, code_of(refused)) == (429, "too_many_waiting")
        assert int(refused.headers["retry-after"]) >= 1
        favoured = ask("high")
        evicted = waiting[1].result(10)
        assert (evicted.status_code, code_of(evicted)) == (429, "too_many_waiting")
        gate.open()
        for answer in (first, waiting[0], favoured):
            assert answer.result(10).status_code == 200
    assert metric(gateway.url, "quarterdeck_gateway_waiting_seconds_count") == 2


def test_who_waits_too_long_is_told_and_more_replicas_let_more_in(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    gate, other = Gate(scripted, kit), Gate(scripted, kit, "run-2")
    other.open()
    endpoint = gate.replica.endpoint()
    api.publish(kit.route("chat", endpoint, concurrency=1, max_wait=0.3))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client, ThreadPoolExecutor(4) as pool:
        held = pool.submit(client.post, "/v1/completions", json=BODY)
        gate.holds(1)
        late = client.post("/v1/completions", json=BODY)
        assert (late.status_code, code_of(late)) == (503, "waited_too_long")
        api.publish(kit.route("chat", endpoint, concurrency=1, max_wait=20.0))
        kit.wait_until(lambda: len(api.polls) > 2, "no second snapshot")
        patient = pool.submit(client.post, "/v1/completions", json=BODY)
        time.sleep(0.3)
        assert not patient.done()
        both = [endpoint, other.replica.endpoint()]
        api.publish(kit.route("chat", *both, concurrency=1, max_wait=20.0))
        assert patient.result(10).status_code == 200
        assert not held.done()
        gate.open()
        assert held.result(10).status_code == 200


def test_a_client_that_leaves_gives_its_place_back(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    gate = Gate(scripted, kit)
    api.publish(kit.route("chat", gate.replica.endpoint(), concurrency=1, max_waiting=1))
    gateway = gateways()
    gateway.wait_for("chat")
    with ThreadPoolExecutor(4) as pool:
        with gateway.client() as first:
            held = pool.submit(first.post, "/v1/completions", json=BODY)
            gate.holds(1)
            with gateway.client(timeout=0.3) as hasty, pytest.raises(httpx.ReadTimeout):
                hasty.post("/v1/completions", json=BODY)
            kit.wait_until(
                lambda: metric(gateway.url, "quarterdeck_gateway_waiting_requests{") == 0,
                "who left still waits",
            )
            gate.open()
            assert held.result(10).status_code == 200
            assert first.post("/v1/completions", json=BODY).status_code == 200


def test_requests_wait_while_a_service_wakes(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    replica = scripted("run-1", lambda n: [kit.whole(USAGE)])
    asleep = {"wakes": True, "max_wait": 0.1, "max_waiting": 2}
    api.publish(kit.route("chat", **asleep, max_wake=30.0))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.post, "/v1/completions", json=BODY) for _ in range(2)]
        kit.wait_until(lambda: api.woken[:1] == ["chat"], "nobody was told")
        start = "quarterdeck_gateway_waiting_requests{"
        kit.wait_until(lambda: metric(gateway.url, start) == 2, "they do not wait")
        third = client.post("/v1/completions", json=BODY)
        assert (third.status_code, code_of(third)) == (429, "too_many_waiting")
        api.publish(kit.route("chat", replica.endpoint(ready=False), **asleep, max_wake=30.0))
        time.sleep(0.3)
        assert not any(answer.done() for answer in waiting)
        before = len(api.woken)
        kit.wait_until(lambda: len(api.woken) > before, "it was told no more while they wait")
        api.publish(kit.route("chat", replica.endpoint(), **asleep, max_wake=30.0))
        assert [answer.result(10).status_code for answer in waiting] == [200, 200]
        api.publish(kit.route("chat", **asleep, max_wake=0.3))

        def given_up() -> bool:
            answer = client.post("/v1/completions", json=BODY)
            return answer.status_code == 503 and code_of(answer) == "waited_too_long"

        kit.wait_until(given_up, "it waited for ever")
    assert set(api.woken) == {"chat"}


@pytest.mark.parametrize("priority", ["urgent", "1.5", ""])
def test_a_priority_that_is_none_is_refused(
    api: Any, gateways: Any, kit: Any, scripted: Any, priority: str
) -> None:
    api.publish(kit.route("chat"))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        headers = {"x-quarterdeck-priority": priority}
        answer = client.post("/v1/completions", json=BODY, headers=headers)
    assert answer.status_code == 400 and "priority" in answer.json()["error"]["message"]
