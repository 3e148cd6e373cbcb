"""Lines that decide on the next attempt, and machines that are closed because they fail jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from quarterdeck.specs.beats import LogMatch, OutputAsset
from quarterdeck.store.fleet_queries import cordon_node
from quarterdeck.store.tables import EventRow, JobRow, NodeRow, RunRow


def match(run: Any, policy: str, verdict: str, **fields: Any) -> LogMatch:
    return LogMatch(
        policy=policy, verdict=verdict, rank=0, node_id=run.placements[0]["node_id"],
        line=f"the line of {policy}", **{"at": datetime.now(UTC).timestamp(), **fields},
    )  # fmt: skip


def attempt(platform: Any, make: Any, job_id: str, blame: str, *matches: Any) -> Any:
    """The job's run fails after it wrote lines that policies know."""
    run = platform.run_of(job_id)
    platform.agent.claim(run.id, run.epoch)
    found = [match(run, *each) for each in matches]
    platform.agent.say(run, "running", log_matches=found)
    platform.agent.say(run, "failed", failure=make["failure"](blame, rank=0))
    platform.controller.tick()
    return run


def node_of(run: Any) -> str:
    return str(run.placements[0]["node_id"])


def test_a_job_leaves_the_machine_that_failed_it_and_why_says_so(platform: Any, make: Any) -> None:
    job_id = platform.submit(make["command"]("j", max_restarts=0))
    platform.controller.tick()
    first = attempt(platform, make, job_id, "user_code", ("ecc", "exclude_node"))
    second = platform.run_of(job_id)
    assert node_of(second) != node_of(first) and platform.job(job_id).restarts_used == 0
    (told,) = [event for event in platform.events(job_id) if event.type == "log.matched"]
    assert told.data["policy"] == "ecc" and f"rank 0 on {node_of(first)}" in told.message
    platform.agent.claim(second.id, 2)
    platform.agent.say(second, "succeeded")
    platform.controller.tick()

    big = platform.submit(make["command"]("big", ranks=8, max_restarts=0))
    platform.controller.tick()
    first = attempt(platform, make, big, "user_code", ("xid", "exclude_node"))
    job = platform.job(big)
    assert (job.phase, job.reason) == ("queued", "NodesExcluded")
    assert f"{node_of(first)} excluded: xid in attempt 1: the line of xid" in job.message
    with platform.database.write() as session:
        row = session.get_one(NodeRow, node_of(first))
        assert not row.cordoned
        cordon_node(session, row, False, actor="key/ada")
    platform.controller.tick()
    assert platform.job(big).phase == "starting", "somebody opened the machine again"


def test_a_machine_comes_back_under_a_new_id_and_stays_excluded(platform: Any, make: Any) -> None:
    job_id = platform.submit(make["command"]("j", ranks=4))
    platform.controller.tick()
    first = attempt(platform, make, job_id, "user_code", ("ecc", "exclude_node"))
    with platform.database.write() as session:  # the same machine, its raylet started anew
        old = session.get_one(NodeRow, node_of(first))
        session.add(
            NodeRow(id="again", cluster="a", host=old.host, address=old.address, slots=4, cpus=4.0)
        )
        session.get_one(NodeRow, "n1").phase = session.get_one(NodeRow, "n2").phase = "dead"
    attempt(platform, make, job_id, "node")
    platform.age(JobRow, job_id, "restart_at", 100)
    platform.controller.tick()
    assert platform.job(job_id).reason == "NodesExcluded"


def test_no_retries_after_a_line_that_makes_them_vain(platform: Any, make: Any) -> None:
    job_id = platform.submit(make["command"]("oom"))
    platform.controller.tick()
    attempt(platform, make, job_id, "user_code", ("cuda-oom", "cancel_retries"))
    job = platform.job(job_id)
    assert (job.phase, job.reason) == ("failed", "LogPolicy")
    assert "cuda-oom: the line of cuda-oom" in job.message and job.failure is not None


