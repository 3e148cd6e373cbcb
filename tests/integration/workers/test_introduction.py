"""An agent introduces itself before it claims: the api lets only the agent that it knows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

from worker_recorder import Recorder

from quarterdeck.client.agents import AgentClient
from quarterdeck_workers.agent.agent import Agent
from quarterdeck_workers.agent.ray_cluster import RayCluster
from quarterdeck_workers.agent.settings import AgentSettings


class SlowMachines:
    """Machines that take a while to look at, so that the first beat is late."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.beats_before: list[int] = []

    def nodes(self) -> list[Any]:
        time.sleep(1.0)
        return []

    def free_shared_slots(self) -> None:
        """There are none."""

    def strangers(self, known: Any) -> list[Any]:
        return []

    def fetch(self, *_: Any) -> None:
        """Nobody wishes for weights here."""

    def start(self, order: Any) -> None:
        self.beats_before.append(len(self._recorder.agent_beats))
        self.agent.stop()

    agent: Agent


def test_nothing_is_claimed_before_the_first_beat(tmp_path: Path) -> None:
    recorder = Recorder()
    try:
        recorder.submit("early", "command", {"command": "true"}, nodes=["node-1"])
        machines = SlowMachines(recorder)
        beats_at_work: list[int] = []
        settings = AgentSettings(
            recorder.url, "test", tmp_path / "key", tmp_path,
            at_work=lambda: beats_at_work.append(len(recorder.agent_beats)),
        )  # fmt: skip
        with AgentClient(recorder.url, "qd_agent") as client:
            machines.agent = Agent(
                settings, client, cast(RayCluster, machines), agent_id="agent-1",
                address="127.0.0.1:1", token="", on_node=lambda node: None,
                ray_alive=lambda: True,
            )  # fmt: skip
            machines.agent.run()
        assert recorder.claimed == {"early": "agent-1"}
        (beats,) = machines.beats_before
        assert beats >= 1
        assert beats_at_work[0] == 1  # it shows life once the api has taken a beat
    finally:
        recorder.close()
