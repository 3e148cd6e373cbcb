"""Services: replicas, readiness, replacement, draining, revisions."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from quarterdeck.specs.beats import OutputAsset
from quarterdeck.store.columns import database_now
from quarterdeck.store.observations import wake_service
from quarterdeck.store.tables import RevisionRow, RunRow, ServiceRow

READY = {"url": "http://127.0.0.2:9000", "probed": True}


@pytest.fixture
def chat(platform: Any, make: Any) -> str:
    """A service of two replicas whose model exists."""
    _, run = platform.started({"kind": "dataset", "name": "m", "uri": "file:///m"})
    output = OutputAsset(kind="model", name="m", digest="x", uri="file:///m")
    platform.agent.say(run, "succeeded", outputs=[output])
    platform.controller.tick()
    return str(platform.deploy({"kind": "service", "name": "chat", "model": "m", "replicas": 2}))


def live(platform: Any, service_id: str) -> list[RunRow]:
    return [
        run
        for run in platform.runs(service_id)
        if run.phase not in ("failed", "lost", "cancelled", "succeeded")
    ]


def bring_up(platform: Any, service_id: str) -> list[RunRow]:
    platform.controller.tick()
    platform.controller.tick()
    for run in platform.agent.claim_all():
        platform.agent.say(run, "ready", endpoint=READY)
    platform.controller.tick()
    return live(platform, service_id)


def test_ready_only_after_a_really_answered_request(platform: Any, chat: str) -> None:
    platform.controller.tick()
    platform.controller.tick()
    runs = platform.agent.claim_all()
    assert [run.epoch for run in runs] == [1, 2]
    assert runs[0].inputs["model"][0]["name"] == "m"
    for run in runs:
        platform.agent.say(run, "ready", endpoint={**READY, "probed": False})
    platform.controller.tick()
    assert platform.service(chat).phase == "deploying"
    assert {run.phase for run in live(platform, chat)} == {"loading"}
    for run in runs:
        platform.agent.say(run, "ready", endpoint=READY)
    platform.controller.tick()
    service = platform.service(chat)
    assert (service.phase, service.ready_replicas, service.model_version) == ("ready", 2, "m@1")


def test_a_lost_replica_is_replaced_and_the_service_is_degraded(platform: Any, chat: str) -> None:
    first, second = bring_up(platform, chat)
    version = platform.service(chat).version
    platform.agent.saw(first, "dead")
    platform.controller.tick()
    service = platform.service(chat)
    assert (service.phase, service.ready_replicas, service.crashes) == ("degraded", 1, 1)
    assert len(live(platform, chat)) == 1, "it backs off first"
    platform.age(RunRow, first.id, "ended_at", 10)
    platform.controller.tick()
    assert {run.epoch for run in live(platform, chat)} == {second.epoch, 3}
    bring_up(platform, chat)
    assert platform.service(chat).phase == "ready"
    assert platform.service(chat).version == version, "the ETag covers what people write only"


def test_a_crash_loop_backs_off_exponentially(platform: Any, chat: str, make: Any) -> None:
    with platform.database.write() as session:
        session.execute(update(ServiceRow).values(desired_replicas=1))
    waits = []
    for _ in range(4):
        platform.controller.tick()
        platform.controller.tick()
        (run,) = platform.agent.claim_all()
        platform.agent.say(run, "failed", failure=make["failure"]("user_code", "no such file"))
        platform.controller.tick()
        run, service = platform.run_of(chat), platform.service(chat)
        assert service.retry_at is not None and run.ended_at is not None
        waits.append((service.retry_at - run.ended_at).total_seconds())
        assert service.reason == "CrashLoop" and "no such file" in service.message
        assert platform.agent.work().start == []
        platform.age(RunRow, run.id, "ended_at", waits[-1])
    assert waits == [2, 4, 8, 16]


def test_scaling_down_drains_before_it_stops(platform: Any, chat: str) -> None:
    bring_up(platform, chat)
    with platform.database.write() as session:
        session.execute(update(ServiceRow).values(desired_replicas=1))
    platform.controller.tick()
    draining = [run for run in live(platform, chat) if run.phase == "draining"]
    assert len(draining) == 1
    platform.agent.say(draining[0], "draining", endpoint={**READY, "in_flight": 1})
    platform.age(RunRow, draining[0].id, "order_deadline_at", 5)
    platform.controller.tick()
    assert platform.run_of(chat).phase == "draining", "a request is in flight"
    reply = platform.agent.say(draining[0], "draining", endpoint={**READY, "in_flight": 0})
    assert reply.order == "continue"
    platform.controller.tick()
    assert platform.agent.say(draining[0], "stopping").order == "stop"
    platform.agent.say(draining[0], "cancelled")
    platform.controller.tick()
    assert len(live(platform, chat)) == 1
    assert platform.service(chat).phase == "ready"


def test_deletion_drains_every_replica(platform: Any, chat: str) -> None:
    runs = bring_up(platform, chat)
    with platform.database.write() as session:
        session.execute(update(ServiceRow).values(desired="stop", version=2))
    platform.controller.tick()
    assert {run.phase for run in live(platform, chat)} == {"draining"}
    for run in runs:
        platform.age(RunRow, run.id, "order_deadline_at", 100)
    platform.controller.tick()
    for run in runs:
        assert platform.agent.say(run, "cancelled").order == "stop"
    platform.controller.tick()
    assert platform.service(chat).phase == "stopped"
    assert platform.controller.admission.tick() == 0


def test_zero_replicas_are_idle(platform: Any, chat: str) -> None:
    with platform.database.write() as session:
        session.execute(update(ServiceRow).values(desired_replicas=0))
    platform.controller.tick()
    assert platform.service(chat).phase == "idle"
    with platform.database.write() as session:
        session.execute(update(ServiceRow).values(desired_replicas=1))
    platform.controller.tick()
    assert platform.service(chat).phase == "deploying"
    assert len(bring_up(platform, chat)) == 1


def test_a_service_waits_for_its_model(platform: Any) -> None:
    service_id = platform.deploy({"kind": "service", "name": "s", "model": "later"})
    platform.controller.tick()
    service = platform.service(service_id)
    assert service.reason == "ReferenceMissing" and "later" in service.message
    assert platform.runs(service_id) == []


def test_a_service_without_requests_sleeps_and_wakes(platform: Any, chat: str) -> None:
    platform.revise(chat, idle_after=600)
    bring_up(platform, chat)
    assert platform.service(chat).phase == "ready"

    def quiet(seconds: float) -> None:
        """So long ago somebody asked."""
        with platform.database.write() as session:
            session.execute(
                update(RevisionRow)
                .where(RevisionRow.service_id == chat)
                .values(created_at=database_now(-5000))
            )
            session.execute(
                update(ServiceRow)
                .where(ServiceRow.id == chat)
                .values(
                    created_at=database_now(-5000), active_at=database_now(-seconds),
                    due_at=database_now(),
                )
            )  # fmt: skip
        platform.controller.tick()

    quiet(590)
    assert platform.service(chat).phase == "ready"
    quiet(610)
    assert {run.phase for run in live(platform, chat)} == {"draining"}
    with platform.database.write() as session:
        session.execute(
            update(RunRow).where(RunRow.owner_id == chat).values(order_deadline_at=database_now(-1))
        )
    platform.controller.tick()
    for run in platform.runs(chat):
        platform.agent.say(run, "cancelled")
    platform.controller.tick()
    platform.controller.tick()
    service = platform.service(chat)
    assert (service.phase, service.reason, live(platform, chat)) == ("idle", "Asleep", [])
    assert "no request for 600 s" in service.message
    with platform.database.write() as session:
        assert wake_service(session, "default", "chat")
        assert not wake_service(session, "default", "nothing")
    assert len(bring_up(platform, chat)) == 2
    assert platform.service(chat).phase == "ready"
