"""Chains through a real gateway: guard, retriever, reranker and model, and each of them failing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from quarterdeck.specs.gateway_snapshot import RouteStep

DOCUMENTS = ["Boats float.", "Masts carry sails.", "Anchors hold."]
ASKED: dict[str, Any] = {
    "model": "support",
    "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hello!"},
        {"role": "user", "content": "why do boats float?"},
    ],
}


def chat_answer(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "chat",
         "choices": [choice], "usage": usage}
    ).encode()  # fmt: skip


def found(*texts: str) -> bytes:
    data = [
        {"file_id": f"file-{n}", "filename": f"{n}.md", "score": 1.0 - n / 10, "attributes": {},
         "content": [{"type": "text", "text": text}]}
        for n, text in enumerate(texts)
    ]  # fmt: skip
    page = {"object": "vector_store.search_results.page", "has_more": False, "next_page": None}
    return json.dumps({**page, "search_query": ["q"], "data": data}).encode()


def ranked(*indices: int) -> bytes:
    results = [
        {"index": index, "relevance_score": 0.9 - n / 10, "document": {"text": "…"}}
        for n, index in enumerate(indices)
    ]
    return json.dumps({"id": "r", "model": "rerank", "results": results}).encode()


class Ship:
    """The four services, each one real server that answers what it is told to, and the chain."""

    def __init__(self, api: Any, gateways: Any, kit: Any, scripted: Any) -> None:
        self._api, self._kit = api, kit
        self.says: dict[str, Any] = {
            "guard": [kit.whole(chat_answer("safe"))],
            "search": [kit.whole(found(*DOCUMENTS))],
            "rerank": [kit.whole(ranked(0, 2))],
            "chat": [kit.whole(chat_answer("because"))],
        }
        self.replicas = {
            name: scripted(f"run-{name}", lambda _, name=name: self._script(name))
            for name in self.says
        }
        self.gateway = gateways()
        self.keys: list[Any] | None = None
        self.reports: list[dict[str, Any]] = api.reports

    def _script(self, name: str) -> Any:
        says = self.says[name]
        return says() if callable(says) else says

    def sail(self, *steps: dict[str, Any], without: str = "", **values: Any) -> None:
        """Publish the services and a chain of these steps."""
        plain = self._kit.route("support")
        chain = [RouteStep.model_validate(step) for step in steps]
        services = [
            self._kit.route(name, replica.endpoint())
            for name, replica in self.replicas.items()
            if name != without
        ]
        self._api.publish(
            *services,
            type(plain).model_validate({**plain.model_dump(), "chain": chain, **values}),
            keys=self.keys,
        )
        self.gateway.wait_for("support", *(self.replicas.keys() - {without}))

    def ask(self, priority: str = "normal", **body: Any) -> httpx.Response:
        headers = {"x-quarterdeck-priority": priority}
        with self.gateway.client() as client:
            return client.post("/v1/chat/completions", json={**ASKED, **body}, headers=headers)

    def asked(self, name: str) -> list[Any]:
        """Every body that a service got."""
        return [json.loads(body) for _, _, body in self.replicas[name].requests]

    def metric(self, start: str) -> float:
        text = httpx.get(self.gateway.url + "/metrics").text
        lines = [line for line in text.splitlines() if line.startswith(start)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.fixture
def ship(api: Any, gateways: Any, kit: Any, scripted: Any) -> Ship:
    return Ship(api, gateways, kit, scripted)


GUARD = {"role": "guard", "service": "guard", "refuse_when": r"^\s*unsafe"}
SEARCH = {"role": "retriever", "service": "search", "store": "handbook", "top": 3}
RERANK = {"role": "reranker", "service": "rerank", "top": 2}
MODEL = {"role": "model", "service": "chat", "template": "Read:\n{documents}"}


def code_of(answer: httpx.Response) -> Any:
    return answer.json()["error"]["code"]


def test_a_guard_passes_and_the_model_answers(ship: Ship) -> None:
    ship.sail(GUARD, MODEL)
    answer = ship.ask(temperature=0.5)
    assert answer.status_code == 200, answer.text
    assert answer.content == chat_answer("because"), "passed on as it is"
    assert answer.headers["x-quarterdeck-replica"] == "run-chat"
    (shown,) = ship.asked("guard")
    assert shown["messages"] == [{"role": "user", "content": "why do boats float?"}]
    assert (shown["model"], shown["temperature"]) == ("guard", 0)
    assert ship.asked("chat") == [{**ASKED, "model": "chat", "temperature": 0.5}]


def test_what_was_found_and_ranked_goes_before_the_conversation(ship: Ship) -> None:
    ship.sail(GUARD, SEARCH, RERANK, MODEL)
    assert ship.ask().status_code == 200
    first, _, _ = ship.replicas["search"].requests[0]
    assert first == "POST /v1/vector_stores/handbook/search HTTP/1.1"
    assert ship.asked("search") == [{"query": "why do boats float?", "max_num_results": 3}]
    assert ship.asked("rerank") == [
        {"model": "rerank", "query": "why do boats float?", "documents": DOCUMENTS, "top_n": 2}
    ]
    (asked,) = ship.asked("chat")
    system = {
        "role": "system",
        "content": "Read:\n[1] 0.md\nBoats float.\n\n[2] 2.md\nAnchors hold.",
    }
    assert asked["messages"] == [system, *ASKED["messages"]]


def test_openais_client_gets_streams_and_refusals(ship: Ship, kit: Any) -> None:
    ship.sail(GUARD, SEARCH, MODEL)
    pieces = [b'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n' % word
              for word in (b"be", b"cause")]  # fmt: skip
    end = kit.chunk(b"data: [DONE]\n\n") + kit.chunk(b"")
    ship.says["chat"] = [kit.STREAM_HEAD, *map(kit.chunk, pieces), end]
    base = ship.gateway.url + "/v1"
    with openai.OpenAI(base_url=base, api_key=kit.USER_KEY, max_retries=0) as client:
        stream = client.chat.completions.create(**ASKED, stream=True)
        assert [piece.choices[0].delta.content for piece in stream] == ["be", "cause"]
        ship.says["guard"] = [kit.whole(chat_answer("\nunsafe\nS1"))]
        with pytest.raises(openai.BadRequestError) as refusal:
            client.chat.completions.create(**ASKED)
    assert refusal.value.code == "content_filter"
    assert "step 1 (guard), service 'guard'" in str(refusal.value)
    assert len(ship.asked("chat")) == 1, "the model never saw it"
    assert len(ship.asked("search")) == 1, "nor did the retriever"


BAD_ANSWERS: dict[str, Callable[[Any], list[Any]]] = {
    "no verdict": lambda kit: [kit.whole(b'{"choices": []}')],
    "says nothing": lambda kit: [kit.whole(chat_answer("  "))],
    "no JSON": lambda kit: [kit.whole(b"<html>")],
    "an error": lambda kit: [kit.whole(b'{"error": {"message": "too long"}}', "400 Bad Request")],
    "broken off": lambda kit: [kit.RESET],
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_guard_that_cannot_judge_refuses_and_no_fallback_answers(
    ship: Ship, kit: Any, kind: str
) -> None:
    ship.says["guard"] = BAD_ANSWERS[kind](kit)
    ship.sail({**GUARD, "on_failure": "skip"}, MODEL, fallback="chat")
    answer = ship.ask()
    assert answer.status_code in (502, 503), answer.text
    assert code_of(answer) == "guard_failed"
    message = answer.json()["error"]["message"]
    assert message.startswith("step 1 (guard) of chain 'support', service 'guard': ")
    assert ship.asked("chat") == []


def test_a_guard_that_is_gone_refuses(ship: Ship) -> None:
    ship.sail(GUARD, MODEL, without="guard", fallback="chat")
    answer = ship.ask()
    assert (answer.status_code, code_of(answer)) == (503, "guard_failed")
    assert "there is no such service" in answer.text and answer.headers["retry-after"]


def test_a_step_that_is_late_is_named_or_skipped(ship: Ship, kit: Any) -> None:
    ship.says["search"] = [kit.HANG]
    slow = {**SEARCH, "timeout": 0.3}
    ship.sail(GUARD, slow, MODEL)
    answer = ship.ask()
    assert (answer.status_code, code_of(answer)) == (504, "timeout")
    assert (
        "step 2 (retriever) of chain 'support', service 'search': no answer within 0.3 s"
        in (answer.json()["error"]["message"])
    )
    kit.wait_until(lambda: ship.replicas["search"].left == 1, "the replica was not left")
    ship.sail(GUARD, {**slow, "on_failure": "skip"}, RERANK, MODEL)
    kit.wait_until(lambda: ship.ask().status_code == 200, "never skipped")
    assert ship.asked("rerank") == [], "nothing to rank"
    assert ship.asked("chat")[-1]["messages"] == ASKED["messages"]
    start = "quarterdeck_gateway_chain_steps_total{"
    assert ship.metric(f'{start}outcome="skipped",project="default",service="support"') >= 1


@pytest.mark.parametrize(
    ("service", "answer"),
    [
        ("search", b'{"data": 3}'),
        ("search", b'{"data": [3]}'),
        ("search", b"[]"),
        ("search", b'{"data": []}' + b" " * 4 * 2**20),
        ("rerank", b'{"results": [{"index": 3, "relevance_score": 1}]}'),
        ("rerank", b'{"results": [{"index": true, "relevance_score": 1}]}'),
        ("rerank", b'{"results": [{"index": 0}]}'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_answers_of_another_form_are_the_steps_failure(
    ship: Ship, kit: Any, service: str, answer: bytes
) -> None:
    ship.says[service] = [kit.whole(answer)]
    ship.sail(SEARCH, RERANK, MODEL)
    refused = ship.ask()
    assert (refused.status_code, code_of(refused)) == (502, "chain_step_failed")
    number = 1 if service == "search" else 2
    assert f"step {number} (" in refused.text and f"service '{service}': " in refused.text
    ship.sail({**SEARCH, "on_failure": "skip"}, {**RERANK, "on_failure": "skip"}, MODEL)
    kit.wait_until(lambda: ship.ask().status_code == 200, "never skipped")


def test_huge_documents_are_cut(ship: Ship, kit: Any) -> None:
    ship.says["search"] = [kit.whole(found("a" * 1_000_000, "b" * 1_000_000))]
    ship.sail(SEARCH, {**MODEL, "max_characters": 5000, "template": "{documents}"})
    assert ship.ask().status_code == 200
    (asked,) = ship.asked("chat")
    assert len(asked["messages"][0]["content"]) == 5000


def test_answers_count_in_the_memory_for_bodies(ship: Ship, gateways: Any, kit: Any) -> None:
    ship.says["search"] = [kit.whole(found(*["a" * 2**20] * 3))]
    ship.sail(SEARCH, MODEL)
    assert ship.ask().status_code == 200
    ship.gateway = gateways(max_bodies=4 * 2**20)
    ship.sail(SEARCH, MODEL)
    answer = ship.ask()
    assert (answer.status_code, code_of(answer)) == (503, "gateway_overloaded")
    assert answer.json()["error"]["message"].startswith("step 1 (retriever) of chain 'support'")
    ship.says["search"] = [kit.whole(found(*DOCUMENTS))]
    for _ in range(3):
        assert ship.ask().status_code == 200, "it was given back"


def test_the_model_down_is_named_and_the_chains_fallback_answers(ship: Ship, kit: Any) -> None:
    ship.sail(GUARD, MODEL, without="chat")
    answer = ship.ask()
    assert (answer.status_code, code_of(answer)) == (503, "chain_step_failed")
    assert "step 2 (model) of chain 'support', service 'chat'" in answer.text
    ship.says["rerank"] = [kit.whole(chat_answer("the other"))]
    ship.sail(GUARD, MODEL, without="chat", fallback="rerank")
    kit.wait_until(lambda: ship.ask().content == chat_answer("the other"), "no fallback")
    assert ship.metric("quarterdeck_gateway_fallbacks_total") >= 1


def test_a_fallback_of_a_step_stands_in_but_no_chain_does(
    ship: Ship, api: Any, kit: Any, scripted: Any
) -> None:
    """A step's own fallback that leads back into the chain must not go round."""
    ship.sail(MODEL)
    down = kit.route("chat")
    spare = kit.route("spare", ship.replicas["chat"].endpoint())
    chain = [RouteStep.model_validate(MODEL)]
    support = kit.route("support").model_copy(update={"chain": chain})
    api.publish(down.model_copy(update={"fallback": "support"}), spare, support)
    ship.gateway.wait_for("chat", "spare", "support")
    answer = ship.ask()
    assert (answer.status_code, code_of(answer)) == (503, "no_ready_replica")
    guard = kit.route("guard").model_copy(update={"fallback": "support"})
    guarded = support.model_copy(update={"chain": [RouteStep.model_validate(GUARD), *chain]})
    api.publish(guard, spare, guarded)
    ship.gateway.wait_for("guard", "spare", "support")
    assert code_of(ship.ask()) == "guard_failed"
    api.publish(down.model_copy(update={"fallback": "spare"}), spare, support)
    kit.wait_until(lambda: ship.ask().status_code == 200, "the step's fallback did not answer")


