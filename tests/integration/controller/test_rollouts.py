"""Rollouts in the database: surge, canary with its judgement, the way back, aliases, repair."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.specs.beats import OutputAsset
from quarterdeck.specs.observations import GatewayObservations
from quarterdeck.store.asset_queries import get_version, set_alias
from quarterdeck.store.observations import record_observations
from quarterdeck.store.service_queries import get_revision, undo_service, wish_rollout
from quarterdeck.store.tables import NodeRow, RunRow, ServiceRow

READY = {"url": "http://127.0.0.2:9000", "probed": True}
ENDED = ("failed", "lost", "cancelled", "succeeded")
CANARY: dict[str, Any] = {
    "strategy": "canary",
    "steps": [{"weight": "50%", "pause": "1h"}],
    "analysis": {"max_error_rate": "1%", "interval": "10s"},
}


@pytest.fixture
def chat(platform: Any, make: Any) -> str:
    """A service of two replicas that follows an alias, ready."""
    for digest in ("x", "y"):
        _, run = platform.started({"kind": "dataset", "name": "m", "uri": f"file:///{digest}"})
        output = OutputAsset(kind="model", name="m", digest=digest, uri=f"file:///{digest}")
        platform.agent.say(run, "succeeded", outputs=[output])
        platform.controller.tick()
    promote(platform, "1")
    service = {"kind": "service", "name": "chat", "model": "m@prod", "replicas": 2}
    service_id = str(platform.deploy(service))
    settle(platform, service_id)
    assert serving(platform, service_id) == {1: 2}
    return service_id


def promote(platform: Any, version: str) -> None:
    with platform.database.write() as session:
        set_alias(session, get_version(session, "model", "m", "default", version), "prod",
                  actor="ada")  # fmt: skip


def live(platform: Any, service_id: str) -> list[RunRow]:
    return [run for run in platform.runs(service_id) if run.phase not in ENDED]


def serving(platform: Any, service_id: str) -> dict[int, int]:
    """Replicas that nobody told to leave, by revision."""
    counts: dict[int, int] = {}
    for run in live(platform, service_id):
        if run.phase not in ("draining", "stopping"):
            counts[run.revision] = counts.get(run.revision, 0) + 1
    return dict(sorted(counts.items()))


def bring_up(platform: Any) -> None:
    for run in platform.agent.claim_all():
        platform.agent.say(run, "ready", endpoint=READY)


def settle(platform: Any, service_id: str, ticks: int = 8) -> None:
    """What is started becomes ready, what drains is idle and ends."""
    for _ in range(ticks):
        platform.controller.tick()
        bring_up(platform)
        for run in live(platform, service_id):
            if run.phase == "draining":
                platform.age(RunRow, run.id, "order_deadline_at", 100)
            elif run.phase == "stopping":
                platform.agent.say(run, "cancelled")


def fail(platform: Any, make: Any) -> None:
    """Every replica that is started fails."""
    for run in platform.agent.claim_all():
        failure = make["failure"]("user_code", "OSError: [Errno 98] Address already in use")
        platform.agent.say(run, "failed", failure=failure)
    platform.controller.tick()


def wish(platform: Any, service_id: str, what: str) -> None:
    with platform.database.write() as session:
        wish_rollout(session, session.get_one(ServiceRow, service_id), what, actor="ada")


def state(platform: Any, service_id: str) -> dict[str, Any]:
    return dict(platform.service(service_id).rollout)


def test_rolling_starts_one_drains_one(platform: Any, chat: str) -> None:
    assert platform.revise(chat, engine_args={"max_batch": 2}) == 2
    platform.controller.tick()
    assert serving(platform, chat) == {1: 2, 2: 1}
    service = platform.service(chat)
    assert (service.phase, service.reason) == ("deploying", "RollingOut")
    assert "revision 1 → 2" in service.message
    for _ in range(3):
        platform.controller.tick()
    assert serving(platform, chat) == {1: 2, 2: 1}, "the new one is not ready"
    bring_up(platform)
    platform.controller.tick()
    platform.controller.tick()
    assert [run.phase for run in live(platform, chat)].count("draining") == 1
    settle(platform, chat)
    assert serving(platform, chat) == {2: 2} and platform.service(chat).phase == "ready"
    types = platform.event_types(chat)
    assert types.count("rollout.started") == 1 and types.count("rollout.finished") == 1


def test_what_is_no_property_of_replicas_changes_at_once(platform: Any, chat: str) -> None:
    assert platform.revise(chat, replicas=3, labels={"a": "b"}) == 1
    settle(platform, chat)
    assert serving(platform, chat) == {1: 3}
    assert "service.changed" in platform.event_types(chat)


def test_a_crash_loop_of_the_new_revision_goes_back(platform: Any, chat: str, make: Any) -> None:
    platform.revise(chat, engine_args={"max_batch": 2})
    platform.controller.tick()
    for _ in range(3):
        fail(platform, make)
        for run in platform.runs(chat):
            if run.phase == "failed":
                platform.age(RunRow, run.id, "ended_at", 10)
        platform.controller.tick()
        platform.controller.tick()
    service = platform.service(chat)
    assert state(platform, chat)["phase"] == "rolled_back"
    assert "3 replicas failed in a row" in service.message and "port in use" in service.message
    settle(platform, chat)
    assert serving(platform, chat) == {1: 2} and platform.service(chat).phase == "ready"
    assert platform.service(chat).reason == "RolledBack"
    assert platform.event_types(chat).count("rollout.rolled_back") == 1
    wish(platform, chat, "resume")
    settle(platform, chat)
    assert serving(platform, chat) == {2: 2}, "another try is not judged by old failures"


def observe(platform: Any, seq: int, revision: int, requests: int, errors: int) -> None:
    said = {
        "gateway": "g1", "seq": seq,
        "revisions": [{"project": "default", "service": "chat", "revision": revision,
                       "requests": requests, "errors": errors}],
    }  # fmt: skip
    with platform.database.write() as session:
        record_observations(session, GatewayObservations.model_validate(said))


def shift(platform: Any, service_id: str, name: str, seconds: float) -> None:
    """Move a moment of the rollout into the past."""
    from datetime import datetime, timedelta

    with platform.database.write() as session:
        row = session.get_one(ServiceRow, service_id)
        moment = datetime.fromisoformat(row.rollout[name]) - timedelta(seconds=seconds)
        row.rollout = {**row.rollout, name: moment.isoformat()}


def test_a_rollout_without_room_says_so(platform: Any, chat: str) -> None:
    platform.revise(chat, replicas=8)
    settle(platform, chat, 6)
    assert serving(platform, chat) == {1: 8} and platform.service(chat).facts == []
    platform.revise(chat, engine_args={"max_batch": 2})
    settle(platform, chat, 3)
    assert serving(platform, chat) == {1: 8}
    (fact,) = platform.service(chat).facts
    assert fact.startswith("a replica of revision 2 waits: ")
    platform.revise(chat, rollout={"max_surge": 0, "max_unavailable": 1})
    settle(platform, chat, 30)
    assert serving(platform, chat) == {2: 8} and platform.service(chat).facts == []


def test_a_canary_with_too_many_errors_goes_back(platform: Any, chat: str) -> None:
    platform.revise(chat, rollout=CANARY)
    platform.revise(chat, engine_args={"max_batch": 2})
    settle(platform, chat)
    assert serving(platform, chat) == {1: 2, 2: 1} and state(platform, chat)["weight"] == 0.5
    observe(platform, 1, 1, 100, 100)
    observe(platform, 1, 2, 80, 10)
    observe(platform, 1, 2, 80, 80)  # the same report again
    platform.controller.tick()
    assert state(platform, chat)["phase"] == "progressing", "it is judged after its interval"
    shift(platform, chat, "reached_at", 11)
    platform.controller.tick()
    assert state(platform, chat)["phase"] == "rolled_back"
    settle(platform, chat)
    assert serving(platform, chat) == {1: 2}
    assert "error rate 12.5% over 1%, 80 requests" in platform.service(chat).message


def test_a_canary_within_its_bounds_goes_through(platform: Any, chat: str) -> None:
    platform.revise(chat, rollout=CANARY)
    platform.revise(chat, engine_args={"max_batch": 2})
    settle(platform, chat)
    observe(platform, 1, 2, 200, 1)
    shift(platform, chat, "reached_at", 3601)
    settle(platform, chat, 12)
    assert serving(platform, chat) == {2: 2} and platform.service(chat).phase == "ready"
    assert "rollout.step" in platform.event_types(chat)


def test_an_evaluation_of_the_model_version_opens_the_gate(platform: Any, chat: str) -> None:
    gate = {"evaluations": [{"metric": "perplexity", "max": 20}], "interval": "1h"}
    steps = [{"weight": "50%"}]
    platform.revise(chat, rollout={"strategy": "canary", "steps": steps, "analysis": gate})

    def evaluate(version: int, perplexity: float) -> None:
        document = {"kind": "evaluate", "name": "e", "model": f"m@{version}", "datasets": "/d"}
        _, run = platform.started(document)
        platform.agent.say(run, "succeeded", results={"perplexity": perplexity})
        platform.controller.tick()

    promote(platform, "2")
    settle(platform, chat, 10)
    evaluate(1, 5.0)
    shift(platform, chat, "reached_at", 3601)
    settle(platform, chat)
    assert platform.service(chat).reason == "WaitingForEvaluation", "it was of another version"
    evaluate(2, 30.0)
    settle(platform, chat)
    assert serving(platform, chat) == {1: 2}
    assert "perplexity 30 over 20" in platform.service(chat).message
    evaluate(2, 10.0)
    wish(platform, chat, "resume")
    settle(platform, chat)
    shift(platform, chat, "reached_at", 3601)
    settle(platform, chat)
    assert serving(platform, chat) == {2: 2}


def test_pause_undo_and_the_same_replicas_again(platform: Any, chat: str) -> None:
    first = {run.id for run in live(platform, chat)}
    platform.revise(chat, engine_args={"max_batch": 2})
    platform.controller.tick()
    wish(platform, chat, "pause")
    settle(platform, chat, 4)
    assert serving(platform, chat) == {1: 2, 2: 1}
    assert platform.service(chat).reason == "PausedByHand"
    assert platform.service(chat).rollout_wish is None
    with platform.database.write() as session:
        row = session.get_one(ServiceRow, chat)
        undo_service(session, row, get_revision(session, row, 1), actor="ada")
    assert platform.service(chat).revision == 3
    settle(platform, chat)
    assert serving(platform, chat) == {1: 2} and {run.id for run in live(platform, chat)} == first
    assert platform.service(chat).phase == "ready"


def test_promoting_an_alias_rolls_and_undo_holds_against_it(platform: Any, chat: str) -> None:
    promote(platform, "2")
    settle(platform, chat, 10)
    assert serving(platform, chat) == {2: 2} and platform.service(chat).model_version == "m@2"
    with platform.database.write() as session:
        row = session.get_one(ServiceRow, chat)
        assert get_revision(session, row, 2).note == "m@prod is version 2"
        undo_service(session, row, get_revision(session, row, 1), actor="ada")
    settle(platform, chat, 10)
    assert serving(platform, chat) == {1: 2} and platform.service(chat).model_version == "m@1"
    assert platform.service(chat).revision == 3


def test_a_replica_on_a_cordoned_machine_serves_until_another_is_ready(
    platform: Any, chat: str
) -> None:
    old = live(platform, chat)
    node = old[0].placements[0]["node_id"]
    with platform.database.write() as session:
        session.get_one(NodeRow, node).cordoned = True
    on_it = {run.id for run in old if run.placements[0]["node_id"] == node}
    platform.controller.tick()
    assert serving(platform, chat) == {1: 3}, "one more, no fewer"
    assert {run.phase for run in live(platform, chat) if run.id in on_it} == {"ready"}
    settle(platform, chat, 12)
    assert serving(platform, chat) == {1: 2}
    assert not on_it & {run.id for run in live(platform, chat)}


def test_a_replica_that_stays_unhealthy_is_stopped_and_replaced(platform: Any, chat: str) -> None:
    sick, sound = live(platform, chat)
    platform.agent.say(sick, "unhealthy", endpoint=READY)
    platform.controller.tick()
    platform.controller.tick()
    assert serving(platform, chat) == {1: 2} and platform.runs(chat)[0].phase == "unhealthy"
    platform.age(RunRow, sick.id, "unhealthy_since", 31)
    platform.controller.tick()
    assert platform.agent.say(sick, "unhealthy").order == "stop"
    platform.controller.tick()
    assert serving(platform, chat) == {1: 2} and platform.run_of(chat).epoch == 3
    platform.agent.say(sick, "cancelled")
    platform.controller.tick()
    ended = platform.runs(chat)[0]
    assert (ended.phase, ended.reason) == ("failed", "Unhealthy")
    assert sound.id in {run.id for run in live(platform, chat)}
