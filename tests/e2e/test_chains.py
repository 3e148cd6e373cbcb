"""A chain on the real platform: from the example's file to an answer, and what people see of it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.e2e.conftest import Platform

sys.path.append(str(Path(__file__).parents[1] / "integration" / "engine"))
from tiny import make_model_folder

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("support", "chat", "guard", "handbook-search", "handbook-rerank")


def documents(folder: Path, model: Path) -> Path:
    """The example, with the places of this machine, and the two services that it presupposes."""
    text = (EXAMPLES / "chain.yaml").read_text(encoding="utf-8")
    assert text.count("model: /srv/handbook") == 2
    text = text.replace("model: /srv/handbook", f"model: {folder.as_uri()}")
    text = text.replace("python3 /srv/retriever.py", f"{sys.executable} {EXAMPLES}/retriever.py")
    # A guard of random weights says anything: all of it passes.
    assert text.count(r"pass_when: ^\s*safe") == 1
    text = text.replace(r"pass_when: ^\s*safe", "refuse_when: '[^\\s\\S]'")
    # The small model takes 128 tokens.
    text = text.replace("max_characters: 8k", "max_characters: 40\n    template: '{documents}'")
    for name in ("guard", "chat"):
        text += f"---\nkind: service\nname: {name}\nmodel: {model.as_uri()}\n"
    file = folder.parent / "chain.yaml"
    file.write_text(text)
    return file


def test_the_example_becomes_one_endpoint(
    platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("chain")
    handbook = place / "handbook"
    handbook.mkdir()
    (handbook / "sails.md").write_text("Reef the sails when the wind grows strong.")
    file = documents(handbook, make_model_folder(place / "model"))
    applied = platform.quarterdeck("apply", "-f", str(file))
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert "service/support created" in applied.stdout
    with platform.client() as client:
        found = client.wait_for_service("support", timeout=240)
        assert all(step.ready for step in found.steps) and found.replicas == []
        _seen_on_the_command_line(platform)
        headers = {"Authorization": f"Bearer {platform.key}"}
        with httpx.Client(base_url=platform.gateway_url, headers=headers, timeout=60) as gateway:
            models = [each["id"] for each in gateway.get("/v1/models").json()["data"]]
            assert {"support", "assistant", *NAMES} <= set(models)
            messages = [{"role": "user", "content": "When do I reef the sails?"}]
            body = {"model": "assistant", "max_tokens": 3, "messages": messages}
            answer = gateway.post("/v1/chat/completions?explain=1", json=body)
            assert answer.status_code == 200, answer.text
            told = json.loads(answer.headers["x-quarterdeck-explain"])["steps"]
            assert [(step["step"], step["outcome"], step.get("documents")) for step in told] == [
                ("guard", "passed", None), ("retriever", "answered", 1),
                ("reranker", "answered", 1), ("model", "answered", 1),
            ]  # fmt: skip
        openai = OpenAI(base_url=f"{platform.gateway_url}/v1", api_key=platform.key)
        stream = openai.chat.completions.create(**body, stream=True)  # type: ignore[call-overload]
        assert len(list(stream)) >= 2
        assert platform.quarterdeck("delete", "service/handbook-rerank").returncode == 0
        client.wait_for_service("support", until="degraded", timeout=60)
        why = platform.quarterdeck("why", "service/support").stdout
        assert "StepMissing" in why
        assert "step 3 (reranker): service/handbook-rerank does not exist" in why
        for name in NAMES:
            if name != "handbook-rerank":
                assert platform.quarterdeck("delete", f"service/{name}").returncode == 0
        deadline = time.monotonic() + 90
        while any(service.name in NAMES for service in client.services.list()):
            assert time.monotonic() < deadline
            time.sleep(0.3)


def _seen_on_the_command_line(platform: Platform) -> None:
    listed = platform.quarterdeck("services").stdout.splitlines()
    (line,) = [line for line in listed if line.startswith("support ")]
    assert "guard → handbook-search → handbook-rerank → chat" in line
    assert " ready " in line and " 4/4 " in line
    described = platform.quarterdeck("describe", "service/support").stdout
    assert "STEP" in described and "chain guard →" in described
    why = platform.quarterdeck("why", "service/support").stdout
    assert "step 2 (retriever): service/handbook-search is ready" in why
    scaled = platform.quarterdeck("scale", "service/support", "--replicas", "2")
    assert scaled.returncode != 0 and "is a chain" in scaled.stderr
    shown = platform.quarterdeck("rollout", "service/support")
    assert shown.returncode == 0 and "finished: 4 steps ready" in shown.stderr
