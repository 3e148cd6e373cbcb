"""A real api on a loopback port with a real controller, and an agent that plays the machines
with the clients that agents and supervisors use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from quarterdeck.api.app import create_app
from quarterdeck.api.settings import ApiSettings
from quarterdeck.client import AgentClient, Client, RunClient
from quarterdeck.client.config import read_key
from quarterdeck.controller.loop import Controller
from quarterdeck.processes.api import seed
from quarterdeck.processes.home import Home, prepare
from quarterdeck.processes.keys import key_files
from quarterdeck.specs.beats import BeatReply, LogChunk, RunBeat
from quarterdeck.specs.protocol import AgentBeat, NodeReport, RunOrder
from quarterdeck.specs.resources import Job
from quarterdeck.store import migrate
from quarterdeck.store.sessions import Database


@dataclass
class Platform:
    """One api, its controller, and a machine with four slots."""

    url: str
    home: Home
    controller: Controller
    agent: AgentClient
    orders: dict[str, RunOrder] = field(default_factory=dict)
    seqs: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return read_key(self.home.admin_key)

    def settle(self) -> None:
        """Let the controller do all that there is to do."""
        for _ in range(50):
            if not self.controller.tick():
                return
        raise AssertionError("the controller does not come to rest")

    def agent_beat(self) -> None:
        nodes = [NodeReport(node_id="node-1", host="one", address="127.0.0.2", slots=4, cpus=4)]
        beat = AgentBeat(agent_id="agent-1", started_at=datetime.now(UTC), nodes=nodes)
        for run in self.agent.beat("local", beat).start:
            self.orders[run.run_id] = self.agent.claim(run.run_id, run.epoch, "agent-1")

    def work(self) -> None:
        """Place and claim whatever can start."""
        self.agent_beat()
        self.settle()
        self.agent_beat()

    def run_beat(self, run_id: str, phase: Any, **content: Any) -> BeatReply:
        order = self.orders[run_id]
        seq = self.seqs[run_id] = self.seqs.get(run_id, 0) + 1
        beat = RunBeat(
            epoch=order.epoch, seq=seq, sent_at=datetime.now(UTC), reported_phase=phase, **content
        )
        with RunClient(self.url, order.run_key) as client:
            reply = client.beat(run_id, beat)
        self.settle()
        return reply

    def write(self, run_id: str, *lines: str, rank: int = 0) -> None:
        """Report that a rank wrote lines."""
        seq = self.seqs.get(run_id, 0) + 1
        chunk = LogChunk(rank=rank, seq=seq, lines=[(1_700_000_000.0 + seq, x) for x in lines])
        self.run_beat(run_id, "running", logs=[chunk])


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    home = Home(tmp_path / ".quarterdeck")
    prepare(home)
    migrate.upgrade(home.database_url)
    database = Database.open(home.database_url)
    seed(database, key_files({}, home))
    settings = ApiSettings(
        database=database, artifacts_uri=home.artifacts_uri, api_url="http://127.0.0.1",
        master_key=read_key(home.master_key), keep_alive_seconds=0.3, poll_seconds=0.02,
    )  # fmt: skip
    config = uvicorn.Config(
        create_app(settings), host="127.0.0.1", port=0, log_level="warning",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the api did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    home.url_file.write_text(url)
    with AgentClient(url, read_key(home.agent_key)) as agent:
        yield Platform(url, home, Controller(database), agent)
    server.should_exit = True
    thread.join()
    database.close()


@pytest.fixture
def client(platform: Platform) -> Iterator[Client]:
    with Client(platform.url, platform.key) as client:
        yield client


@pytest.fixture
def running_job(platform: Platform, client: Client) -> Callable[..., Job]:
    """Starts a command job of two ranks that runs."""

    def start(name: str = "hello", **fields: Any) -> Job:
        document = {"kind": "command", "name": name, "command": "true", "ranks": 2, **fields}
        job = client.submit(document)
        platform.settle()
        platform.work()
        job = client.jobs.get(job.id)
        assert job.run_id is not None
        platform.run_beat(job.run_id, "starting")
        platform.run_beat(job.run_id, "running")
        return client.jobs.get(job.id)

    return start