def test_chains_of_chains_and_unknown_roles_are_refused(ship: Ship, kit: Any) -> None:
    ship.sail({"role": "model", "service": "support"})
    assert "it is a chain itself" in ship.ask().text
    ship.sail({"role": "oracle", "service": "guard"}, MODEL)
    kit.wait_until(lambda: "knows no 'oracle'" in ship.ask().text, "an unknown role was passed by")
    assert ship.asked("chat") == []


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("chat/completions", {"messages": [{"role": "system", "content": "x"}]}, "none"),
        ("chat/completions", {"messages": [{"role": "user", "content": " "}]}, "has none"),
        ("chat/completions", {"messages": "hello"}, "a list of messages"),
        ("chat/completions", {"messages": ["hello"]}, "a list of messages"),
        ("completions", {"prompt": [1, 2]}, "one text"),
        ("embeddings", {"input": "x"}, "is a chain, which answers"),
    ],
)
def test_requests_that_a_chain_cannot_read_are_the_clients(
    ship: Ship, path: str, body: dict[str, Any], words: str
) -> None:
    ship.sail(GUARD, MODEL)
    with ship.gateway.client() as client:
        answer = client.post(f"/v1/{path}", json={"model": "support", **body})
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]
    assert ship.asked("guard") == []


def test_prompts_and_responses_get_documents_too(ship: Ship) -> None:
    ship.sail(GUARD, SEARCH, {**MODEL, "max_characters": 20})
    documents = "Read:\n[1] 0.md\nBoats float"
    with ship.gateway.client() as client:
        for path, body in (
            ("completions", {"prompt": "boats?"}),
            ("responses", {"input": "boats?", "instructions": "Be short."}),
        ):
            answer = client.post(f"/v1/{path}", json={"model": "support", **body})
            assert answer.status_code == 200, answer.text
    assert [shown["messages"][0]["content"] for shown in ship.asked("guard")] == ["boats?"] * 2
    prompt, response = ship.asked("chat")
    assert prompt["prompt"] == documents + "\n\nboats?"
    assert response["instructions"] == "Be short.\n\n" + documents
    assert response["input"] == "boats?"


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
    ship: Ship, kit: Any, chained_line: Callable[[], dict[str, Any]]
) -> None:
    ship.says["rerank"] = [kit.whole(b"{}", "500 Internal Server Error")]
    ship.sail(GUARD, SEARCH, {**RERANK, "on_failure": "skip"}, MODEL)
    with ship.gateway.client(kit.ALL_KEY) as client:
        answer = client.post("/v1/chat/completions?explain=1", json=ASKED)
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


