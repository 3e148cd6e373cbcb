"""A chain of real engines: the builtin one as guard and model, the example retriever as both of the
others, started, probed and killed as replicas of services are."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from quarterdeck.specs.chains import steps_of
from quarterdeck.specs.gateway_snapshot import EngineEndpoint, RouteStep
from quarterdeck.specs.kinds import ServiceSpec

RETRIEVER = Path(__file__).resolve().parents[3] / "examples" / "retriever.py"
COMMAND = f"{shlex.quote(sys.executable)} {shlex.quote(str(RETRIEVER))} $MODEL_PATH $HOST $PORT"
HANDBOOK = {
    "anchors.md": "An anchor holds a ship in place.\n\nDrop it slowly.",
    "deep/sails.txt": "Sails catch the wind.\n\nReef the sails when the wind grows strong.",
    "picture.png": "sails wind ship anchor",
}
QUESTION = {"role": "user", "content": "When do I reef the sails?"}


@pytest.fixture(scope="module")
def engines(engine_kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("handbook")
    for name, text in HANDBOOK.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    model = engine_kit("tiny").make_model_folder(tmp_path_factory.mktemp("model"))
    kinds = {
        "guard": (model.as_uri(), {}),
        "chat": (model.as_uri(), {}),
        "search": (folder.as_uri(), {"engine": "command", "command": COMMAND, "probe": "search"}),
        "rerank": (folder.as_uri(), {"engine": "command", "command": COMMAND, "probe": "rerank"}),
    }
    start = engine_kit("replicas").Replica
    started = {
        name: start(f"run-{name}", uri, tmp_path_factory.mktemp("run"), name=name, spec=spec)
        for name, (uri, spec) in kinds.items()
    }
    try:
        for replica in started.values():
            assert replica.endpoint()["probed"]
        yield started
    finally:
        for replica in started.values():
            replica.close()


def publish(api: Any, kit: Any, engines: dict[str, Any], *steps: dict[str, Any]) -> None:
    """As the api tells gateways of a chain that was written so."""
    spec = ServiceSpec.model_validate({"kind": "service", "name": "support", "chain": steps})
    chain = [
        RouteStep.model_validate({**step.model_dump(), "role": step.role, "service": step.service})
        for step in steps_of(spec.model_dump(mode="json"))
    ]
    routes = [
        kit.route(
            name,
            EngineEndpoint(run_id=engine.run_id, url=engine.endpoint()["url"], ready=True),
        )
        for name, engine in engines.items()
    ]
    api.publish(*routes, kit.route("support").model_copy(update={"chain": chain}))


# A model of random weights says anything: whatever it says passes, or nothing does.
PASSES = {"guard": "guard", "refuse_when": r"[^\s\S]"}
REFUSES = {"guard": "guard", "refuse_when": "(?s)."}
SEARCH = {"retriever": "search", "top": 4}
RERANK = {"reranker": "rerank", "top": 1}
MODEL = {"model": "chat", "max_characters": 60, "template": "{documents}"}
NAMES = ("chat", "guard", "rerank", "search", "support")


def test_the_whole_chain_answers_and_streams_with_what_was_found(
    api: Any, gateways: Any, kit: Any, engines: dict[str, Any]
) -> None:
    publish(api, kit, engines, PASSES, SEARCH, RERANK, MODEL)
    gateway = gateways()
    gateway.wait_for(*NAMES)
    asked: dict[str, Any] = {
        "messages": [QUESTION], "max_tokens": 8, "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }  # fmt: skip
    found = "[1] deep/sails.txt\nSails catch the wind.\n\nReef the sails when the wind"
    told = [{"role": "system", "content": found[:60]}, QUESTION]
    with gateway.client() as direct:
        alone = {"model": "rerank", "query": "wind", "documents": ["ships", "the wind"], "top_n": 1}
        best = direct.post("/v1/rerank", json=alone).json()["results"]
        assert [each["index"] for each in best] == [1], "a reranker is asked by itself too"
    base = gateway.url + "/v1"
    with openai.OpenAI(base_url=base, api_key=kit.USER_KEY, max_retries=0) as client:
        whole = client.chat.completions.create(model="support", **asked)
        same = client.chat.completions.create(model="chat", **{**asked, "messages": told})
        other = client.chat.completions.create(model="chat", **asked)
        assert whole.choices[0].message.content == same.choices[0].message.content
        assert whole.usage == same.usage
        assert whole.usage is not None and other.usage is not None
        assert whole.usage.prompt_tokens > other.usage.prompt_tokens, "the documents count"
        stream = client.chat.completions.create(model="support", **asked, stream=True)
        text = "".join(piece.choices[0].delta.content or "" for piece in stream)
        assert text == whole.choices[0].message.content
        responded = client.responses.create(
            model="support", input=QUESTION["content"], max_output_tokens=8, temperature=0
        )
        assert responded.status in ("completed", "incomplete")


def test_a_guard_that_refuses_and_a_retriever_that_is_killed(
    api: Any, gateways: Any, kit: Any, engines: dict[str, Any]
) -> None:
    publish(api, kit, engines, REFUSES, SEARCH, MODEL)
    gateway = gateways()
    gateway.wait_for(*NAMES)
    body = {"model": "support", "messages": [QUESTION], "max_tokens": 4}
    with gateway.client() as client:
        refused = client.post("/v1/chat/completions", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "content_filter"
        for program in psutil.Process(engines["search"].process.pid).children(recursive=True):
            program.send_signal(signal.SIGKILL)
        publish(api, kit, engines, PASSES, {**SEARCH, "timeout": "5s"}, MODEL)

        def asks() -> httpx.Response:
            return client.post("/v1/chat/completions", json=body)

        kit.wait_until(lambda: asks().status_code == 503, "the killed retriever was not missed")
        error = asks().json()["error"]
        assert "step 2 (retriever) of chain 'support', service 'search'" in error["message"]
        publish(api, kit, engines, PASSES, {**SEARCH, "on_failure": "skip"}, MODEL)
        kit.wait_until(lambda: asks().status_code == 200, "the killed retriever was not skipped")
    engines["search"].wait_for(lambda: engines["search"].of("failure"))
    assert "ended" in json.dumps(engines["search"].of("failure")[0])
