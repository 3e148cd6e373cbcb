"""The entry point of a service's rank: what it reports, how it drains, how it fails."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from quarterdeck.artifacts.store import ArtifactStore
from quarterdeck_workers.engine.loading import load
from quarterdeck_workers.engine.serve import EngineArguments, local_folder


def test_a_replica_reports_serves_drains_and_ends(
    replicas: ModuleType, model_folder: Path, tmp_path: Path
) -> None:
    replica = replicas.Replica("run-a", model_folder.as_uri(), tmp_path)
    try:
        endpoint = replica.endpoint()
        assert endpoint["probed"] and endpoint["models"] == ["chat"]
        phases = [message["message"] for message in replica.of("phase")]
        assert phases[0] == "loading tiny@1" and "probing" in phases
        assert [m["running"] for m in replica.of("phase")][-1] is True
        body = {"model": "chat", "prompt": "the", "ignore_eos": True, "stream": True}
        pieces: list[str] = []
        began = threading.Event()

        def read() -> None:
            with httpx.stream(
                "POST",
                endpoint["url"] + "/v1/completions",
                json={**body, "max_tokens": 100, "n": 8},
                timeout=60,
            ) as stream:
                for line in stream.iter_lines():
                    pieces.append(line)
                    began.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert began.wait(30)
        replica.ask_to_stop(30)
        reader.join(60)
        assert pieces[-2] == "data: [DONE]"
        assert replica.process.wait(30) == 0
        assert any("draining" in m["message"] for m in replica.of("phase"))
        assert not replica.of("event")
    finally:
        replica.close()


def test_a_missing_model_fails_by_name(replicas: ModuleType, tmp_path: Path) -> None:
    replica = replicas.Replica("run-b", (tmp_path / "absent").as_uri(), tmp_path)
    try:
        _, errors = replica.process.communicate(timeout=60)
        assert replica.process.returncode == 1
        assert "FileNotFoundError" in errors and "absent" in errors
        assert not replica.of("endpoint")
    finally:
        replica.close()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_model_length": 5}, "max_model_length"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_batch_size": True}, "max_batch_size"),
        ({"max_waiting": 1.5}, "max_waiting"),
        ({"device": 3}, "device"),
    ],
)
def test_wrong_engine_args_are_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EngineArguments.parse(values)  # type: ignore[arg-type]


def test_a_context_longer_than_the_model_is_refused(model_folder: Path) -> None:
    loaded = load(model_folder, device="cpu")
    with pytest.raises(ValueError, match=r"129.*128"):
        EngineArguments(max_model_len=129).limits(loaded)
    assert EngineArguments(max_model_len=64).limits(loaded).max_model_len == 64


def test_a_model_of_a_remote_store_is_copied_to_the_node(
    model_folder: Path, tmp_path: Path
) -> None:
    store = ArtifactStore("memory://models/tiny")
    store.put_folder(model_folder)
    folder = local_folder("memory://models/tiny", {}, tmp_path)
    assert folder.is_relative_to(tmp_path)
    assert load(folder, device="cpu").context_length == 128
