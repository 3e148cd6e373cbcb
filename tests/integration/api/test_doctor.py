"""`doctor` on a busy database finds nothing; each check finds what was planted for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from quarterdeck.api.routers.doctor import _checked
from quarterdeck.controller.loop import Controller
from quarterdeck.specs.protocol import JoinRequest
from quarterdeck.store import proof
from quarterdeck.store.ids import new_id
from quarterdeck.store.joins import record_join
from quarterdeck.store.sessions import Database, Session
from quarterdeck.store.settings import raise_generation
from quarterdeck.store.tables import (
    CheckpointRow,
    ClusterRow,
    EventRow,
    JobRow,
    KeyRow,
    NodeRow,
    OrphanRow,
    RunRow,
)
from tests.integration.api.conftest import NOW, Platform, agent_beat, command, problem


@pytest.fixture
def busy(open_api: Callable[..., Platform], tmp_path: Path) -> Platform:
    """Jobs that wait, run, restart, have ended and were cancelled; one has a checkpoint."""
    store = tmp_path / "artifacts"
    platform = open_api(artifacts_uri=store.as_uri())
    controller = Controller(platform.database)
    platform.agent.post("/agents/a/beat", agent_beat(slots=4))
    for name in ("runs", "ends", "restarts"):
        platform.admin.post("/jobs", command(name, restart_safe=True))
    platform.admin.post("/jobs", command("large", ranks=64))
    platform.admin.post("/jobs", command("after", after=["job/runs"]))
    platform.admin.post("/jobs", command("gone"))
    platform.admin.post("/jobs/gone/cancel")
    for _ in range(2):
        controller.tick()
    for start in platform.agent.get("/agents/a/work").json()["start"]:
        body = {"epoch": start["epoch"], "agent_id": "agent-1"}
        order = platform.agent.post(f"/runs/{start['run_id']}/claim", body).json()
        say(platform, order, 1, "running", store)
        if order["owner_name"] == "ends":
            say(platform, order, 2, "succeeded", store)
        if order["owner_name"] == "restarts":
            failure = {"rank": 0, "blame": "node", "message": "power"}
            say(platform, order, 4, "failed", store, failure=failure)
    for _ in range(3):
        controller.tick()
    phases = {job["name"]: job["phase"] for job in platform.admin.get("/jobs").json()["items"]}
    assert (phases["runs"], phases["ends"], phases["after"]) == ("running", "succeeded", "waiting")
    return platform


def say(
    platform: Platform, order: dict[str, Any], seq: int, phase: str, store: Path, **fields: Any
) -> None:
    folder = store / "checkpoints" / order["owner_id"] / str(order["epoch"]) / str(seq)
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(b"weights")
    entry = {"path": "model", "size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    saved = {"step": seq, "epoch": order["epoch"], "uri": folder.as_uri(), "files": [entry]}
    beat = {
        "epoch": order["epoch"], "seq": seq, "sent_at": NOW.isoformat(), "reported_phase": phase,
        "step": seq, "checkpoints": [saved], **fields,
    }  # fmt: skip
    answer = platform.admin.with_key(order["run_key"]).post(f"/runs/{order['run_id']}/beat", beat)
    assert answer.status_code == 200, answer.text


def states(platform: Platform, deep: bool = False) -> dict[str, str]:
    answer = platform.admin.get("/doctor", params={"deep": deep})
    assert answer.status_code == 200, answer.text
    return {check["name"]: check["state"] for check in answer.json()["checks"]}


def test_a_busy_database_is_sound(busy: Platform) -> None:
    assert set(states(busy, deep=True).values()) == {"ok"}, busy.admin.get("/doctor").text
    assert problem(busy.key("operator").get("/doctor")) == "access_denied"
    assert problem(busy.key("admin", "default").get("/doctor")) == "access_denied"


def of(session: Session, name: str) -> JobRow:
    return session.scalars(select(JobRow).where(JobRow.name == name)).one()


def run_of(session: Session, name: str) -> RunRow:
    return session.get_one(RunRow, of(session, name).run_id)


def copy_of(run: RunRow, **values: Any) -> RunRow:
    kept = ("owner_type", "owner_id", "owner_name", "project", "kind", "cluster", "spec")
    fields = {name: getattr(run, name) for name in (*kept, "placements")}
    return RunRow(**{"id": new_id("run"), "epoch": run.epoch + 1, **fields, **values})


def plant_second_run(session: Session) -> None:
    run = run_of(session, "runs")
    session.add(copy_of(run))
    of(session, "runs").epoch += 1


def plant_second_claim(session: Session) -> None:
    key = session.scalars(select(KeyRow).where(KeyRow.access == "run")).first()
    assert key is not None
    session.add(
        KeyRow(
            id="k2", name="k", sha256="x", prefix="x", access="run", project="default",
            run_id=key.run_id, epoch=key.epoch,
        )
    )  # fmt: skip


def plant_claim_event(session: Session) -> None:
    event = session.scalars(select(EventRow).where(EventRow.type == "run.claimed")).first()
    assert event is not None
    session.add(
        EventRow(
            type="run.claimed", subject=event.subject, subject_id=event.subject_id,
            project="default", message="again", data=event.data,
        )
    )  # fmt: skip


def plant_gap(session: Session) -> None:
    run = run_of(session, "ends")
    session.add(copy_of(run, epoch=9, phase="failed"))
    of(session, "ends").epoch = 9


def plant_lost_epoch(session: Session) -> None:
    of(session, "large").epoch = 4


def plant_job_without_run(session: Session) -> None:
    of(session, "runs").run_id = None


def plant_run_of_ended_job(session: Session) -> None:
    run_of(session, "ends").phase = "running"


def plant_late_end(session: Session) -> None:
    run = run_of(session, "runs")
    run.phase, run.ended_at = "failed", run.created_at - timedelta(hours=1)


def plant_silent_phase(session: Session) -> None:
    of(session, "large").phase = "suspended"


def plant_full_node(session: Session) -> None:
    session.get_one(NodeRow, "node1").slots = 0


def plant_unclaimed_speaker(session: Session) -> None:
    run_of(session, "runs").claimed_by = None


def plant_gap_beyond_beats(session: Session) -> None:
    run = run_of(session, "restarts")
    session.add(
        EventRow(
            type="telemetry_gap", subject="job/restarts", subject_id=run.owner_id,
            project="default", message="gap", data={"run_id": run.id, "beats": 99},
        )
    )  # fmt: skip


def plant_homeless_checkpoint(session: Session) -> None:
    row = session.scalars(select(CheckpointRow)).first()
    assert row is not None
    row.run_id = "run-none"


def plant_stuck_lease(session: Session) -> None:
    job = of(session, "after")
    job.lease_id, job.lease_until = "dead", job.created_at - timedelta(hours=1)


def plant_forgotten(session: Session) -> None:
    job = of(session, "large")
    job.due_at = job.created_at - timedelta(hours=1)


def plant_orphan(session: Session) -> None:
    session.add(OrphanRow(run_id="run-ghost", epoch=3, cluster="a", agent_id="x"))


def plant_another_ray(session: Session) -> None:
    session.get_one(NodeRow, "node1").versions = {"ray": "2.59.0"}
    session.scalars(select(ClusterRow)).one().versions = {"ray": "2.60.0"}


def plant_refused(session: Session) -> None:
    session.scalars(select(ClusterRow)).one().versions = {"python": "3.11.7"}
    record_join(session, "a", JoinRequest(host="h", versions={"python": "3.11.2"}))


def plant_older_agent(session: Session) -> None:
    session.scalars(select(ClusterRow)).one().versions = {"quarterdeck": "0.0.9"}


def plant_older_machine(session: Session) -> None:
    session.get_one(NodeRow, "node1").versions = {"quarterdeck": "0.0.9"}


def plant_lost_secret(session: Session) -> None:
    job = of(session, "large")
    job.spec = {**job.spec, "secrets": [{"name": "TOKEN", "env": False}]}


def plant_quarantine(session: Session) -> None:
    run_of(session, "ends").quarantined = True


def plant_restore(session: Session) -> None:
    raise_generation(session)
    assert session.scalars(select(ClusterRow)).one().generation == 0


PLANTS = (
    (plant_second_run, "one-live-run", "failed"),
    (plant_second_claim, "claimed-once", "failed"),
    (plant_claim_event, "claimed-once", "failed"),
    (plant_gap, "epochs", "failed"),
    (plant_lost_epoch, "epochs", "failed"),
    (plant_job_without_run, "jobs-and-runs", "failed"),
    (plant_run_of_ended_job, "jobs-and-runs", "failed"),
    (plant_late_end, "jobs-and-runs", "failed"),
    (plant_silent_phase, "phases-and-events", "failed"),
    (plant_full_node, "slots", "failed"),
    (plant_unclaimed_speaker, "beats", "failed"),
    (plant_gap_beyond_beats, "beats", "failed"),
    (plant_homeless_checkpoint, "checkpoints", "failed"),
    (plant_stuck_lease, "leases", "failed"),
    (plant_forgotten, "leases", "failed"),
    (plant_orphan, "orphans", "failed"),
    (plant_another_ray, "versions", "failed"),
    (plant_refused, "versions", "failed"),
    (plant_older_agent, "releases", "note"),
    (plant_older_machine, "releases", "note"),
    (plant_lost_secret, "secrets", "failed"),
    (plant_quarantine, "quarantined", "note"),
    (plant_restore, "restored", "note"),
)


def test_each_check_finds_what_is_planted(busy: Platform) -> None:
    """One busy database for all: each plant is rolled back."""
    assert {check for _, check, _ in PLANTS} >= {check.name for check in proof.CHECKS} - {
        "event-order"
    }
    for plant, name, state in PLANTS:
        check = next(check for check in proof.CHECKS if check.name == name)
        with pytest.raises(RuntimeError, match="roll back"), busy.database.write() as session:
            plant(session)
            session.flush()
            answer = _checked(check, check.look(session))
            assert (answer.state, bool(answer.remedy)) == (state, True), plant.__name__
            raise RuntimeError("roll back")
    with busy.database.write() as session:
        plant_orphan(session)
    found = {item["name"]: item for item in busy.admin.get("/doctor").json()["checks"]}
    assert found["orphans"]["found"][0]["id"] == "run-ghost"
    assert {item["state"] for name, item in found.items() if name != "orphans"} == {"ok"}


def test_files_of_checkpoints_are_looked_at(busy: Platform, tmp_path: Path) -> None:
    files = sorted((tmp_path / "artifacts").rglob("model"))
    files[0].write_bytes(b"WEIGHTS")
    assert states(busy)["checkpoint-files"] == "ok", "the size is right"
    assert states(busy, deep=True)["checkpoint-files"] == "failed"
    files[1].unlink()
    answer = busy.admin.get("/doctor").json()["checks"][-1]
    assert answer["state"] == "failed" and "missing" in answer["found"][0]["message"]


def test_events_of_a_future_transaction_are_found(database: Database) -> None:
    if database.dialect != "postgresql":
        pytest.skip("SQLite writes one transaction after the other")
    with database.write() as session:
        session.add(EventRow(type="t", subject="s", subject_id="s", project="p", message="m"))
        session.flush()
        session.execute(text("UPDATE events SET transaction_id = transaction_id + 1000000"))
    check = next(check for check in proof.CHECKS if check.name == "event-order")
    with database.read() as session:
        assert _checked(check, check.look(session)).state == "failed"
