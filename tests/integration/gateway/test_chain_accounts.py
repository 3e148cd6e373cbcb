"""What chains tell of themselves and how they count: lines, limits, time, shadows, priorities."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from quarterdeck.specs.gateway_snapshot import RouteStep


def lines_of(capfd: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines() if line[:1] == "{"]


@pytest.fixture
def chained_line(capfd: Any, kit: Any) -> Iterator[Callable[[], dict[str, Any]]]:
    seen: list[dict[str, Any]] = []

    def one() -> dict[str, Any]:
        def there() -> bool:
            seen.extend(lines_of(capfd))
            return any("steps" in line for line in seen)

        kit.wait_until(there, "no line with steps")
        return next(line for line in seen if "steps" in line)

    yield one


def test_line_explanation_and_metrics_show_each_step(
    ship: Any, kit: Any, chained_line: Callable[[], dict[str, Any]]
) -> None:
    ship.says["rerank"] = [kit.whole(b"{}", "500 Internal Server Error")]
    ship.sail(ship.GUARD, ship.SEARCH, {**ship.RERANK, "on_failure": "skip"}, ship.MODEL)
    with ship.gateway.client(kit.ALL_KEY) as client:
        answer = client.post("/v1/chat/completions?explain=1", json=ship.ASKED)
    assert answer.status_code == 200, answer.text
    told = json.loads(answer.headers["x-quarterdeck-explain"])
    assert told["chain"] == "support"
    assert [(s["step"], s["service"], s["outcome"]) for s in told["steps"]] == [
        ("guard", "guard", "passed"),
        ("retriever", "search", "answered"),
        ("reranker", "rerank", "skipped"),
        ("model", "chat", "answered"),
    ]
    assert [s["choice"]["chosen"] for s in told["steps"]][-1] == "run-chat"
    line = chained_line()
    assert (line["service"], line["status"], line["tokens_in"]) == ("support", 200, 11)
    assert [step["outcome"] for step in line["steps"]] == ["passed", "answered", "skipped",
                                                           "answered"]  # fmt: skip
    assert line["steps"][1]["documents"] == 3 and line["steps"][2]["status"] == 500
    assert all(step["seconds"] >= 0 and step["replica"] for step in line["steps"])
    assert "boats" not in json.dumps(line), "no text of prompts"
    requests = "quarterdeck_gateway_requests_total{"
    assert ship.metric(f'{requests}project="default",replica="",revision="",service="support"') == 1
    assert ship.metric(f'{requests}project="default",replica="run-guard"') == 1
    assert ship.metric("quarterdeck_gateway_chain_step_seconds_count") == 4

    def counted() -> dict[str, tuple[int, int]]:
        sums: dict[str, tuple[int, int]] = {}
        for each in (each for report in ship.reports for each in report["revisions"]):
            requests, errors = sums.get(each["service"], (0, 0))
            sums[each["service"]] = requests + each["requests"], errors + each["errors"]
        return sums

    kit.wait_until(lambda: counted().get("chat") == (1, 0), "nothing was reported")
    assert counted()["guard"] == counted()["search"] == (1, 0)
    requests, errors = counted()["rerank"]
    assert requests == errors >= 1, "also where the step was skipped"


def test_the_keys_limit_counts_a_chain_once(ship: Any, kit: Any) -> None:
    ship.keys = [
        key.model_copy(update={"requests_per_minute": 600, "tokens_per_minute": 600})
        for key in kit.KEYS
    ]
    ship.says["chat"] = [kit.whole(ship.chat_answer("because").replace(b": 11", b": 197"))]
    ship.sail(ship.GUARD, ship.SEARCH, ship.MODEL)
    answers = [ship.ask(), ship.ask()]
    assert [each.status_code for each in answers] == [200, 200]
    left = [int(each.headers["x-ratelimit-remaining-requests"]) for each in answers]
    assert left[0] - left[1] in (0, 1), "ten come back each second"
    tokens = [int(each.headers["x-ratelimit-remaining-tokens"]) for each in answers]
    assert 100 < tokens[0] - tokens[1] <= 200, "what the model told of the first, no guess"


def test_a_replica_that_is_late_again_and_again_is_taken_out(ship: Any, kit: Any) -> None:
    ship.says["search"] = [kit.HANG]
    ship.sail({**ship.SEARCH, "timeout": 0.1, "on_failure": "skip"}, ship.MODEL)
    for _ in range(5):
        assert ship.ask().status_code == 200
    assert ship.metric("quarterdeck_gateway_ejections_total") == 1


def test_the_chains_total_bounds_its_model(ship: Any, kit: Any) -> None:
    ship.says["chat"] = [kit.HANG]
    ship.sail(ship.GUARD, ship.MODEL, total=0.5)
    answer = ship.ask()
    assert (answer.status_code, ship.code_of(answer)) == (504, "timeout")
    assert "step 2 (model) of chain 'support', service 'chat'" in answer.text


def test_the_chains_total_bounds_the_wait_for_its_model(ship: Any, kit: Any, api: Any) -> None:
    ship.says["chat"] = [kit.HANG]
    ship.sail(ship.MODEL, total=0.5)
    one = kit.route("chat", ship.replicas["chat"].endpoint())
    chain = [RouteStep.model_validate(ship.MODEL)]
    support = kit.route("support").model_copy(update={"chain": chain, "total": 0.5})
    api.publish(one.model_copy(update={"concurrency": 1}), support)
    ship.gateway.wait_for("chat", "support")
    with ship.gateway.client(timeout=60) as client, ThreadPoolExecutor(1) as pool:
        held = pool.submit(
            client.post, "/v1/chat/completions", json={**ship.ASKED, "model": "chat"}
        )
        kit.wait_until(lambda: len(ship.asked("chat")) == 1, "not held")
        answer = ship.ask()
        assert (answer.status_code, ship.code_of(answer)) == (503, "waited_too_long")
        assert "step 1 (model)" in answer.text
        ship.replicas["chat"].close()
        assert held.result(60).status_code == 503


def test_an_answer_that_breaks_off_is_told_in_the_line(
    ship: Any, kit: Any, chained_line: Callable[[], dict[str, Any]]
) -> None:
    ship.says["chat"] = [kit.STREAM_HEAD, kit.chunk(b'data: {"choices": []}\n\n'), kit.RESET]
    ship.sail(ship.GUARD, ship.MODEL)
    events = [line for line in ship.ask(stream=True).text.splitlines() if line]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "stream_broken"
    line = chained_line()
    assert line["status"] == 200 and "broke off in the middle" in line["error"]
    assert line["steps"][1]["error"] == line["error"]


def test_no_chain_is_a_shadow_but_it_may_have_one(
    ship: Any, api: Any, kit: Any, scripted: Any
) -> None:
    ship.sail(ship.GUARD, ship.MODEL, mirror={"service": "rerank", "share": 1.0})
    assert ship.ask().status_code == 200
    kit.wait_until(lambda: len(ship.asked("rerank")) == 1, "no copy")
    assert ship.asked("rerank")[0] == {**ship.ASKED, "model": "rerank"}, "as the client sent it"
    chain = [RouteStep.model_validate(ship.MODEL)]
    support = kit.route("support").model_copy(update={"chain": chain})
    chat = kit.route("chat", ship.replicas["chat"].endpoint())
    shadowed = {**kit.route("plain").model_dump(), "mirror": {"service": "support", "share": 1.0}}
    plain = scripted("run-plain", lambda _: [kit.whole(ship.chat_answer("plain"))])
    shadowed["endpoints"] = [plain.endpoint()]
    api.publish(support, chat, type(chat).model_validate(shadowed))
    ship.gateway.wait_for("chat", "plain", "support")
    assert ship.ask(model="plain").status_code == 200
    dropped = 'quarterdeck_gateway_mirrored_requests_total{outcome="dropped"'
    assert ship.metric(dropped) == 1


def test_a_step_waits_with_its_clients_priority(ship: Any, kit: Any, api: Any) -> None:
    let = threading.Event()

    def held() -> Iterator[Any]:
        while not let.is_set():
            yield 0.02
        yield kit.whole(ship.chat_answer("safe"))

    ship.says["guard"] = held
    ship.sail(ship.GUARD, ship.MODEL)
    chat, guard = (kit.route(name, ship.replicas[name].endpoint()) for name in ("chat", "guard"))
    steps = [RouteStep.model_validate(step) for step in (ship.GUARD, ship.MODEL)]
    narrow = guard.model_copy(update={"concurrency": 1, "max_waiting": 1})
    api.publish(narrow, chat, kit.route("support").model_copy(update={"chain": steps}))
    ship.gateway.wait_for("chat", "guard", "support")
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(ship.ask, model="guard")
        kit.wait_until(lambda: len(ship.asked("guard")) == 1, "not there")
        second = pool.submit(ship.ask, model="guard")
        start = "quarterdeck_gateway_waiting_requests{"
        kit.wait_until(lambda: ship.metric(start) == 1, "never waited")
        favoured = pool.submit(ship.ask, priority="high")
        assert second.result(30).status_code == 429, "the one that waited gave way"
        let.set()
        assert [each.result(30).status_code for each in (first, favoured)] == [200, 200]


def test_a_client_that_leaves_ends_the_step_under_way(ship: Any, kit: Any) -> None:
    ship.says["guard"] = [kit.HANG]
    ship.sail(ship.GUARD, ship.MODEL)
    with ship.gateway.client(timeout=0.5) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=ship.ASKED)
    kit.wait_until(lambda: ship.replicas["guard"].left == 1, "the guard goes on for nobody")
    assert ship.asked("chat") == []


def test_a_later_step_goes_to_the_replicas_of_then(
    ship: Any, kit: Any, api: Any, scripted: Any
) -> None:
    let = threading.Event()

    def held() -> Iterator[Any]:
        while not let.is_set():
            yield 0.02
        yield kit.whole(ship.chat_answer("safe"))

    ship.says["guard"] = held
    ship.sail(ship.GUARD, ship.MODEL)
    other = scripted("run-other", lambda _: [kit.whole(ship.chat_answer("other"))])
    guard = kit.route("guard", ship.replicas["guard"].endpoint())
    support = kit.route("support", chain=[ship.GUARD, ship.MODEL])
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ship.ask)
        kit.wait_until(lambda: len(ship.asked("guard")) == 1, "not there")
        api.publish(guard, kit.route("chat", other.endpoint()), support)
        ship.gateway.wait_for("chat", "guard", "support")  # no retriever any more
        let.set()
        assert asked.result(30).headers["x-quarterdeck-replica"] == "run-other"
