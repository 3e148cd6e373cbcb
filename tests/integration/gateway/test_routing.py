"""Policies through the real gateway, over HTTP: switched live, fed by what replicas do and tell."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from quarterdeck.specs.routing import RoutingSettings

BODY = {"model": "chat", "prompt": "hi"}


def serve(
    api: Any, kit: Any, gateways: Any, replicas: list[Any], policy: str
) -> tuple[Any, Callable[[str], None]]:
    """A gateway over the replicas, and what switches its policy."""

    def switch(policy: str) -> None:
        route = kit.route("chat", *[replica.endpoint() for replica in replicas])
        route.routing = RoutingSettings(policy=policy)
        # A second service tells when the gateway follows.
        api.publish(route, kit.route(f"now-{policy.replace('_', '-')}"))
        gateway.wait_for("chat", f"now-{policy.replace('_', '-')}")

    gateway = gateways()
    switch(policy)
    return gateway, switch


def homes(client: Any, bodies: list[dict[str, Any]], **headers: str) -> list[str]:
    answers = [client.post("/v1/completions", json=body, headers=headers) for body in bodies]
    assert [answer.status_code for answer in answers] == [200] * len(bodies)
    return [answer.headers["x-quarterdeck-replica"] for answer in answers]


def test_a_policy_is_switched_while_requests_go_on(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    replicas = [scripted(f"run-{i}", lambda n: [kit.whole(b"{}")]) for i in range(3)]
    gateway, switch = serve(api, kit, gateways, replicas, "round_robin")
    with gateway.client() as client:
        in_turn = homes(client, [BODY] * 6)
        everybody = {replica.run_id for replica in replicas}
        assert set(in_turn[:3]) == set(in_turn[3:]) == everybody
        switch("session")
        by_session = {
            session: set(homes(client, [BODY] * 3, **{"x-session-id": session}))
            for session in "abcdefgh"
        }
        assert all(len(home) == 1 for home in by_session.values())
        assert len(set.union(*by_session.values())) == 3
        by_user = homes(client, [{**BODY, "user": "a"}] * 2)
        assert set(by_user) == by_session["a"]
        switch("prefix")
        for number in range(6):
            turns = [f"{number} is the number of this talk. " + "So? " * n for n in range(4)]
            assert len(set(homes(client, [{**BODY, "prompt": turn} for turn in turns]))) == 1


def test_engines_own_numbers_decide_under_queue(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    waiting = {"run-0": 7, "run-1": 0}
    replicas: dict[str, Any] = {}

    def script(run: str) -> Callable[[int], list[Any]]:
        def pieces(number: int) -> list[Any]:
            if replicas[run].requests[number][0].startswith("GET /metrics "):
                text = f"quarterdeck_engine_waiting_sequences {waiting[run]}\n"
                return [kit.whole(text.encode())]
            return [kit.whole(b"{}")]

        return pieces

    for run in waiting:
        replicas[run] = scripted(run, script(run))
    gateway, _ = serve(api, kit, gateways, list(replicas.values()), "queue")
    letters = itertools.count(0x4E00)  # nothing is cached

    def settled(run: str) -> Callable[[], bool]:
        def chosen() -> bool:
            with gateway.client() as client:
                bodies = [{**BODY, "prompt": chr(next(letters))} for _ in range(6)]
                return set(homes(client, bodies)) == {run}

        return chosen

    kit.wait_until(settled("run-1"), "the numbers were not read")
    waiting.update({"run-0": 0, "run-1": 7})
    kit.wait_until(settled("run-0"), "newer numbers were not read")


def test_a_replica_that_answers_500_is_ejected_and_counted(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    sick = scripted("sick", lambda n: [kit.whole(b"{}", "500 Internal Server Error")])
    picky = scripted("picky", lambda n: [kit.whole(b"{}", "400 Bad Request")])
    gateway, _ = serve(api, kit, gateways, [sick, picky], "round_robin")
    with gateway.client() as client:
        statuses = [client.post("/v1/completions", json=BODY).status_code for _ in range(30)]
        assert statuses == [400] * 30  # each 500 was tried once more, elsewhere
        assert len(sick.requests) == 5
        told = client.get("/metrics").text
    assert (
        'quarterdeck_gateway_ejections_total{project="default",reason="consecutive_errors",'
        'service="chat"} 1.0' in told
    )


def test_a_second_one_that_answers_500_rests_too(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    """One of four may be ejected. The other would look idle and get most requests."""
    statuses = {"a-sick": "500 Internal Server Error", "c-sick": "500 Internal Server Error"}
    replicas = [
        scripted(run, lambda n, run=run: [kit.whole(b"{}", statuses.get(run, "200 OK"))])
        for run in ("a-sick", "b-well", "c-sick", "d-well")
    ]
    gateway, _ = serve(api, kit, gateways, replicas, "round_robin")
    with gateway.client() as client:
        for _ in range(60):  # one that met both of them is told so
            client.post("/v1/completions", json=BODY)
    assert [len(replica.requests) <= 10 for replica in replicas] == [True, False, True, False]


def test_one_that_had_no_room_does_not_use_up_the_second_try_after_a_500(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    full = scripted("full", lambda n: [kit.whole(b"{}", "429 Too Many Requests")])
    sick = scripted("sick", lambda n: [kit.whole(b"{}", "500 Internal Server Error")])
    well = scripted("well", lambda n: [kit.whole(b"{}")])
    gateway, _ = serve(api, kit, gateways, [full, sick, well], "round_robin")
    with gateway.client() as client:
        statuses = [client.post("/v1/completions", json=BODY).status_code for _ in range(12)]
    assert statuses == [200] * 12
    assert full.requests and sick.requests


def test_an_adapter_is_what_the_engine_is_asked_for(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    """Two replicas tell as vLLM does which adapters they have."""
    replicas: dict[str, Any] = {}

    def script(run: str, adapter: str) -> Callable[[int], list[Any]]:
        told = f'vllm:lora_requests_info{{max_lora="1",running_lora_adapters="{adapter}"}} 1.0\n'

        def pieces(number: int) -> list[Any]:
            metrics = replicas[run].requests[number][0].startswith("GET /metrics ")
            return [kit.whole(told.encode() if metrics else b"{}")]

        return pieces

    for run, adapter in (("run-0", "de"), ("run-1", "fr")):
        replicas[run] = scripted(run, script(run, adapter))
    gateway, _ = serve(api, kit, gateways, list(replicas.values()), "adapter")
    with gateway.client() as client:

        def asked() -> bool:
            found = [set(homes(client, [BODY] * 4, **{"x-adapter": n})) for n in ("de", "fr")]
            return found == [{"run-0"}, {"run-1"}]

        kit.wait_until(asked, "adapters were not read")
        plain = homes(client, [BODY])[0]
    posts = [body for first, _, body in replicas[plain].requests if first.startswith("POST ")]
    assert json.loads(posts[-1])["model"] == "chat"
    models = [
        json.loads(body)["model"]
        for first, _, body in replicas["run-1"].requests
        if first.startswith("POST ") and b"chat" not in body
    ]
    assert models[-4:] == ["fr"] * 4


def test_what_engines_had_cached_is_measured_where_they_tell(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    usage = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 64}}
    answers = [json.dumps({"usage": usage}).encode(), b"{}"]
    one = scripted("run-0", lambda n: [kit.whole(answers[n % 2])])
    gateway, _ = serve(api, kit, gateways, [one], "prefix")
    with gateway.client() as client:
        homes(client, [BODY] * 4)
        lines = client.get("/metrics").text.splitlines()
    told = {line.partition("{")[0]: line.split()[-1] for line in lines if "cached_prompt" in line}
    assert float(told["quarterdeck_gateway_cached_prompt_tokens_sum"]) == 128
    assert float(told["quarterdeck_gateway_cached_prompt_tokens_count"]) == 2
