"""The entry point of a service's rank: what it reports, how it drains, how it fails."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from quarterdeck.artifacts.store import ArtifactStore
from quarterdeck.specs.protocol import ResolvedAsset
from quarterdeck_workers.engine.builtin_server import EngineArguments
from quarterdeck_workers.engine.loading import load
from quarterdeck_workers.engine.model_cache import make_room
from quarterdeck_workers.engine.model_files import local_folder
from quarterdeck_workers.engine.start_progress import StartProgress


def test_a_replica_reports_serves_drains_and_ends(
    replicas: ModuleType, model_folder: Path, tmp_path: Path
) -> None:
    replica = replicas.Replica("run-a", model_folder.as_uri(), tmp_path)
    try:
        endpoint = replica.endpoint()
        assert endpoint["probed"] and endpoint["models"] == ["chat"]
        phases = [message["message"] for message in replica.of("phase")]
        assert phases[0].startswith("loading weights") and "probing" in phases
        (started,) = replica.of("event")
        assert started["event"] == "replica.started"
        assert {"weights", "probe"} <= set(started["data"]["seconds"])
        assert started["data"]["weights_bytes"] > 0
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
        assert len(replica.of("event")) == 1
    finally:
        replica.close()


def test_a_missing_model_fails_by_name(replicas: ModuleType, tmp_path: Path) -> None:
    replica = replicas.Replica("run-b", (tmp_path / "absent").as_uri(), tmp_path)
    try:
        _, errors = replica.process.communicate(timeout=60)
        assert replica.process.returncode == 1
        assert "FileNotFoundError" in errors and "absent" in errors
        assert not replica.of("endpoint")
        (failure,) = replica.of("failure")
        assert failure["reason"] == "ModelMissing" and failure["blame"] == "data"
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


def asset(uri: str, digest: str) -> ResolvedAsset:
    return ResolvedAsset(kind="model", name="tiny", version=1, digest=digest, uri=uri)


def test_a_remote_model_is_copied_to_the_node_once_for_all_runs(
    model_folder: Path, tmp_path: Path
) -> None:
    store = ArtifactStore("memory://models/tiny")
    store.put_folder(model_folder)
    remote = asset("memory://models/tiny", "sha256:" + "a" * 64)
    said: list[str] = []
    progress = StartProgress(said.append, time.monotonic)
    folder = local_folder(remote, {}, tmp_path / "work" / "run-1", progress)
    assert folder.is_relative_to(tmp_path / "models") and said
    assert load(folder, device="cpu").context_length == 128
    mark = folder / "mark"
    mark.touch()
    again = local_folder(remote, {}, tmp_path / "work" / "run-2", progress)
    assert again == folder and mark.exists()  # not fetched a second time
    own = local_folder(asset(remote.uri, "-"), {}, tmp_path / "work" / "run-3", progress)
    assert own.is_relative_to(tmp_path / "work" / "run-3")


def test_room_is_made_of_copies_that_nobody_uses(tmp_path: Path) -> None:
    for age, name in enumerate(("used", "old", "new")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (age, age))
    held = os.open(tmp_path / "used.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_SH)
    assert make_room(tmp_path, 0) == [] or shutil.disk_usage(tmp_path).free < 2**30
    assert make_room(tmp_path, 2**60) == ["old", "new"]
    assert (tmp_path / "used").is_dir()
    os.close(held)
