"""Weights that the control plane wants on nodes ahead: a real agent, real nodes, a real server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import Machine, marked
from worker_recorder import Recorder

from quarterdeck.artifacts.digests import file_digest
from quarterdeck.specs.beats import FileEntry
from quarterdeck.specs.protocol import ResolvedAsset, WeightsOrder
from quarterdeck.specs.warming import WarmReport, WeightsToWarm
from tests.weights_server import WeightsServer

SIZE = 24 * 2**20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WeightsServer]:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(os.urandom(SIZE))
    with WeightsServer(folder, hold_after=SIZE // 2) as server:
        yield server


@pytest.fixture(scope="module")
def beside(
    recorder: Recorder, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A second machine."""
    beside = Machine(tmp_path_factory.mktemp("w"), recorder.url, 1, "127.0.0.8", join=True)
    try:
        recorder.wait(lambda: node_at(recorder, "127.0.0.8"), 90)
        yield beside
    finally:
        beside.close()
    assert marked(beside.home) == []


@pytest.fixture(autouse=True)
def nothing_wanted(recorder: Recorder) -> Iterator[None]:
    yield
    recorder.warm = []
    recorder.wait(lambda: not recorder.agent_beats[-1].warmed)


def node_at(recorder: Recorder, address: str) -> str:
    return next((node.node_id for node in recorder.nodes if node.address == address), "")


def offer(recorder: Recorder, server: WeightsServer, asset: str, **changes: str) -> Path:
    """Let the api know a version; the name of its copy below a home."""
    file = server.folder / "model.safetensors"
    entry = FileEntry(path=file.name, size=SIZE, sha256=file_digest(file))
    digest = f"digest-of-{asset}".ljust(32, "0")
    recorder.weights[asset] = WeightsOrder(
        model=ResolvedAsset(kind="model", name=asset, version=1, digest=digest, uri=server.uri),
        files=[entry.model_copy(update=changes)],
    )
    return Path("models", digest)


def report(recorder: Recorder, asset: str, node: str, state: str, asked: int = 1) -> WarmReport:
    def found() -> WarmReport | None:
        told = recorder.warmed(asset, node, asked)
        return told if told is not None and told.state == state else None

    told = recorder.wait(found)
    assert isinstance(told, WarmReport)
    return told


def fetchers(machine: Machine) -> list[psutil.Process]:
    found = []
    for pid, _ in marked(machine.home):
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if "WeightsFetcher" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_two_nodes_fetch_each_its_own_copy_out_of_the_way(
    recorder: Recorder, machine: Machine, beside: Machine, server: WeightsServer
) -> None:
    copy = offer(recorder, server, "both")
    nodes = {home: node_at(recorder, address) for home, address in (
        (machine.home, "127.0.0.2"), (beside.home, "127.0.0.8"),
    )}  # fmt: skip
    recorder.warm = [WeightsToWarm(asset_id="both", node_id=node) for node in nodes.values()]
    for node in nodes.values():
        report(recorder, "both", node, "fetching")
    assert server.held.wait(60)
    (one,) = fetchers(machine)
    assert one.nice() >= 10
    server.go_on.set()
    for home, node in nodes.items():
        done = report(recorder, "both", node, "ready")
        assert (done.bytes_done, done.found, done.message) == (SIZE, False, "")
        assert done.seconds > 0 and done.rate > 0
        assert (home / copy / "model.safetensors").stat().st_size == SIZE
    assert server.sent >= 2 * SIZE
    recorder.wait(lambda: not fetchers(machine) and not fetchers(beside))
    # Told until the list no longer names it; asked again, it looks again.
    assert recorder.warmed("both", nodes[machine.home]) is not None
    recorder.warm = [WeightsToWarm(asset_id="both", node_id=nodes[machine.home], asked=2)]
    assert report(recorder, "both", nodes[machine.home], "ready", asked=2).found
    assert recorder.warmed("both", nodes[machine.home]) is None


def test_one_at_a_time_on_a_node_and_what_is_not_wanted_any_more_ends(
    recorder: Recorder, machine: Machine, server: WeightsServer
) -> None:
    copies = [offer(recorder, server, asset) for asset in ("first", "second")]
    node = node_at(recorder, "127.0.0.2")
    recorder.warm = [WeightsToWarm(asset_id=asset, node_id=node) for asset in ("first", "second")]
    report(recorder, "first", node, "fetching")
    assert server.held.wait(60)
    beats = len(recorder.agent_beats)
    recorder.wait(lambda: len(recorder.agent_beats) > beats + 4)
    assert recorder.warmed("second", node) is None
    recorder.warm = recorder.warm[1:]
    report(recorder, "second", node, "fetching")
    assert recorder.warmed("first", node) is None
    server.go_on.set()
    report(recorder, "second", node, "ready")
    assert not (machine.home / copies[0]).exists()
    assert (machine.home / copies[1]).is_dir()
    # What was there of the first is not fetched again.
    server.sent = 0
    recorder.warm = [WeightsToWarm(asset_id="first", node_id=node, asked=2)]
    report(recorder, "first", node, "ready", asked=2)
    assert 0 < server.sent < SIZE


def test_what_is_wrong_or_breaks_off_is_told(
    recorder: Recorder, machine: Machine, server: WeightsServer
) -> None:
    server.go_on.set()
    node = node_at(recorder, "127.0.0.2")
    offer(recorder, server, "wrong", sha256="0" * 64)
    offer(recorder, server, "absent", path="other.safetensors")
    recorder.warm = [WeightsToWarm(asset_id=asset, node_id=node) for asset in ("wrong", "absent")]
    assert "differs from its manifest" in report(recorder, "wrong", node, "failed").message
    assert "FileNotFoundError" in report(recorder, "absent", node, "failed").message


def test_a_machine_that_dies_meanwhile_is_told(
    recorder: Recorder, machine: Machine, beside: Machine, server: WeightsServer
) -> None:
    """The last one here: the second machine is gone afterwards."""
    node = node_at(recorder, "127.0.0.8")
    offer(recorder, server, "doomed")
    recorder.warm = [WeightsToWarm(asset_id="doomed", node_id=node)]
    report(recorder, "doomed", node, "fetching")
    assert server.held.wait(60)
    beside.close()
    told = report(recorder, "doomed", node, "failed")
    assert "on the node died" in told.message
