"""An array's logs through the SDK and the command line: those of its members."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest

from quarterdeck.cli.app import make_app, run
from quarterdeck.client import Client
from quarterdeck.client.errors import Unreachable
from quarterdeck.specs.beats import LogChunk
from quarterdeck.specs.resources import Job
from tests.integration.client.conftest import Platform


def write(platform: Platform, job: Job, at: float, *lines: str, rank: int = 0) -> None:
    assert job.run_id is not None
    seq = platform.seqs.get(job.run_id, 0) + 1
    chunk = LogChunk(rank=rank, seq=seq, lines=[(1.7e9 + at, text) for text in lines])
    platform.run_beat(job.run_id, "running", logs=[chunk])


def members(client: Client) -> list[Job]:
    return list(reversed(client.jobs.list(array="sweep")))


@pytest.fixture
def array(platform: Platform, client: Client) -> Job:
    """Three members of two ranks on four slots: two run, one waits."""
    document = {"kind": "command", "name": "sweep", "command": "true", "ranks": 2, "array": 3}
    job = client.submit(document)
    platform.settle()
    platform.work()
    for member in members(client)[:2]:
        assert member.run_id is not None
        platform.run_beat(member.run_id, "starting")
        platform.run_beat(member.run_id, "running")
    for at, text in ((1, "step 1"), (3, "step 2"), (5, "step 3")):
        write(platform, members(client)[0], at, text)
        write(platform, members(client)[1], at + 1, text, rank=1)
    return client.jobs.get(job.id)


def test_members_lines_come_in_the_order_of_time(client: Client, array: Job) -> None:
    def texts(**options: object) -> list[str]:
        found = client.array_logs("sweep", **options)  # type: ignore[arg-type]
        return [f"{job} {line.line}" for job, line in found]

    both = [f"sweep-{index} step {step}" for step in (1, 2, 3) for index in (0, 1)]
    assert texts() == both
    assert texts(tail=3) == both[-3:]
    assert texts(search="step 2") == both[2:4]
    assert texts(rank=1) == both[1::2]
    assert texts(since="2023-11-14T22:13:25Z") == both[4:]


def test_a_page_may_be_smaller_than_a_log(
    client: Client, array: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.client.array_logs.LEAST_PAGE", 1)
    monkeypatch.setattr("quarterdeck.client.array_logs.PAGE_LINES", 1)
    assert len(list(client.array_logs("sweep"))) == 6


def listen(lines: Iterator[tuple[str, object]], heard: list[str]) -> threading.Thread:
    def collect() -> None:
        heard.extend(f"{job} {line.line}" for job, line in lines)  # type: ignore[attr-defined]

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    return thread


def until(heard: list[str], count: int) -> None:
    deadline = time.monotonic() + 30
    while len(heard) < count:
        assert time.monotonic() < deadline, heard
        time.sleep(0.02)


def test_following_ends_with_the_last_member_and_says_each_line_once(
    platform: Platform, client: Client, array: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.client.array_logs.POLL_SECONDS", 0.05)
    heard: list[str] = []
    listener = listen(client.array_logs("sweep", follow=True, tail=1), heard)
    until(heard, 1)
    first, second, third = members(client)
    write(platform, first, 7, "more")
    until(heard, 2)
    write(platform, first, 8, "last")
    for member in (first, second):
        platform.run_beat(str(member.run_id), "succeeded")
    platform.work()
    third = client.jobs.get(third.id)
    platform.run_beat(str(third.run_id), "starting")
    platform.run_beat(str(third.run_id), "running")
    write(platform, third, 9, "late", "later")
    until(heard, 5)
    assert listener.is_alive()
    platform.run_beat(str(third.run_id), "succeeded")
    platform.settle()
    listener.join(30)
    assert not listener.is_alive()
    assert heard == [
        "sweep-1 step 3", "sweep-0 more", "sweep-0 last", "sweep-2 late", "sweep-2 later",
    ]  # fmt: skip


def test_following_outlives_a_lost_connection(
    client: Client, array: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.client.array_logs.POLL_SECONDS", 0.01)
    send, broken = client.transport.send, [False, True, True, False]

    def sometimes(method: str, path: str, **options: object) -> object:
        if path.endswith("/logs") and broken and broken.pop(0):
            raise Unreachable("cut")
        return send(method, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(client.transport, "send", sometimes)
    said: list[str] = []
    lines = client.array_logs("sweep", follow=True, on_reconnect=said.append)
    assert len([next(lines) for _ in range(6)]) == 6
    assert said == ["cut", "cut"]
    monkeypatch.setattr("quarterdeck.client.array_logs.RETRY_SECONDS", 0.0)
    broken += [True] * 100
    with pytest.raises(Unreachable):
        next(lines)


def test_the_commands_name_the_members(
    platform: Platform, array: Job, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("QUARTERDECK_HOME", str(platform.home.folder))

    def said(*arguments: str) -> str:
        capsys.readouterr()
        assert run(make_app(), list(arguments)) == 0
        return capsys.readouterr().out

    rows = said("logs", "job/sweep").splitlines()
    assert rows[0].startswith("[sweep-0 r0 ") and rows[0].endswith("] step 1")
    assert rows[1].startswith("[sweep-1 r1 ") and len(rows) == 6
    found = [json.loads(row) for row in said("logs", "job/sweep", "-o", "json").splitlines()]
    assert [row["job"] for row in found] == ["sweep-0", "sweep-1"] * 3
    assert said("logs", "job/sweep-1").startswith("[r1 ")
    shown = said("describe", "job/sweep")
    assert "2 running, 1 queued of 3" in shown or "1 queued, 2 running of 3" in shown
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith("  job/sweep-")] == [
        ["job/sweep-0", "running"], ["job/sweep-1", "running"], ["job/sweep-2", "queued"],
    ]  # fmt: skip
