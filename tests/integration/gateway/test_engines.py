"""OpenAI's own client through a real gateway to real engines, one of which is killed."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from quarterdeck.specs.gateway_snapshot import EngineEndpoint


@pytest.fixture(scope="module")
def model(engine_kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(engine_kit("tiny").make_model_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def engines(
    engine_kit: Any, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    replicas = engine_kit("replicas")
    started = [
        replicas.Replica(
            f"run-{i}", model.as_uri(), tmp_path_factory.mktemp("run"), engine_args={
                "max_batch_size": 4, "max_waiting": 64,
            },
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        for replica in started:
            replica.endpoint()
        yield started
    finally:
        for replica in started:
            replica.close()


def published(api: Any, kit: Any, engines: Any) -> None:
    endpoints = [
        EngineEndpoint(run_id=engine.run_id, url=engine.endpoint()["url"], ready=True)
        for engine in engines
    ]
    api.publish(kit.route("chat", *endpoints))


def test_the_client_sync_async_and_streaming(
    api: Any, gateways: Any, kit: Any, engines: Any
) -> None:
    published(api, kit, engines)
    gateway = gateways()
    gateway.wait_for("chat")
    arguments: dict[str, Any] = {
        "model": "chat",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 24,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    base = gateway.url + "/v1"
    with openai.OpenAI(base_url=base, api_key=kit.USER_KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["chat"]
        whole = client.chat.completions.create(**arguments)
        text = whole.choices[0].message.content
        assert text and whole.usage is not None and whole.usage.completion_tokens == 24
        stream = client.chat.completions.create(
            **arguments, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
        assert chunks[-1].usage == whole.usage

    async def many() -> list[str]:
        async with openai.AsyncOpenAI(base_url=base, api_key=kit.USER_KEY, max_retries=0) as client:

            async def one(stream: bool) -> str:
                if not stream:
                    answer = await client.chat.completions.create(**arguments)
                    return answer.choices[0].message.content or ""
                pieces = await client.chat.completions.create(**arguments, stream=True)
                return "".join([p.choices[0].delta.content or "" async for p in pieces])

            return await asyncio.gather(*[one(i % 2 == 0) for i in range(12)])

    assert asyncio.run(many()) == [text] * 12


def test_a_client_that_leaves_frees_the_engine(
    api: Any, gateways: Any, kit: Any, engines: Any
) -> None:
    published(api, kit, engines[:1])
    gateway = gateways()
    gateway.wait_for("chat")
    url = engines[0].endpoint()["url"]
    body = {"model": "chat", "prompt": "x", "max_tokens": 120, "n": 60, "ignore_eos": True}
    with gateway.client() as client:
        with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
            lines = stream.iter_lines()  # kept: dropping it would close the stream
            next(lines)
            assert "in_flight_requests 1.0" in httpx.get(url + "/metrics").text

    def idle() -> bool:
        text = httpx.get(url + "/metrics").text
        return all(
            f"quarterdeck_engine_{name} 0.0" in text
            for name in ("in_flight_requests", "running_sequences", "waiting_sequences")
        )

    kit.wait_until(idle, "the engine went on for a client that had left")


def test_killing_an_engine_drops_only_the_streams_that_had_begun(
    api: Any, gateways: Any, kit: Any, engines: Any
) -> None:
    published(api, kit, engines)
    gateway = gateways()
    gateway.wait_for("chat")
    body = {"model": "chat", "prompt": "x", "max_tokens": 120, "n": 30, "ignore_eos": True}
    with gateway.client() as client:
        streams = [
            client.stream("POST", "/v1/completions", json={**body, "stream": True})
            for _ in range(2)
        ]
        answers = [stream.__enter__() for stream in streams]
        lines = [answer.iter_lines() for answer in answers]
        for line in lines:
            next(line)
        by_replica = {
            answer.headers["x-quarterdeck-replica"]: n for n, answer in enumerate(answers)
        }
        assert set(by_replica) == {"run-0", "run-1"}
        engines[0].process.send_signal(signal.SIGKILL)
        engines[0].process.wait(30)
        # The begun stream of the killed one ends with an error, the other one as if nothing was.
        broken = [line for line in lines[by_replica["run-0"]] if line]
        assert json.loads(broken[-1].removeprefix("data: "))["error"]["code"] == "stream_broken"
        assert [line for line in lines[by_replica["run-1"]] if line][-1] == "data: [DONE]"
        for stream in streams:
            stream.__exit__(None, None, None)
        for _ in range(10):
            answer = client.post("/v1/completions", json={**body, "n": 1, "max_tokens": 4})
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-quarterdeck-replica"] == "run-1"