def test_a_line_without_a_failure_decides_nothing(platform: Any, make: Any) -> None:
    job_id, run = platform.started(make["command"]("j"))
    platform.agent.say(run, "succeeded", log_matches=[match(run, "ecc", "exclude_node")])
    platform.controller.tick()
    assert platform.job(job_id).phase == "succeeded"
    with platform.database.read() as session:
        types = session.scalars(select(EventRow.type)).all()
    assert "log.matched" in types and "node.fault" not in types


def test_a_machine_that_fails_three_jobs_is_closed_for_all(platform: Any, make: Any) -> None:
    platform.agent.nodes = {"n1": 4}
    platform.agent.beat()
    for index in range(3):
        with platform.database.read() as session:
            assert not session.get_one(NodeRow, "n1").cordoned
        job_id = platform.submit(make["command"](f"j{index}"))
        platform.controller.tick()
        attempt(platform, make, job_id, "user_code", ("xid", "exclude_node"))
        platform.wish(job_id, "cancel")
        platform.controller.tick()
    with platform.database.read() as session:
        row = session.get_one(NodeRow, "n1")
        (event,) = session.scalars(select(EventRow).where(EventRow.type == "node.cordoned")).all()
    assert row.cordoned and row.cordon_reason.startswith("RepeatedFaults: 3 jobs")
    assert event.data["reason"] == "RepeatedFaults"
    with platform.database.write() as session:
        cordon_node(session, session.get_one(NodeRow, "n1"), False, actor="key/ada")
        row = session.get_one(NodeRow, "n1")
        assert (row.cordoned, row.cordon_reason) == (False, "")
    job_id = platform.submit(make["command"]("after"))
    platform.controller.tick()
    attempt(platform, make, job_id, "user_code", ("xid", "exclude_node"))
    with platform.database.read() as session:
        assert not session.get_one(NodeRow, "n1").cordoned, "old faults are forgotten"


def test_a_jobs_own_policies_close_no_machine_for_others(platform: Any, make: Any) -> None:
    for index in range(3):
        job_id, run = platform.started(make["command"](f"j{index}"))
        own = match(run, "mine", "exclude_node", trusted=False)
        platform.agent.say(run, "running", log_matches=[own])
        platform.agent.say(run, "failed", failure=make["failure"]("user_code", rank=0))
        platform.controller.tick()
        assert platform.runs(job_id)[-1].epoch == 2
    with platform.database.read() as session:
        assert not any(session.scalars(select(NodeRow.cordoned)))


def test_plain_failures_of_one_machine_send_the_job_elsewhere_while_that_is_possible(
    platform: Any, make: Any
) -> None:
    job_id = platform.submit(make["command"]("j"))
    platform.controller.tick()
    for _ in range(2):
        run = attempt(platform, make, job_id, "node")
        assert node_of(run) == "n1"
        if platform.job(job_id).restart_at is not None:
            platform.age(JobRow, job_id, "restart_at", 100)
        platform.controller.tick()
    assert node_of(platform.run_of(job_id)) == "n2"
    with platform.database.read() as session:
        assert not any(session.scalars(select(NodeRow.cordoned)))


def test_a_service_gets_no_other_replica_on_the_machine_that_failed_one(
    platform: Any, make: Any
) -> None:
    _, source = platform.started({"kind": "dataset", "name": "m", "uri": "file:///m"})
    output = OutputAsset(kind="model", name="m", digest="x", uri="file:///m")
    platform.agent.say(source, "succeeded", outputs=[output])
    service_id = platform.deploy({"kind": "service", "name": "s", "model": "m"})
    for _ in range(2):
        platform.controller.tick()
    run = platform.run_of(service_id)
    platform.agent.claim(run.id, run.epoch)
    platform.agent.say(run, "loading", log_matches=[match(run, "ecc", "exclude_node")])
    platform.agent.say(run, "failed", failure=make["failure"]("user_code", rank=0))
    platform.controller.tick()
    platform.age(RunRow, run.id, "ended_at", 100)  # its crash loop's pause is over
    for _ in range(2):
        platform.controller.tick()
    second = platform.run_of(service_id)
    assert second.id != run.id and node_of(second) != node_of(run)
    with platform.database.read() as session:
        (told,) = session.scalars(select(EventRow).where(EventRow.type == "node.fault"))
    assert "run 1 of service/s" in told.message
