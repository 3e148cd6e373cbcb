"""Engines that share one slot, on the real platform: the way from the file to their answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from quarterdeck.client.errors import NotFound
from tests.e2e.conftest import Platform

sys.path.append(str(Path(__file__).parents[1] / "integration" / "engine"))
from tiny import make_model_folder

SLOTS = 10


def service(name: str, model: Path, share: str, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "service", "name": name, "model": model.as_uri(),
        "resources": {"accelerator_share": share}, **fields,
    }  # fmt: skip


def wait(what: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return found


def test_three_replicas_of_two_services_answer_from_one_slot(
    platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = make_model_folder(tmp_path_factory.mktemp("model"))
    with platform.client() as client:
        client.apply([{"kind": "command", "name": "rest", "command": "sleep 600",
                       "ranks": SLOTS - 1}])  # fmt: skip
        client.wait("rest", until="running", timeout=120)
        try:
            client.apply([service("one", model, "40%", replicas=2), service("two", model, "20%")])
            wait(lambda: all(client.services.get(n).phase == "ready" for n in ("one", "two")))
            (node,) = client.nodes.list()
            (slot,) = node.shared_slots
            assert node.slots_free == 0 and slot.free == 0.0
            held = sorted((one.owner, one.share) for one in slot.holders)
            assert held == [("service/one", 0.4), ("service/one", 0.4), ("service/two", 0.2)]
            replicas = [one for n in ("one", "two") for one in client.services.get(n).replicas]
            assert len({replica.url for replica in replicas}) == 3, "each has a port of its own"

            openai = OpenAI(base_url=f"{platform.gateway_url}/v1", api_key=platform.key)
            for name in ("one", "one", "two"):
                answer = openai.completions.create(model=name, prompt="a", max_tokens=3)
                assert answer.usage is not None and answer.usage.completion_tokens >= 1

            client.apply([service("late", model, "30%")])
            wait(lambda: "the freest" in platform.quarterdeck("why", "service/late").stdout)
            why = platform.quarterdeck("why", "service/late").stdout
            assert "needs 0.3 of a slot" in why and "has 0 left" in why
            listed = platform.quarterdeck("nodes").stdout
            assert f"0/{SLOTS}" in listed and "0 free" in listed
            described = platform.quarterdeck("describe", f"node/{node.host}").stdout
            assert "shared slot 0: service/one 0.4" in described

            client.services.delete("two")
            wait(lambda: "has 0.2 left" in platform.quarterdeck("why", "service/late").stdout)
            client.services.delete("one")
            wait(lambda: client.services.get("late").phase == "ready")
        finally:
            for name in ("one", "two", "late"):
                with suppress(NotFound):
                    client.services.delete(name)
            client.jobs.cancel("rest")
        wait(lambda: client.nodes.list()[0].slots_free == SLOTS)
    assert platform.quarterdeck("doctor").returncode == 0
