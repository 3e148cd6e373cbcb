"""Weights brought to a node ahead, its agent killed meanwhile; then a service that needs no
download."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from quarterdeck.artifacts import folder_digest
from quarterdeck.artifacts.digests import file_digest
from quarterdeck.cli.output import size
from quarterdeck.processes.chaos_targets import chosen, targets
from quarterdeck.processes.home import Home
from quarterdeck.specs.beats import FileEntry
from quarterdeck.store.ids import new_id
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import AssetVersionRow
from tests.e2e.conftest import Platform
from tests.weights_server import WeightsServer

MORE = 48 * 2**20
HELD_AFTER = MORE * 3 // 4


def make_model(folder: Path) -> list[FileEntry]:
    """A tiny model with a large file beside it."""
    file = Path(__file__).parents[1] / "integration" / "engine" / "tiny.py"
    spec = importlib.util.spec_from_file_location("tiny", file)
    assert spec is not None and spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    tiny.make_model_folder(folder)
    (folder / "a-large.dat").write_bytes(os.urandom(MORE))
    return [
        FileEntry(path=each.name, size=each.stat().st_size, sha256=file_digest(each))
        for each in sorted(folder.iterdir())
    ]


def publish(home: Path, name: str, uri: str, files: list[FileEntry]) -> None:
    """Register a version in a remote store, as a job of another cluster would have."""
    database = Database.open(Home(home).database_url)
    with database.write() as session:
        session.add(
            AssetVersionRow(
                id=new_id("ver"), kind="model", name=name, project="default", version=1, uri=uri,
                digest=folder_digest(files), size=sum(file.size for file in files),
                files=[file.model_dump(mode="json") for file in files],
            )
        )  # fmt: skip
    database.close()


def soon(what: Callable[[], bool], limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_weights_survive_an_agent_and_serve_without_a_download(
    platform: Platform, tmp_path: Path
) -> None:
    files = make_model(tmp_path / "model")
    total = sum(file.size for file in files)
    with platform.client() as client, WeightsServer(tmp_path / "model", HELD_AFTER) as server:
        publish(platform.home, "ahead", server.uri, files)
        asked = platform.quarterdeck("models", "warm", "ahead", "--no-wait", "-o", "json")
        assert asked.returncode == 0, asked.stderr
        assert [node["state"] for node in json.loads(asked.stdout)] == ["waiting"]
        assert server.held.wait(60)
        soon(lambda: client.models.warmth("ahead", 1).nodes[0].state == "fetching")
        late = platform.quarterdeck("models", "warm", "ahead", "--timeout", "3s")
        assert late.returncode == 5, late.stdout + late.stderr
        assert "is not on" in late.stderr and " of 48." in late.stderr

        (agent,) = chosen(targets(Home(platform.home)), "agent")
        agent.processes[0].kill()
        server.go_on.set()
        there = platform.quarterdeck("models", "warm", "ahead@1", timeout=180)
        assert there.returncode == 0, there.stdout + there.stderr
        title, row = there.stdout.splitlines()
        assert title.split() == ["NODE", "STATE", "BYTES", "SECONDS"]
        assert row.split()[1] == "ready" and size(total) in row
        # From the start again it would be HELD_AFTER more; a client reads blocks of some MiB.
        assert server.sent < total + MORE // 2
        again = platform.quarterdeck("models", "warm", "model/ahead:1")
        assert again.returncode == 0 and "already there" in again.stdout
        sent = server.sent
    # The server is gone: nothing can be fetched any more.
    with platform.client() as client:
        warmed = [event for event in client.events() if event.type == "model.warmed"]
        assert [event.data["found"] for event in warmed] == [False, True]
        client.apply([{"kind": "service", "name": "ahead", "model": "ahead@1"}])
        client.wait_for_service("ahead", timeout=180)
        answer = httpx.post(
            f"{platform.gateway_url}/v1/completions", timeout=60,
            headers={"Authorization": f"Bearer {platform.key}"},
            json={"model": "ahead", "prompt": "the", "max_tokens": 2},
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        client.services.delete("ahead")
    assert server.sent == sent


def test_what_a_node_cannot_fetch_is_told(platform: Platform, tmp_path: Path) -> None:
    files = make_model(tmp_path / "model")
    huge = [*files, FileEntry(path="huge.safetensors", size=10**15, sha256="0" * 64)]
    publish(platform.home, "huge", "http://127.0.0.1:9/model", huge)
    found = platform.quarterdeck("models", "warm", "huge")
    assert found.returncode == 1
    assert "needs 1,000,000." in found.stdout and "failed" in found.stdout
    publish(platform.home, "elsewhere", (tmp_path / "nowhere").as_uri(), files)
    found = platform.quarterdeck("models", "warm", "elsewhere")
    assert found.returncode == 1 and "missing" in found.stdout
    wrong = platform.quarterdeck("models", "warm", "nothing")
    assert wrong.returncode == 1 and "nothing" in wrong.stderr
    both = platform.quarterdeck("models", "warm", "huge", "--node", "a", "--cluster", "b")
    assert both.returncode == 2
