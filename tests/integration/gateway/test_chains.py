"""Chains through a real gateway: guard, retriever, reranker and model, and each of them failing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from quarterdeck.specs.gateway_snapshot import RouteStep


def test_a_guard_passes_and_the_model_answers(ship: Any) -> None:
    ship.sail(ship.GUARD, ship.MODEL)
    answer = ship.ask(temperature=0.5)
    assert answer.status_code == 200, answer.text
    assert answer.content == ship.chat_answer("because"), "passed on as it is"
    assert answer.headers["x-quarterdeck-replica"] == "run-chat"
    (shown,) = ship.asked("guard")
    assert shown["messages"] == [{"role": "user", "content": "why do boats float?"}]
    assert (shown["model"], shown["temperature"]) == ("guard", 0)
    assert ship.asked("chat") == [{**ship.ASKED, "model": "chat", "temperature": 0.5}]


def test_what_was_found_and_ranked_goes_before_the_conversation(ship: Any) -> None:
    ship.sail(ship.GUARD, ship.SEARCH, ship.RERANK, ship.MODEL)
    assert ship.ask().status_code == 200
    first, _, _ = ship.replicas["search"].requests[0]
    assert first == "POST /v1/vector_stores/handbook/search HTTP/1.1"
    assert ship.asked("search") == [{"query": "why do boats float?", "max_num_results": 3}]
    assert ship.asked("rerank") == [
        {"model": "rerank", "query": "why do boats float?", "documents": ship.DOCUMENTS, "top_n": 2}
    ]
    (asked,) = ship.asked("chat")
    system = {
        "role": "system",
        "content": "Read:\n[1] 0.md\nBoats float.\n\n[2] 2.md\nAnchors hold.",
    }
    assert asked["messages"] == [system, *ship.ASKED["messages"]]


def test_openais_client_gets_streams_and_refusals(ship: Any, kit: Any) -> None:
    ship.sail(ship.GUARD, ship.SEARCH, ship.MODEL)
    pieces = [b'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n' % word
              for word in (b"be", b"cause")]  # fmt: skip
    end = kit.chunk(b"data: [DONE]\n\n") + kit.chunk(b"")
    ship.says["chat"] = [kit.STREAM_HEAD, *map(kit.chunk, pieces), end]
    base = ship.gateway.url + "/v1"
    with openai.OpenAI(base_url=base, api_key=kit.USER_KEY, max_retries=0) as client:
        stream = client.chat.completions.create(**ship.ASKED, stream=True)
        assert [piece.choices[0].delta.content for piece in stream] == ["be", "cause"]
        ship.says["guard"] = [kit.whole(ship.chat_answer("\nunsafe\nS1"))]
        with pytest.raises(openai.BadRequestError) as refusal:
            client.chat.completions.create(**ship.ASKED)
    assert refusal.value.code == "content_filter"
    assert "step 1 (guard), service 'guard'" in str(refusal.value)
    assert len(ship.asked("chat")) == 1, "the model never saw it"
    assert len(ship.asked("search")) == 1, "nor did the retriever"


BAD_ANSWERS: dict[str, Callable[[Any, Any], list[Any]]] = {
    "no verdict": lambda ship, kit: [kit.whole(b'{"choices": []}')],
    "says nothing": lambda ship, kit: [kit.whole(ship.chat_answer("  "))],
    "no JSON": lambda ship, kit: [kit.whole(b"<html>")],
    "an error": lambda ship, kit: [
        kit.whole(b'{"error": {"message": "too long"}}', "400 Bad Request")
    ],
    "broken off": lambda ship, kit: [kit.RESET],
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_guard_that_cannot_judge_refuses_and_no_fallback_answers(
    ship: Any, kit: Any, kind: str
) -> None:
    ship.says["guard"] = BAD_ANSWERS[kind](ship, kit)
    ship.sail({**ship.GUARD, "on_failure": "skip"}, ship.MODEL, fallback="chat")
    answer = ship.ask()
    assert answer.status_code in (502, 503), answer.text
    assert ship.code_of(answer) == "guard_failed"
    message = answer.json()["error"]["message"]
    assert message.startswith("step 1 (guard) of chain 'support', service 'guard': ")
    assert ship.asked("chat") == []


def test_a_guard_that_is_gone_refuses(ship: Any) -> None:
    ship.sail(ship.GUARD, ship.MODEL, without="guard", fallback="chat")
    answer = ship.ask()
    assert (answer.status_code, ship.code_of(answer)) == (503, "guard_failed")
    assert "there is no such service" in answer.text and answer.headers["retry-after"]


def test_a_step_that_is_late_is_named_or_skipped(ship: Any, kit: Any) -> None:
    ship.says["search"] = [kit.HANG]
    slow = {**ship.SEARCH, "timeout": 0.3}
    ship.sail(ship.GUARD, slow, ship.MODEL)
    answer = ship.ask()
    assert (answer.status_code, ship.code_of(answer)) == (504, "timeout")
    assert (
        "step 2 (retriever) of chain 'support', service 'search': no answer within 0.3 s"
        in (answer.json()["error"]["message"])
    )
    kit.wait_until(lambda: ship.replicas["search"].left == 1, "the replica was not left")
    ship.sail(ship.GUARD, {**slow, "on_failure": "skip"}, ship.RERANK, ship.MODEL)
    kit.wait_until(lambda: ship.ask().status_code == 200, "never skipped")
    assert ship.asked("rerank") == [], "nothing to rank"
    assert ship.asked("chat")[-1]["messages"] == ship.ASKED["messages"]
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
    ship: Any, kit: Any, service: str, answer: bytes
) -> None:
    ship.says[service] = [kit.whole(answer)]
    ship.sail(ship.SEARCH, ship.RERANK, ship.MODEL)
    refused = ship.ask()
    assert (refused.status_code, ship.code_of(refused)) == (502, "chain_step_failed")
    number = 1 if service == "search" else 2
    assert f"step {number} (" in refused.text and f"service '{service}': " in refused.text
    ship.sail(
        {**ship.SEARCH, "on_failure": "skip"}, {**ship.RERANK, "on_failure": "skip"}, ship.MODEL
    )
    kit.wait_until(lambda: ship.ask().status_code == 200, "never skipped")


def test_huge_documents_are_cut(ship: Any, kit: Any) -> None:
    ship.says["search"] = [kit.whole(ship.found("a" * 1_000_000, "b" * 1_000_000))]
    ship.sail(ship.SEARCH, {**ship.MODEL, "max_characters": 5000, "template": "{documents}"})
    assert ship.ask().status_code == 200
    (asked,) = ship.asked("chat")
    assert len(asked["messages"][0]["content"]) == 5000


def test_answers_count_in_the_memory_for_bodies(ship: Any, gateways: Any, kit: Any) -> None:
    ship.says["search"] = [kit.whole(ship.found(*["a" * 2**20] * 3))]
    ship.sail(ship.SEARCH, ship.MODEL)
    assert ship.ask().status_code == 200
    ship.gateway = gateways(max_bodies=4 * 2**20)
    ship.sail(ship.SEARCH, ship.MODEL)
    answer = ship.ask()
    assert (answer.status_code, ship.code_of(answer)) == (503, "gateway_overloaded")
    assert answer.json()["error"]["message"].startswith("step 1 (retriever) of chain 'support'")
    ship.says["search"] = [kit.whole(ship.found(*ship.DOCUMENTS))]
    for _ in range(3):
        assert ship.ask().status_code == 200, "it was given back"


def test_the_model_down_is_named_and_the_chains_fallback_answers(ship: Any, kit: Any) -> None:
    ship.sail(ship.GUARD, ship.MODEL, without="chat")
    answer = ship.ask()
    assert (answer.status_code, ship.code_of(answer)) == (503, "chain_step_failed")
    assert "step 2 (model) of chain 'support', service 'chat'" in answer.text
    ship.says["rerank"] = [kit.whole(ship.chat_answer("the other"))]
    ship.sail(ship.GUARD, ship.MODEL, without="chat", fallback="rerank")
    kit.wait_until(lambda: ship.ask().content == ship.chat_answer("the other"), "no fallback")
    assert ship.metric("quarterdeck_gateway_fallbacks_total") >= 1


def test_a_fallback_of_a_step_stands_in_but_no_chain_does(
    ship: Any, api: Any, kit: Any, scripted: Any
) -> None:
    """A step's own fallback that leads back into the chain must not go round."""
    ship.sail(ship.MODEL)
    down = kit.route("chat")
    spare = kit.route("spare", ship.replicas["chat"].endpoint())
    chain = [RouteStep.model_validate(ship.MODEL)]
    support = kit.route("support").model_copy(update={"chain": chain})
    api.publish(down.model_copy(update={"fallback": "support"}), spare, support)
    ship.gateway.wait_for("chat", "spare", "support")
    answer = ship.ask()
    assert (answer.status_code, ship.code_of(answer)) == (503, "no_ready_replica")
    guard = kit.route("guard").model_copy(update={"fallback": "support"})
    guarded = support.model_copy(update={"chain": [RouteStep.model_validate(ship.GUARD), *chain]})
    api.publish(guard, spare, guarded)
    ship.gateway.wait_for("guard", "spare", "support")
    assert ship.code_of(ship.ask()) == "guard_failed"
    api.publish(down.model_copy(update={"fallback": "spare"}), spare, support)
    kit.wait_until(lambda: ship.ask().status_code == 200, "the step's fallback did not answer")


def test_chains_of_chains_and_unknown_roles_are_refused(ship: Any, kit: Any) -> None:
    ship.sail({"role": "model", "service": "support"})
    assert "it is a chain itself" in ship.ask().text
    ship.sail({"role": "oracle", "service": "guard"}, ship.MODEL)
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
    ship: Any, path: str, body: dict[str, Any], words: str
) -> None:
    ship.sail(ship.GUARD, ship.MODEL)
    with ship.gateway.client() as client:
        answer = client.post(f"/v1/{path}", json={"model": "support", **body})
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]
    assert ship.asked("guard") == []


def test_prompts_and_responses_get_documents_too(ship: Any) -> None:
    ship.sail(ship.GUARD, ship.SEARCH, {**ship.MODEL, "max_characters": 20})
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
