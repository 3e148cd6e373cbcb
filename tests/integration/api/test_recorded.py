"""What agents and supervisors of older versions really said, replayed to this api (invariant 11).

Each folder of `recorded/` is a version; tools/record_payloads.py writes it. The older side must be
understood, and must find in today's answers all that it needs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from quarterdeck.controller.loop import Controller
from quarterdeck.specs.beats import BeatReply
from quarterdeck.specs.protocol import AgentWork, RunOrder
from quarterdeck.store.tables import RunRow
from tests.integration.api.conftest import Platform

RECORDED = Path(__file__).parent / "recorded"
VERSIONS = sorted(folder.name for folder in RECORDED.iterdir() if folder.is_dir())
JOBS = {"steps": "succeeded", "fails": "failed", "texts": "succeeded"}


class Older:
    """One version's recordings, and how it reads answers."""

    def __init__(self, version: str) -> None:
        self._folder = RECORDED / version
        self._schemas = self["schemas"]

    def __getitem__(self, name: str) -> Any:
        return json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))

    def understands(self, model: str, answer: Any) -> Any:
        """Today's `answer`, checked as that version's `model` would check it."""
        assert answer.status_code == 200, answer.text
        jsonschema.validate(answer.json(), self._schemas[model])
        return answer.json()


@pytest.fixture(params=VERSIONS)
def older(request: pytest.FixtureRequest) -> Older:
    return Older(request.param)


def test_an_older_agent_and_its_supervisors_are_served(platform: Platform, older: Older) -> None:
    first = older["agent-beat"]["request"]
    path = "/agents/recorded"
    older.understands("AgentWork", platform.agent.post(f"{path}/beat", first))
    platform.admin.put("/secrets/TOKEN", {"value": "hunter2"})
    for name in JOBS:
        spec = older[f"claim-{name}"]["answer"]["spec"]
        answer = platform.admin.post("/jobs", spec)
        assert answer.status_code == 201, answer.text
    controller = Controller(platform.database)
    for _ in range(3):
        controller.tick()
    work = older.understands("AgentWork", platform.agent.get(f"{path}/work"))
    assert len(work["start"]) == len(JOBS)
    for start in work["start"]:
        with platform.database.read() as session:
            name = session.get_one(RunRow, start["run_id"]).owner_name
        claim = {**older[f"claim-{name}"]["request"], "agent_id": first["agent_id"]}
        answer = platform.agent.post(f"/runs/{start['run_id']}/claim", claim)
        order = older.understands("RunOrder", answer)
        run = platform.admin.with_key(order["run_key"])
        for beat in older[f"run-beats-{name}"]:
            answer = run.post(f"/runs/{start['run_id']}/beat", beat["request"])
            reply = older.understands("BeatReply", answer)
            assert reply["acked_seq"] == beat["request"]["seq"] == beat["answer"]["acked_seq"]
            assert reply["order"] == beat["answer"]["order"]
    again = older["agent-beat-with-runs"]["request"]
    older.understands("AgentWork", platform.agent.post(f"{path}/beat", again))
    for _ in range(3):
        controller.tick()
    check_what_became_of_it(platform)


def check_what_became_of_it(platform: Platform) -> None:
    admin = platform.admin
    phases = {job["name"]: job["phase"] for job in admin.get("/jobs").json()["items"]}
    assert phases == JOBS
    metrics = admin.get("/jobs/steps/metrics").json()["items"]
    assert [(row["step"], row["values"]["loss"]) for row in metrics] == [(1, 3.0), (2, 1.5), (3, 1)]
    lines = [line["line"] for line in admin.get("/jobs/steps/logs").json()["items"]]
    assert lines == ["step 1", "step 2", "step 3"]
    assert admin.get("/jobs/steps/checkpoints").json()["items"][0]["step"] == 3
    assert admin.get("/jobs/texts").json()["outputs"] == ["dataset/texts@1"]
    failure = admin.get("/jobs/fails").json()["failure"]
    assert (failure["blame"], failure["exit_code"]) == ("user_code", 3)


def test_an_older_api_is_understood_by_this_agent_and_its_supervisors(older: Older) -> None:
    for name in ("agent-beat", "agent-beat-with-runs", "agent-work"):
        AgentWork.model_validate(older[name]["answer"])
    for name in JOBS:
        order = RunOrder.model_validate(older[f"claim-{name}"]["answer"])
        assert order.owner_name == name and order.run_key
        for beat in older[f"run-beats-{name}"]:
            BeatReply.model_validate(beat["answer"])