def test_the_keys_limit_counts_a_chain_once(ship: Ship, kit: Any) -> None:
    ship.keys = [
        key.model_copy(update={"requests_per_minute": 600, "tokens_per_minute": 600})
        for key in kit.KEYS
    ]
    ship.says["chat"] = [kit.whole(chat_answer("because").replace(b": 11", b": 197"))]
    ship.sail(GUARD, SEARCH, MODEL)
    answers = [ship.ask(), ship.ask()]
    assert [each.status_code for each in answers] == [200, 200]
    left = [int(each.headers["x-ratelimit-remaining-requests"]) for each in answers]
    assert left[0] - left[1] in (0, 1), "ten come back each second"
    tokens = [int(each.headers["x-ratelimit-remaining-tokens"]) for each in answers]
    assert 100 < tokens[0] - tokens[1] <= 200, "what the model told of the first, no guess"


def test_a_replica_that_is_late_again_and_again_is_taken_out(ship: Ship, kit: Any) -> None:
    ship.says["search"] = [kit.HANG]
    ship.sail({**SEARCH, "timeout": 0.1, "on_failure": "skip"}, MODEL)
    for _ in range(5):
        assert ship.ask().status_code == 200
    assert ship.metric("quarterdeck_gateway_ejections_total") == 1


def test_the_chains_total_bounds_its_model(ship: Ship, kit: Any) -> None:
    ship.says["chat"] = [kit.HANG]
    ship.sail(GUARD, MODEL, total=0.5)
    answer = ship.ask()
    assert (answer.status_code, code_of(answer)) == (504, "timeout")
    assert "step 2 (model) of chain 'support', service 'chat'" in answer.text


