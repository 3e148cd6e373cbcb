"""Clients as people have them: curl, LangChain and a ReAct loop (the examples, as they are)
through a real gateway to a real engine, whose small model knows one conversation by heart."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from quarterdeck.specs.gateway_snapshot import EngineEndpoint
from tests.integration.gateway.client_examples import run_example

QUESTION = "What is 17 times 23?"
# What the model makes up itself is wrong, so that it shows who wrote an observation.
LEARNT = f"""\
Question: {QUESTION}
Thought: I must multiply.
Action: calculate 17 * 23
Observation: 17
Thought: I know the result.
Answer: 391
"""


OBSERVED = LEARNT.replace("Observation: 17", "Observation: 391")


@pytest.fixture(scope="module")
def engine(engine_kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    tiny = engine_kit("tiny")
    folder = tiny.make_model_folder(tmp_path_factory.mktemp("model"), context=1024)
    tiny.learn_by_heart(folder, LEARNT, LEARNT, LEARNT, OBSERVED)
    replica = engine_kit("replicas").Replica(
        "run-1", folder.as_uri(), tmp_path_factory.mktemp("run")
    )
    try:
        yield replica.endpoint()["url"]
    finally:
        replica.close()


@pytest.fixture
def gateway(api: Any, gateways: Any, kit: Any, engine: str) -> Any:
    endpoint = EngineEndpoint(run_id="run-1", url=engine, ready=True)
    api.publish(kit.route("chat", endpoint))
    gateway = gateways()
    gateway.wait_for("chat")
    return gateway


def test_a_stop_sequence_ends_an_action(gateway: Any, kit: Any) -> None:
    prompt = f"Question: {QUESTION}\nThought:"
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=kit.USER_KEY) as client:
        asked: dict[str, Any] = {"model": "chat", "prompt": prompt, "temperature": 0}
        whole = client.completions.create(**asked, max_tokens=100).choices[0]
        assert prompt + whole.text == LEARNT and whole.finish_reason == "stop"
        stop = {"stop": ["Observation:"], "max_tokens": 100}
        cut = client.completions.create(**asked, **stop).choices[0]
        assert cut.text == " I must multiply.\nAction: calculate 17 * 23\n"
        assert cut.finish_reason == "stop"
        pieces = client.completions.create(**asked, **stop, stream=True)
        assert "".join(piece.choices[0].text for piece in pieces) == cut.text


def test_the_react_loop_acts_and_observes(gateway: Any, kit: Any) -> None:
    done = run_example(gateway.url, kit.USER_KEY, "react.py", "--bare", QUESTION)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == OBSERVED.partition("\n")[2]


def test_the_react_loop_ends_without_an_answer(gateway: Any, kit: Any) -> None:
    done = run_example(
        gateway.url, kit.USER_KEY, "react.py", "--max-tokens", "8", "Is there anybody?"
    )
    assert done.returncode == 1 and not done.stderr


def test_documents_are_retrieved_and_asked_about(gateway: Any, kit: Any, tmp_path: Path) -> None:
    texts = {
        "fox": "the quick brown fox jumps over the lazy dog",
        "code": "def main() -> None: print('hello, world')",
        "city": "grüße aus Köln, 你好, 🚀 and naïve café",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    files = [str(tmp_path / name) for name in texts]
    done = run_example(
        gateway.url, kit.USER_KEY, "rag.py", "--top", "2", "--max-tokens", "8",
        "--files", *files, "--", "def main() prints hello",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert f"{tmp_path / 'code'}: {texts['code'][:20]}" in first
    assert first[:7] > second[:7]  # scores


def test_curl(gateway: Any, kit: Any) -> None:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")

    def curl(path: str, body: dict[str, Any], *more: str) -> str:
        done = subprocess.run(
            [program, "-sSN", "--max-time", "60", "-H", f"Authorization: Bearer {kit.USER_KEY}",
             *more, gateway.url + path, "-d", json.dumps({"model": "chat", **body})],
            capture_output=True, text=True, timeout=90, check=True,
        )  # fmt: skip
        return done.stdout

    prompt = {"prompt": f"Question: {QUESTION}\nThought:", "max_tokens": 4, "temperature": 0}
    whole = json.loads(curl("/v1/completions", prompt))["choices"][0]["text"]
    assert LEARNT.startswith(prompt["prompt"] + whole)
    streamed = curl("/v1/completions", {**prompt, "stream": True}).strip().split("\n\n")
    assert streamed.pop() == "data: [DONE]"
    pieces = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in streamed]
    assert "".join(pieces) == whole
    # Java's client and curl ask to go on with HTTP/2; the answer is one of HTTP/1.1.
    assert json.loads(curl("/v1/completions", prompt, "--http2"))["choices"][0]["text"] == whole
    vector = json.loads(curl("/v1/embeddings", {"input": "a"}))["data"][0]["embedding"]
    assert len(vector) == 64
    missing = json.loads(curl("/v1/completions", {**prompt, "model": "gpt-4"}))["error"]
    assert missing["code"] == "model_not_found"
    long = json.loads(curl("/v1/completions", {"prompt": "a" * 3000, "max_tokens": 5}))["error"]
    assert long["code"] == "context_length_exceeded"
    assert "1024 tokens" in long["message"] and "5 in the completion" in long["message"]
