"""Every operation of the SDK against a real api."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from quarterdeck.client import (
    AccessDenied,
    AgentClient,
    AlreadyClaimed,
    Client,
    Conflict,
    Invalid,
    KeyRejected,
    NotFound,
    RunClient,
    StaleEpoch,
    WaitExpired,
)
from quarterdeck.client.config import read_key
from quarterdeck.specs.beats import CheckpointManifest, FileEntry, MetricRow, OutputAsset, RunBeat
from quarterdeck.specs.resources import Job, LogLine

from .conftest import Platform

HELLO: dict[str, Any] = {"kind": "command", "name": "hello", "command": "true", "ranks": 2}
PRETRAIN: dict[str, Any] = {
    "kind": "pretrain",
    "name": "small",
    "architecture": "llama-3-8b",
    "datasets": "/data/text",
    "tokenizer": "/data/tokenizer",
    "training": {"steps": 10},
    "resources": {"accelerator": "H100"},
}


def test_apply_says_what_it_did(client: Client) -> None:
    (would,) = client.apply([HELLO], dry_run=True).results
    assert (would.action, would.name) == ("created", "hello")
    assert list(client.jobs.list()) == []
    (did,) = client.apply([HELLO]).results
    assert did.action == "created"
    (again,) = client.apply([HELLO]).results
    assert (again.action, again.id) == ("unchanged", did.id)
    with pytest.raises((Conflict, Invalid), match="replace"):
        client.apply([{**HELLO, "ranks": 3}])


def test_wrong_documents_are_named_by_path(client: Client) -> None:
    with pytest.raises(Invalid) as caught:
        client.apply([HELLO, {**HELLO, "name": "b", "rank": 2}])
    assert caught.value.problem is not None
    (wrong,) = caught.value.problem.errors
    assert wrong.path == "documents[1].rank"
    assert "did you mean 'ranks'" in wrong.message
    assert list(client.jobs.list()) == []


def test_a_submit_repeated_under_its_key_is_one_job(client: Client) -> None:
    first = client.jobs.submit(HELLO, idempotency_key="k1")
    assert client.jobs.submit(HELLO, idempotency_key="k1") == first
    with pytest.raises(Invalid) as caught:
        client.jobs.submit({**HELLO, "name": "other"}, idempotency_key="k1")
    assert caught.value.problem is not None
    assert caught.value.problem.type.endswith("idempotency_key_reused")
    assert [job.id for job in client.jobs.list()] == [first.id]


def test_lists_come_in_pages_and_filters(client: Client) -> None:
    client.apply([{**HELLO, "name": f"job-{number}"} for number in range(130)])
    names = [job.name for job in client.jobs.list()]
    assert len(names) == len(set(names)) == 130
    assert len(client.jobs.list(limit=7)) == 7
    assert [job.name for job in client.jobs.list(name="job-5")] == ["job-5"]
    assert client.jobs.list(kind="pretrain") == []
    assert len(client.jobs.list(all_projects=True)) == 130


def test_a_job_from_submit_to_its_output(
    platform: Platform, client: Client, running_job: Callable[..., Job]
) -> None:
    job = running_job()
    assert (job.phase, job.ranks) == ("running", 2)
    assert job.run_id is not None
    manifest = CheckpointManifest(
        step=4, epoch=1, uri=f"{platform.home.artifacts_uri}/checkpoints/{job.id}/1/4",
        files=[FileEntry(path="model", size=3, sha256="00")], loss=2.5,
    )  # fmt: skip
    model = OutputAsset(kind="model", name="hello", digest="ab", uri="file:///tmp/m", size=9)
    platform.run_beat(
        job.run_id, "running", step=5, steps_total=10, checkpoints=[manifest],
        metrics=[MetricRow(step=5, values={"loss": 2.5}, at=datetime.now(UTC))],
    )  # fmt: skip
    assert client.jobs.get("hello").progress.step == 5
    assert [point.values for point in client.jobs.metrics(job.id)] == [{"loss": 2.5}]
    assert [one.step for one in client.jobs.checkpoints(job.id)] == [4]
    assert [one.step for one in client.checkpoints.list(job=job.id)] == [4]
    assert client.jobs.why(job.id).phase == "running"
    (run,) = client.jobs.runs(job.id)
    assert client.runs.get(run.id).id == run.id == client.runs.list()[0].id
    assert client.nodes.list()[0].slots_free == 2

    platform.run_beat(job.run_id, "succeeded", outputs=[model], results={"answer": 42})
    ended = client.wait(job.id, timeout=10)
    assert (ended.phase, ended.outputs, ended.results) == (
        "succeeded",
        ["model/hello@1"],
        {"answer": 42},
    )
    assert client.models.get("hello").version == 1
    assert client.models.promote("hello", "prod", 1).aliases == ["prod"]
    assert client.models.get("hello", "prod").run_id == run.id
    assert [one.version for one in client.models.list(name="hello")] == [1]
    with pytest.raises(NotFound):
        client.models.get("nobody")
    assert client.datasets.list() == client.tokenizers.list() == []
    assert client.jobs.retry(job.id).retry_of == job.id


def test_intents_reach_the_run(
    platform: Platform, client: Client, running_job: Callable[..., Job]
) -> None:
    job = running_job()
    assert job.run_id is not None
    assert client.jobs.suspend("hello").desired == "suspend"
    platform.settle()
    assert platform.run_beat(job.run_id, "running").order in ("checkpoint_and_stop", "stop")
    platform.run_beat(job.run_id, "preempted")
    assert client.jobs.get(job.id).phase == "suspended"
    assert client.jobs.resume(job.id).desired == "run"
    assert client.jobs.cancel(job.id).desired == "cancel"
    platform.settle()
    assert client.wait(job.id, timeout=10).phase == "cancelled"


def test_waiting_ends_at_a_phase_at_the_end_or_with_the_time(
    client: Client, running_job: Callable[..., Job]
) -> None:
    job = running_job()
    changes: list[Job] = []
    assert client.wait("hello", until="running", on_change=changes.append).id == job.id
    assert changes == [client.jobs.get(job.id)]
    with pytest.raises(WaitExpired, match="job/hello is running") as caught:
        client.wait(job.id, timeout=0)
    assert caught.value.last == changes[0]


def test_logs_are_listed_and_followed_to_the_end(
    platform: Platform, client: Client, running_job: Callable[..., Job]
) -> None:
    job = running_job()
    assert job.run_id is not None
    platform.write(job.run_id, "one", "two")
    platform.write(job.run_id, "other", rank=1)
    assert [line.line for line in client.jobs.logs(job.id, rank=0)] == ["one", "two"]
    assert len(client.jobs.logs(job.id)) == 3
    assert [line.line for line in client.jobs.logs(job.id, rank=0, tail=1)] == ["two"]

    heard: list[LogLine] = []
    three = threading.Event()

    def listen() -> None:
        for line in client.follow_logs("job/hello"):
            heard.append(line)
            if len(heard) == 3:
                three.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert three.wait(20)
    platform.write(job.run_id, "three")
    platform.run_beat(job.run_id, "succeeded")
    listener.join(30)
    assert not listener.is_alive(), "following ends with the job"
    assert sorted(line.line for line in heard) == ["one", "other", "three", "two"]


def test_events_are_listed_and_followed(client: Client) -> None:
    job = client.submit(HELLO)
    known = client.jobs.events(job.id)
    assert known[0].subject == "job/hello"
    followed = client.follow_events("job/hello")
    assert next(followed).id == known[0].id
    after = client.follow_events(last_event_id=str(known[0].id))
    client.submit({**HELLO, "name": "second"})
    assert next(event for event in after if event.subject == "job/second").id > known[0].id
    assert client.events(limit=1)[0].id <= known[0].id


def test_services_change_only_as_they_are_read(client: Client) -> None:
    document = {"kind": "service", "name": "chat", "model": "/models/chat", "replicas": 1}
    client.apply([document])
    service = client.services.get("chat")
    assert [one.id for one in client.services.list()] == [service.id]
    assert client.services.scale("chat", 2).desired_replicas == 2
    changed = client.services.update("chat", {**document, "replicas": 3})
    assert changed.desired_replicas == 3
    assert client.services.why("chat").subject.endswith("chat")
    assert client.services.events("chat")[0].subject == "service/chat"
    assert client.services.logs("chat") == []
    client.services.delete("chat")


def test_keys_reach_what_their_access_says(platform: Platform, client: Client) -> None:
    assert client.whoami().access == "admin"
    made = client.keys.create("reader", "viewer", project="default", expires_in=3600)
    assert made.key not in repr(client.keys.list())
    with Client(platform.url, made.key) as reader:
        assert reader.whoami().name == "reader"
        assert list(reader.jobs.list()) == []
        with pytest.raises(AccessDenied):
            reader.submit(HELLO)
        client.keys.revoke(made.id)
        with pytest.raises(KeyRejected):
            reader.whoami()
    with Client(platform.url, None) as stranger, pytest.raises(KeyRejected):
        stranger.jobs.list()
    assert client.ready()


def test_secrets_are_write_only(client: Client) -> None:
    assert client.secrets.set("TOKEN", "s3cret").version == 1
    assert client.secrets.set("TOKEN", "other").version == 2
    (listed,) = client.secrets.list()
    assert listed.name == "TOKEN" and "other" not in listed.model_dump_json()
    client.secrets.delete("TOKEN")
    assert client.secrets.list() == []


def test_projects_keep_names_apart(platform: Platform, client: Client) -> None:
    client.projects.create("nlp")
    assert {project.name for project in client.projects.list()} == {"default", "nlp"}
    with Client(platform.url, platform.key, project="nlp") as other:
        theirs = other.submit(HELLO)
        ours = client.submit(HELLO)
        assert other.jobs.get("hello").id == theirs.id != ours.id
        assert [job.id for job in client.jobs.list()] == [ours.id]
    assert len(client.jobs.list(all_projects=True)) == 2


def test_nodes_are_cordoned(platform: Platform, client: Client) -> None:
    platform.agent_beat()
    assert [cluster.slots for cluster in client.clusters.list()] == [4]
    assert client.nodes.cordon("node-1").cordoned
    job = client.submit(HELLO)
    platform.settle()
    assert client.jobs.get(job.id).phase == "queued"
    assert not client.nodes.uncordon("node-1").cordoned
    platform.settle()
    assert client.jobs.get(job.id).phase == "starting"


def test_plans_are_typed(client: Client) -> None:
    plan = client.plan(PRETRAIN)
    assert plan.fits and plan.layout is not None
    assert plan.layout.ranks == plan.ranks
    assert plan.parameters.total == 8_030_261_248


def test_the_fence_has_types(platform: Platform, running_job: Callable[..., Job]) -> None:
    job = running_job()
    assert job.run_id is not None
    order = platform.orders[job.run_id]
    with pytest.raises(AlreadyClaimed):
        platform.agent.claim(job.run_id, order.epoch, "agent-2")
    stale = RunBeat(epoch=0, seq=99, sent_at=datetime.now(UTC), reported_phase="running")
    with RunClient(platform.url, order.run_key) as run, pytest.raises(StaleEpoch):
        run.beat(job.run_id, stale)
    with AgentClient(platform.url, read_key(platform.home.agent_key)) as agent:
        assert agent.work("local", wait=0).watch[0].run_id == job.run_id


def test_a_beat_may_be_repeated(platform: Platform, running_job: Callable[..., Job]) -> None:
    job = running_job()
    assert job.run_id is not None
    order = platform.orders[job.run_id]
    beat = RunBeat(epoch=1, seq=10, sent_at=datetime.now(UTC), reported_phase="running")
    with RunClient(platform.url, order.run_key) as run:
        assert run.beat(job.run_id, beat).acked_seq == run.beat(job.run_id, beat).acked_seq == 10