def test_the_chains_total_bounds_the_wait_for_its_model(ship: Ship, kit: Any, api: Any) -> None:
    ship.says["chat"] = [kit.HANG]
    ship.sail(MODEL, total=0.5)
    one = kit.route("chat", ship.replicas["chat"].endpoint())
    chain = [RouteStep.model_validate(MODEL)]
    support = kit.route("support").model_copy(update={"chain": chain, "total": 0.5})
    api.publish(one.model_copy(update={"concurrency": 1}), support)
    ship.gateway.wait_for("chat", "support")
    with ship.gateway.client(timeout=60) as client, ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.post, "/v1/chat/completions", json={**ASKED, "model": "chat"})
        kit.wait_until(lambda: len(ship.asked("chat")) == 1, "not held")
        answer = ship.ask()
        assert (answer.status_code, code_of(answer)) == (503, "waited_too_long")
        assert "step 1 (model)" in answer.text
        ship.replicas["chat"].close()
        assert held.result(60).status_code == 503


def test_an_answer_that_breaks_off_is_told_in_the_line(
    ship: Ship, kit: Any, chained_line: Callable[[], dict[str, Any]]
) -> None:
    ship.says["chat"] = [kit.STREAM_HEAD, kit.chunk(b'data: {"choices": []}\n\n'), kit.RESET]
    ship.sail(GUARD, MODEL)
    events = [line for line in ship.ask(stream=True).text.splitlines() if line]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "stream_broken"
    line = chained_line()
    assert line["status"] == 200 and "broke off in the middle" in line["error"]
    assert line["steps"][1]["error"] == line["error"]


