"""Responses and tokenization: by OpenAI's own client where it has them, else raw."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from quarterdeck_workers.engine.api_errors import ApiError
from quarterdeck_workers.engine.builtin_server import EngineServer
from quarterdeck_workers.engine.interface import TokenEvent
from quarterdeck_workers.engine.openai_responses import ResponseAnswer, ResponseRequest


@pytest.fixture(scope="module")
def client(server: EngineServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: EngineServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def test_a_response_is_the_chat_answer_of_its_input(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="tiny", temperature=0, max_tokens=12,
        messages=[{"role": "system", "content": "short"}, {"role": "user", "content": "hello"}],
    )  # fmt: skip
    whole = client.responses.create(
        model="tiny", instructions="short", input="hello", temperature=0, max_output_tokens=12
    )
    assert whole.output_text == chat.choices[0].message.content
    turns = client.responses.create(
        model="tiny", temperature=0, max_output_tokens=12,
        input=[
            {"role": "developer", "content": "short"},
            {"type": "message", "role": "user",
             "content": [{"type": "input_text", "text": "hello"}]},
        ],
    )  # fmt: skip
    assert turns.output_text == whole.output_text
    assert whole.usage is not None and chat.usage is not None
    assert whole.usage.input_tokens == chat.usage.prompt_tokens
    assert whole.usage.output_tokens == chat.usage.completion_tokens
    reason = chat.choices[0].finish_reason
    assert whole.status == ("incomplete" if reason == "length" else "completed")


def test_a_stream_is_understood_by_the_client_and_ends_in_the_same_response(
    client: openai.OpenAI,
) -> None:
    arguments = {"model": "tiny", "input": "grüße", "temperature": 0, "max_output_tokens": 20}
    whole = client.responses.create(**arguments)
    events = list(client.responses.create(**arguments, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events][:4] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added",
    ]  # fmt: skip
    assert events[-1].type == f"response.{whole.status}"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1 and "".join(deltas) == whole.output_text
    assert events[-1].response.usage == whole.usage
    with client.responses.stream(**arguments) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(texts) == whole.output_text


def test_a_stream_that_fails_says_so_in_its_own_form() -> None:
    writer = ResponseAnswer("tiny", 3, ResponseRequest(model="tiny", input="a"))
    first = b"".join(writer.add(TokenEvent(0, 5, "x")))
    assert b"event: response.created\ndata: " in first
    last = b"".join(writer.broken(ApiError(500, "it broke")))
    assert last.startswith(b"event: response.failed\n") and b"it broke" in last
    assert b'"sequence_number":5' in last


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"previous_response_id": "resp_1"}, ["previous_response_id", "keeps no"]),
        ({"conversation": "conv_1"}, ["conversation"]),
        ({"store": True}, ["store"]),
        ({"background": True}, ["background"]),
        ({"tools": [{"type": "web_search"}]}, ["tools"]),
        ({"text": {"format": {"type": "json_object"}}}, ["text.format"]),
        ({"truncation": "auto"}, ["truncation"]),
        ({"max_output_tokens": 10**6}, ["128", "1000000"]),
        ({"input": "long " * 200}, ["128", "in the input"]),
        ({"input": []}, ["input"]),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, ["input"]),
        ({"temperature": 9}, ["temperature"]),
    ],
)
def test_what_needs_a_store_or_tools_is_refused(
    http: httpx.Client, body: dict[str, object], words: list[str]
) -> None:
    answer = http.post("/v1/responses", json={"model": "tiny", "input": "a", **body})
    assert answer.status_code == 400
    assert all(word in answer.json()["error"]["message"] for word in words), answer.text


def test_fields_without_effect_are_taken(http: httpx.Client) -> None:
    body = {
        "model": "tiny", "input": "a", "max_output_tokens": 2, "store": False, "tools": [],
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "metadata": {"a": "b"},
        "previous_response_id": None, "user": "ada",
    }  # fmt: skip
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 200 and answer.json()["metadata"] == {"a": "b"}


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("chat/completions", {"response_format": {"type": "json_object"}}, "response_format"),
        ("chat/completions", {"tools": [{"type": "function"}]}, "tools"),
        ("chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("chat/completions", {"stream_options": {"include_usage": True}}, "stream_options"),
        ("chat/completions", {"stream": True, "stream_options": {"x": 1}}, "stream_options"),
        ("chat/completions", {"min_p": 0.1}, "min_p"),
        ("completions", {"response_format": {"type": "json_object"}}, "response_format"),
        ("completions", {"repetition_penalty": 1.2}, "repetition_penalty"),
        ("completions", {"guided_regex": "a+"}, "guided_regex"),
    ],
)
def test_what_would_change_the_answer_is_never_ignored(
    http: httpx.Client, path: str, body: dict[str, object], word: str
) -> None:
    asked = {"prompt": "a"} if path == "completions" else {
        "messages": [{"role": "user", "content": "a"}]
    }  # fmt: skip
    answer = http.post(f"/v1/{path}", json={"model": "tiny", "max_tokens": 2, **asked, **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == word


def test_a_message_with_tool_calls_is_refused(http: httpx.Client) -> None:
    said = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    answer = http.post("/v1/chat/completions", json={"model": "tiny", "messages": [said]})
    assert answer.status_code == 400 and "tool_calls" in answer.json()["error"]["message"]


def test_text_and_conversations_to_tokens_and_back(
    http: httpx.Client, client: openai.OpenAI, server: EngineServer
) -> None:
    text = "naïve café 🚀<|end|>"
    said = http.post("/tokenize", json={"model": "tiny", "prompt": text}).json()
    assert said["count"] == len(said["tokens"]) and said["max_model_len"] == 128
    back = http.post("/detokenize", json={"tokens": said["tokens"]}).json()
    assert back == {"prompt": text}
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": "tiny", "messages": messages, "return_token_strs": True}
    chat = http.post("/tokenize", json=body).json()
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=1)
    assert answer.usage is not None and chat["count"] == answer.usage.prompt_tokens
    assert "".join(chat["token_strs"]).endswith("assistant:")
    closed = http.post("/tokenize", json={**body, "add_generation_prompt": False}).json()
    assert closed["count"] < chat["count"]


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/tokenize", {"model": "tiny"}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/detokenize", {"tokens": [99999]}, "99999"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_bad_tokenizations_are_named(
    http: httpx.Client, path: str, body: dict[str, object], word: str
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400 and word in answer.json()["error"]["message"]
