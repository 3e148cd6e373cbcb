"""Embeddings of a real tiny model: by OpenAI's own client, and by raw requests."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import httpx
import openai
import pytest
import torch

from quarterdeck_workers.engine.builtin_server import EngineServer
from quarterdeck_workers.engine.embedding import EmbeddingJob, EmbeddingQueue


@pytest.fixture(scope="module")
def client(server: EngineServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: EngineServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def reference(server: EngineServer, text: str) -> list[float]:
    """The definition: mean of the last hidden states, of one prompt alone, at length 1."""
    loaded = server.state.loaded
    assert loaded is not None
    with torch.inference_mode():
        ids = torch.tensor([loaded.encode(text)])
        states = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        mean = states.mean(dim=0)
        return (mean / mean.norm()).tolist()


def close(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and max(
        abs(a - b) for a, b in zip(one, other, strict=True)
    ) < 1e-5  # fmt: skip


def test_vectors_are_the_means_of_each_text_alone(
    client: openai.OpenAI, server: EngineServer
) -> None:
    texts = ["the quick brown fox", "x", "jumps over the lazy dog " * 3]
    answer = client.embeddings.create(model="tiny", input=texts)  # base64, the client's default
    assert [item.index for item in answer.data] == [0, 1, 2]
    for text, item in zip(texts, answer.data, strict=True):
        assert close(item.embedding, reference(server, text))
        assert math.isclose(sum(x * x for x in item.embedding), 1.0, rel_tol=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3
    as_floats = client.embeddings.create(model="tiny", input=texts[0], encoding_format="float")
    assert close(as_floats.data[0].embedding, answer.data[0].embedding)


def test_token_arrays_equal_their_text(client: openai.OpenAI, server: EngineServer) -> None:
    assert server.state.loaded is not None
    ids = server.state.loaded.encode("naïve café")
    one = client.embeddings.create(model="tiny", input=ids)
    several = client.embeddings.create(model="tiny", input=[ids, ids[:2]], dimensions=64)
    assert close(one.data[0].embedding, reference(server, "naïve café"))
    assert len(several.data) == 2
    assert close(several.data[0].embedding, one.data[0].embedding)


def test_a_large_request_lets_completions_and_others_through(
    client: openai.OpenAI, server: EngineServer
) -> None:
    many = ["the quick brown fox jumps over the lazy dog"] * 1000
    done: list[str] = []

    def large() -> None:
        answer = client.embeddings.create(model="tiny", input=many)
        assert len(answer.data) == 1000
        done.append("large")

    thread = threading.Thread(target=large)
    thread.start()
    client.embeddings.create(model="tiny", input="a")
    client.completions.create(model="tiny", prompt="the", max_tokens=4)
    done.append("small")
    thread.join(60)
    assert "large" in done


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": "a", "model": "other"}, 404, ["other", "tiny"]),
        ({"input": ["a", "b" * 300]}, 400, ["maximum context length is 128", "300"]),
        ({"input": []}, 400, ["input", "1 to 2048"]),
        ({"input": ["a"] * 2049}, 400, ["2049"]),
        ({"input": ""}, 400, ["input"]),
        ({"input": ["a", ""]}, 400, ["input"]),
        ({"input": [1, 99999]}, 400, ["99999"]),
        ({"input": [["a"]]}, 400, ["input"]),
        ({"input": "a", "dimensions": 32}, 400, ["dimensions", "64"]),
        ({"input": "a", "encoding_format": "int8"}, 400, ["encoding_format"]),
        ({"input": "a", "truncate_prompt_tokens": 5}, 400, ["truncate_prompt_tokens"]),
        ({}, 400, ["input"]),
    ],
)
def test_bad_requests_are_named(
    http: httpx.Client, body: dict[str, object], status: int, words: list[str]
) -> None:
    answer = http.post("/v1/embeddings", json={"model": "tiny", **body})
    assert answer.status_code == status
    assert all(word in answer.json()["error"]["message"] for word in words), answer.text


def test_invalid_utf8_answers_400(http: httpx.Client) -> None:
    answer = http.post("/v1/embeddings", content=b'{"model": "tiny", "input": "\xff"}')
    assert answer.status_code == 400


def test_a_client_that_leaves_gives_its_request_up(
    http: httpx.Client, server: EngineServer
) -> None:
    before = _embedded(http)
    many = ["the quick brown fox jumps over the lazy dog " * 4] * 2000
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/embeddings", json={"model": "tiny", "input": many}, timeout=0.5
        )
    http.post("/v1/embeddings", json={"model": "tiny", "input": "a"})
    assert server.in_flight == 0
    assert _embedded(http) - before < 2000


def _embedded(http: httpx.Client) -> float:
    name = "quarterdeck_engine_embeddings_total "
    return float(
        next(x for x in http.get("/metrics").text.splitlines() if x.startswith(name)).split()[1]
    )


def test_the_queue_is_bounded_fair_and_forgets_who_left() -> None:
    queue = EmbeddingQueue(2)
    long, short = EmbeddingJob([(1,) * 30] * 3), EmbeddingJob([(1,)])
    assert queue.put(long) and queue.put(short) and not queue.put(EmbeddingJob([(1,)]))
    taken = queue.take(64)
    assert taken is not None
    job, prompts = taken
    assert job is long and len(prompts) == 2  # a third would pad to 90 tokens
    job.add([[0.0]] * 2)
    queue.put_back(job)
    assert queue.take(64) == (short, [(1,)])
    assert long.future.cancel()
    assert queue.take(64) is None
    alone = EmbeddingJob([(1,) * 100])
    queue.put(alone)
    assert queue.take(64) == (alone, [(1,) * 100])