def test_no_chain_is_a_shadow_but_it_may_have_one(
    ship: Ship, api: Any, kit: Any, scripted: Any
) -> None:
    ship.sail(GUARD, MODEL, mirror={"service": "rerank", "share": 1.0})
    assert ship.ask().status_code == 200
    kit.wait_until(lambda: len(ship.asked("rerank")) == 1, "no copy")
    assert ship.asked("rerank")[0] == {**ASKED, "model": "rerank"}, "as the client sent it"
    chain = [RouteStep.model_validate(MODEL)]
    support = kit.route("support").model_copy(update={"chain": chain})
    chat = kit.route("chat", ship.replicas["chat"].endpoint())
    shadowed = {**kit.route("plain").model_dump(), "mirror": {"service": "support", "share": 1.0}}
    plain = scripted("run-plain", lambda _: [kit.whole(chat_answer("plain"))])
    shadowed["endpoints"] = [plain.endpoint()]
    api.publish(support, chat, type(chat).model_validate(shadowed))
    ship.gateway.wait_for("chat", "plain", "support")
    assert ship.ask(model="plain").status_code == 200
    dropped = 'quarterdeck_gateway_mirrored_requests_total{outcome="dropped"'
    assert ship.metric(dropped) == 1


def test_a_step_waits_with_its_clients_priority(ship: Ship, kit: Any, api: Any) -> None:
    let = threading.Event()

    def held() -> Iterator[Any]:
        while not let.is_set():
            yield 0.02
        yield kit.whole(chat_answer("safe"))

    ship.says["guard"] = held
    ship.sail(GUARD, MODEL)
    chat, guard = (kit.route(name, ship.replicas[name].endpoint()) for name in ("chat", "guard"))
    steps = [RouteStep.model_validate(step) for step in (GUARD, MODEL)]
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


def test_a_client_that_leaves_ends_the_step_under_way(ship: Ship, kit: Any) -> None:
    ship.says["guard"] = [kit.HANG]
    ship.sail(GUARD, MODEL)
    with ship.gateway.client(timeout=0.5) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=ASKED)
    kit.wait_until(lambda: ship.replicas["guard"].left == 1, "the guard goes on for nobody")
    assert ship.asked("chat") == []
