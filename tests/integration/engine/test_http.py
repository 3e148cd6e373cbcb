"""The engine's HTTP surface with OpenAI's own client and with raw requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from quarterdeck_workers.engine.builtin_server import EngineArguments, EngineServer
from quarterdeck_workers.engine.metric_names import BUILTIN
from quarterdeck_workers.engine.probing import EngineClient


@pytest.fixture(scope="module")
def client(server: EngineServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: EngineServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def wait_until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def wait_until_idle(server: EngineServer) -> None:
    engine = server.state.engine
    assert engine is not None
    wait_until(lambda: server.in_flight == 0, "requests stayed in flight")
    wait_until(lambda: engine.stats().running + engine.stats().waiting == 0, "sequences stayed")


def test_completion_whole_and_streamed_are_the_same(client: openai.OpenAI) -> None:
    arguments = {"model": "tiny", "prompt": "the quick", "max_tokens": 24, "temperature": 0}
    whole = client.completions.create(**arguments, extra_body={"ignore_eos": True})
    stream = client.completions.create(
        **arguments,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None and whole.usage.completion_tokens == 24
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


def test_usage_is_in_every_piece_where_that_is_asked_for(client: openai.OpenAI) -> None:
    options: dict[str, object] = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(
        client.completions.create(
            model="tiny", prompt="the quick", max_tokens=8, temperature=0, stream=True,
            stream_options=options, extra_body={"ignore_eos": True},
        )
    )  # fmt: skip
    told = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert len(told) == len(chunks) > 2
    assert told == sorted(told) and told[0] < told[-1] == 8


def test_several_prompts_and_choices_keep_their_order(client: openai.OpenAI) -> None:
    singles = [
        client.completions.create(model="tiny", prompt=p, max_tokens=6, temperature=0)
        for p in ("the", "fox")
    ]
    both = client.completions.create(
        model="tiny", prompt=["the", "fox"], n=2, max_tokens=6, temperature=0
    )
    texts = [choice.text for choice in both.choices]
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert texts == [s.choices[0].text for s in singles for _ in range(2)]


def test_token_prompts_equal_text_prompts(client: openai.OpenAI, server: EngineServer) -> None:
    assert server.state.loaded is not None
    ids = server.state.loaded.encode("the quick")
    by_text = client.completions.create(model="tiny", prompt="the quick", temperature=0)
    by_ids = client.completions.create(model="tiny", prompt=ids, temperature=0)
    assert by_ids.choices[0].text == by_text.choices[0].text


def test_seed_repeats_and_choices_differ(client: openai.OpenAI) -> None:
    def draw() -> list[str]:
        answer = client.completions.create(
            model="tiny", prompt="the", n=3, seed=11, max_tokens=12, temperature=1.2
        )
        return [choice.text for choice in answer.choices]

    first = draw()
    assert draw() == first
    assert len(set(first)) > 1


def test_chat_streams_with_role_first_and_template_fallback(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "hello"}]
    whole = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=12, temperature=0
    )
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=12, temperature=0, stream=True
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    plain = client.completions.create(
        model="tiny", prompt="user: hello\nassistant:", max_tokens=12, temperature=0
    )
    assert plain.choices[0].text == text


def test_logprobs_of_both_surfaces(client: openai.OpenAI) -> None:
    plain = client.completions.create(
        model="tiny", prompt="the", max_tokens=5, temperature=0, logprobs=2
    )
    assert plain.choices[0].logprobs is not None
    logprobs = plain.choices[0].logprobs
    assert logprobs.token_logprobs is not None and logprobs.top_logprobs is not None
    for own, top in zip(logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert own == max(top.values()) and own <= 0
    chat = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=4,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    content = chat.choices[0].logprobs.content
    assert content and all(len(entry.top_logprobs) == 3 for entry in content)
    assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in content)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompt": "a", "model": "other"}, 404, ["other", "tiny"]),
        ({"prompt": "a" * 300, "max_tokens": 5}, 400, ["maximum context length is 128", "5 in"]),
        ({"prompt": "a", "max_tokens": 10**6}, 400, ["maximum context length is 128", "1000000"]),
        ({"prompt": "a", "max_tokens": 10**30}, 400, ["max_tokens"]),
        ({"prompt": "a", "max_tokens": 0}, 400, ["max_tokens"]),
        ({"prompt": "a", "n": 100000}, 400, ["n:"]),
        ({"prompt": "a", "n": 65}, 400, ["65 sequences"]),
        ({"prompt": "a", "temperature": -1}, 400, ["temperature"]),
        ({"prompt": "a", "echo": True}, 400, ["echo"]),
        ({"prompt": "a", "logit_bias": {"5": 1}}, 400, ["logit_bias"]),
        ({"prompt": "a", "stop": [""]}, 400, ["stop"]),
        ({"prompt": [1, 99999]}, 400, ["99999", "token id"]),
        ({"prompt": [True]}, 400, ["prompt"]),
        ({"prompt": ""}, 400, ["prompt"]),
        ({"prompt": []}, 400, ["prompt"]),
        ({}, 400, ["prompt"]),
    ],
)
def test_bad_requests_are_named(
    http: httpx.Client, body: dict[str, object], status: int, words: list[str]
) -> None:
    answer = http.post("/v1/completions", json={"model": "tiny", **body})
    error = answer.json()["error"]
    assert answer.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert all(word in error["message"] for word in words), error["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"",
        b"[]",
        b'{"model": "tiny", "prompt": "\xff"}',
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "a", "top_p": 1e999}',
        b'{"model": "tiny", "prompt": ' + b"[" * 100_000,
    ],
)
def test_malformed_bodies_answer_400(http: httpx.Client, raw: bytes) -> None:
    answer = http.post("/v1/completions", content=raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_oversized_body_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", content=b" " * (9 * 2**20))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "extreme",
    [
        {"top_p": 1e-300},
        {"temperature": 1e-300},
        {"temperature": 2, "top_k": 2**31},
        {"presence_penalty": -2, "frequency_penalty": -2, "ignore_eos": True},
        {"seed": -(2**63)},
        {"stop": ["x" * 1024] * 16, "logprobs": 20},
    ],
    ids=",".join,
)
def test_extremes_that_are_allowed_are_answered(
    http: httpx.Client, server: EngineServer, extreme: dict[str, object]
) -> None:
    for _ in range(4):  # three steps in a row that fail would end the engine
        body = {"model": "tiny", "prompt": "the", "max_tokens": 8, **extreme}
        answer = http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
    assert server.alive


def test_a_million_prompts_are_refused_before_they_are_read(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"model": "tiny", "prompt": ["a b"] * 1_000_000})
    assert answer.status_code == 400
    assert "1000000 sequences" in answer.json()["error"]["message"]


def test_unknown_paths_and_methods_have_openai_errors(http: httpx.Client) -> None:
    assert http.get("/v1/nothing").json()["error"]["message"]
    wrong = http.get("/v1/completions")
    assert wrong.status_code == 405 and wrong.json()["error"]["message"]


def test_a_client_that_leaves_cancels_its_sequences(
    http: httpx.Client, server: EngineServer
) -> None:
    body = {"model": "tiny", "prompt": "the", "max_tokens": 120, "ignore_eos": True, "n": 40}
    with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
        lines = stream.iter_lines()  # kept: dropping it would close the stream
        next(lines)
        assert server.in_flight == 1
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=0.05)
    wait_until_idle(server)
    assert 'requests_total{outcome="failed"}' in http.get("/metrics").text


def test_a_full_queue_answers_429_with_retry_after(http: httpx.Client) -> None:
    body = {"model": "tiny", "prompt": "the", "max_tokens": 120, "ignore_eos": True, "n": 60}
    with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
        lines = stream.iter_lines()  # kept: dropping it would close the stream
        next(lines)
        answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "engine_overloaded"
    assert int(answer.headers["retry-after"]) >= 1


def test_models_health_and_metrics(
    http: httpx.Client, client: openai.OpenAI, server: EngineServer
) -> None:
    wait_until_idle(server)
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert http.get("/health").json() == {"status": "ok"}
    before = _value(http, "quarterdeck_engine_generated_tokens_total")
    client.completions.create(
        model="tiny", prompt="a", max_tokens=3, extra_body={"ignore_eos": True}
    )
    assert _value(http, "quarterdeck_engine_generated_tokens_total") == before + 3
    text = http.get("/metrics").text
    for name in ("time_to_first_token", "time_per_output_token"):
        assert f"quarterdeck_engine_{name}_seconds_bucket" in text


def _value(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name + " ")))


def test_health_says_503_until_loaded_and_after_the_loop_died(model_folder: Path) -> None:
    server = EngineServer("late", EngineArguments(), "127.0.0.1")
    server.start()
    try:
        with httpx.Client(base_url=server.url) as http:
            assert http.get("/health").status_code == 503
            loading = http.post("/v1/completions", json={"model": "late", "prompt": "a"})
            assert loading.json()["error"]["code"] == "model_loading"
            assert "retry-after" in loading.headers
            server.load(model_folder)
            assert http.get("/health").status_code == 200
            client = EngineClient(server.url, "late", "completion", "/health", (BUILTIN,))
            assert client.ready() and client.probe(30).ok
            assert client.load().generated_tokens == 1
            assert server.state.engine is not None
            server.state.engine.stop()
            assert http.get("/health").json()["error"]["code"] == "engine_dead"
            assert not server.alive and not client.ready() and not client.probe(5).ok
    finally:
        server.close()


def test_a_template_of_the_model_is_used_and_its_refusal_answers_400(
    tiny: object, tmp_path: Path
) -> None:
    template = (
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}"
        "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    )
    folder = tiny.make_model_folder(tmp_path / "chat", chat_template=template)  # type: ignore[attr-defined]
    server = EngineServer("chat", EngineArguments(), "127.0.0.1")
    server.start()
    server.load(folder)
    try:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            arguments = {"model": "chat", "temperature": 0, "max_tokens": 6}
            parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
            chat = http.post(
                "/v1/chat/completions",
                json={**arguments, "messages": [{"role": "user", "content": parts}]},
            ).json()
            plain = http.post("/v1/completions", json={**arguments, "prompt": "[hi]"}).json()
            assert chat["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
            refused = http.post(
                "/v1/chat/completions",
                json={**arguments, "messages": [{"role": "system", "content": "x"}]},
            )
            assert refused.status_code == 400
            assert "user first" in refused.json()["error"]["message"]
            picture = [{"type": "image_url", "image_url": {"url": "x"}}]
            refused = http.post(
                "/v1/chat/completions",
                content=json.dumps(
                    {**arguments, "messages": [{"role": "user", "content": picture}]}
                ),
            )
            assert refused.status_code == 400
    finally:
        server.close()
