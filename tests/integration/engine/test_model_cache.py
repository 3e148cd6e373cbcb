"""A node's copies of models: fetched once, gone on with, checked, and never at others' cost."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from quarterdeck.artifacts import ArtifactStore, Corrupt, DiskFull, UnsafePath
from quarterdeck.artifacts.digests import file_digest
from quarterdeck.specs.beats import FileEntry
from quarterdeck.specs.protocol import ResolvedAsset
from quarterdeck_workers.engine import model_cache
from quarterdeck_workers.engine.model_cache import Stopped, copy_folder, open_lock, unfinished, warm
from quarterdeck_workers.engine.model_files import local_folder
from quarterdeck_workers.engine.start_progress import StartProgress
from tests.weights_server import WeightsServer

BIG = 12 * 2**20
DIGEST = "sha256:" + "a" * 64


@dataclass(frozen=True)
class Disk:
    total: int
    free: int


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WeightsServer]:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(BIG))
    with WeightsServer(folder) as server:
        yield server


def entries(server: WeightsServer) -> list[FileEntry]:
    return [
        FileEntry(path=file.name, size=file.stat().st_size, sha256=file_digest(file))
        for file in sorted(server.folder.iterdir())
    ]


def bring(
    server: WeightsServer, home: Path, files: list[FileEntry] | None = None,
    stop_at: int | None = None, disk: Disk | None = None,
) -> tuple[bool, list[int]]:  # fmt: skip
    told: list[int] = []
    store = ArtifactStore(server.uri)
    options = {"usage": lambda _: disk} if disk else {}
    found = warm(
        store, entries(server) if files is None else files, copy_folder(home, DIGEST), told.append,
        lambda: stop_at is not None and bool(told) and told[-1] >= stop_at, **options,
    )  # fmt: skip
    return found, told


def test_a_copy_is_fetched_once_and_tells_how_far_it_is(
    server: WeightsServer, tmp_path: Path
) -> None:
    found, told = bring(server, tmp_path)
    assert not found
    assert told == sorted(told) and told[-1] == BIG + 2
    copy = copy_folder(tmp_path, DIGEST)
    assert (copy / "model.safetensors").read_bytes() == (
        server.folder / "model.safetensors"
    ).read_bytes()
    sent = server.sent
    assert bring(server, tmp_path) == (True, [])
    assert server.sent == sent


def test_an_interrupted_copy_goes_on_where_it_was(server: WeightsServer, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        bring(server, tmp_path, stop_at=BIG * 2 // 3)
    assert not copy_folder(tmp_path, DIGEST).exists()
    server.sent = 0
    found, told = bring(server, tmp_path)
    assert not found and told[-1] == BIG + 2
    assert server.sent < BIG * 2 // 3  # what was there was not asked for again


def test_an_interrupted_copy_of_s3_goes_on(server: WeightsServer, tmp_path: Path) -> None:
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    place = {"endpoint_url": f"http://{host}:{port}", "region_name": "us-east-1"}
    options = {"key": "testing", "secret": "testing", "client_kwargs": place}
    fsspec.filesystem("s3", **options).mkdir("weights", region_name="us-east-2")
    store = ArtifactStore("s3://weights/m", options)
    files = store.put_folder(server.folder)
    told: list[int] = []
    copy = copy_folder(tmp_path, DIGEST)
    try:
        with pytest.raises(Stopped):
            warm(store, files, copy, told.append, lambda: bool(told) and told[-1] > BIG // 2)
        there = (unfinished(copy) / "model.safetensors").stat().st_size
        assert BIG // 3 < there < BIG
        assert not warm(store, files, copy, told.append, lambda: False)
    finally:
        s3.stop()
    assert file_digest(copy / "model.safetensors") == files[1].sha256


def test_what_was_left_of_another_content_is_fetched_anew(
    server: WeightsServer, tmp_path: Path
) -> None:
    part = unfinished(copy_folder(tmp_path, DIGEST))
    part.mkdir(parents=True)
    (part / "model.safetensors").write_bytes(os.urandom(BIG // 2))
    (part / "config.json").write_text("{ too long }")
    (part / "of another version").touch()
    bring(server, tmp_path)
    assert {file.name: file.read_bytes() for file in copy_folder(tmp_path, DIGEST).iterdir()} == {
        file.name: file.read_bytes() for file in server.folder.iterdir()
    }


def test_a_wrong_digest_leaves_no_copy(server: WeightsServer, tmp_path: Path) -> None:
    files = entries(server)
    wrong = [files[0], files[1].model_copy(update={"sha256": "b" * 64})]
    with pytest.raises(Corrupt, match=r"model\.safetensors: sha256"):
        bring(server, tmp_path, wrong)
    short = [files[0], files[1].model_copy(update={"size": BIG + 5})]
    with pytest.raises(Corrupt, match=f"{BIG} bytes, not {BIG + 5}"):
        bring(server, tmp_path, short)
    assert not copy_folder(tmp_path, DIGEST).exists()


def test_a_path_that_leads_out_is_refused(server: WeightsServer, tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(UnsafePath):
        bring(server, tmp_path, [FileEntry(path="../../out", size=0, sha256=empty)])
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_before_the_first_byte_and_costs_no_copy(
    server: WeightsServer, tmp_path: Path
) -> None:
    other = tmp_path / model_cache.CACHE / "other"
    other.mkdir(parents=True)
    (other / "weights").write_bytes(b"x" * 100)
    with pytest.raises(DiskFull) as full:
        bring(server, tmp_path, disk=Disk(total=BIG * 10, free=BIG * 2 - 1000))
    assert (full.value.needed, full.value.free) == (BIG + 2, BIG - 1000 + 100)
    assert other.is_dir() and server.sent == 0


def test_unused_copies_make_room_and_used_ones_do_not(
    server: WeightsServer, tmp_path: Path
) -> None:
    cache = tmp_path / model_cache.CACHE
    for name in ("used", "unused", "given-up.part"):
        (cache / name).mkdir(parents=True)
        (cache / name / "weights").write_bytes(b"x" * 1000)
    held = open_lock(cache / "used")
    fcntl.flock(held, fcntl.LOCK_SH)
    bring(server, tmp_path, disk=Disk(total=BIG * 10, free=BIG * 2 - 1500))
    os.close(held)
    assert sorted(folder.name for folder in cache.iterdir() if folder.is_dir()) == sorted(
        ["used", copy_folder(tmp_path, DIGEST).name]
    )


def test_a_replica_waits_for_a_copy_in_the_making_and_tells_how_far_it_is(tmp_path: Path) -> None:
    store = ArtifactStore("memory://models/waited")
    store.put_bytes(b"x" * 100, "model.safetensors")
    asset = ResolvedAsset(kind="model", name="m", version=1, digest=DIGEST, uri=store.uri)
    copy = copy_folder(tmp_path, DIGEST)
    making = open_lock(copy)
    fcntl.flock(making, fcntl.LOCK_EX)
    unfinished(copy).mkdir()
    (unfinished(copy) / "model.safetensors").write_bytes(b"x" * 40)
    said: list[str] = []
    progress = StartProgress(said.append, time.monotonic)
    answers: list[Path] = []
    replica = threading.Thread(
        target=lambda: answers.append(
            local_folder(asset, {}, tmp_path / "work" / "run-1", progress)
        )
    )
    replica.start()
    deadline = time.monotonic() + 30
    while not any("0.0/0.0 GiB" in words for words in said):
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    assert progress.bytes_done == 40
    unfinished(copy).rename(copy)
    os.close(making)
    replica.join(30)
    assert answers == [copy]
    assert (copy / "model.safetensors").stat().st_size == 40  # not fetched again


def test_two_that_want_the_same_copy_fetch_it_once(server: WeightsServer, tmp_path: Path) -> None:
    server.hold_after = BIG // 2
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(bring(server, tmp_path)[0]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert server.held.wait(30)
    server.go_on.set()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [False, True]
    assert server.sent < BIG * 1.5
