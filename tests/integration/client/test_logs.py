"""Logs through the SDK and the command line, wherever their lines are."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import update

from quarterdeck.artifacts import ArtifactStore
from quarterdeck.cli.app import make_app, run
from quarterdeck.client import Client
from quarterdeck.client.errors import QuarterdeckError
from quarterdeck.controller.log_keeper import LogKeeper
from quarterdeck.lifecycle.logs import LogPolicy
from quarterdeck.specs.beats import LogChunk
from quarterdeck.specs.resources import Job
from quarterdeck.store.columns import database_now
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import LogChunkRow, OwnerLogsRow
from tests.integration.client.conftest import Platform

POLICY = LogPolicy(hot_chunks=0, hot_size=0, file_chunks=3, file_size=10**6, idle_seconds=600)


@pytest.fixture
def move(platform: Platform) -> Iterator[Callable[[], int]]:
    """Move every line into files; answers how many were made."""
    database = Database.open(platform.home.database_url)
    keeper = LogKeeper(database, ArtifactStore(platform.home.artifacts_uri), POLICY)

    def moved() -> int:
        with database.write() as session:
            session.execute(
                update(OwnerLogsRow).values(
                    due_at=database_now(-1), lease_until=None, written_at=database_now(-9999)
                )
            )
        made = keeper.tick()
        with database.read() as session:
            assert session.query(LogChunkRow).count() == 0
        return made

    yield moved
    database.close()


def write(
    platform: Platform, run_id: str, *lines: str, rank: int = 0, stream: str = "output"
) -> None:
    seq = platform.seqs.get(run_id, 0) + 1
    chunk = LogChunk(rank=rank, seq=seq, stream=stream, lines=[(1.7e9 + seq, x) for x in lines])
    platform.run_beat(run_id, "running", logs=[chunk])


@pytest.fixture
def written(platform: Platform, running_job: Callable[..., Job], move: Callable[[], int]) -> Job:
    """A job of which some lines are in files and some in the database."""
    job = running_job()
    assert job.run_id is not None
    write(platform, job.run_id, "installing", stream="setup")
    for step in range(4):
        write(platform, job.run_id, f"step {step}", f"\x1b[32mloss\x1b[0m: {step}.5")
        write(platform, job.run_id, f"other {step}", rank=1)
    assert move() > 1
    write(platform, job.run_id, "step 4", "odd \x07 \x85\u2028 end")
    return job


def test_lines_are_chosen_on_the_server(client: Client, written: Job) -> None:
    def texts(**options: object) -> list[str]:
        return [line.line for line in client.jobs.logs("hello", **options)]  # type: ignore[arg-type]

    assert len(texts()) == 15
    assert texts(rank=[1]) == [f"other {step}" for step in range(4)]
    assert len(texts(rank=[0, 1], stream="output")) == 14
    assert texts(stream="setup") == ["installing"]
    assert texts(search="step") == [f"step {step}" for step in range(5)]
    assert texts(search="loss: 2", tail=3) == ["\x1b[32mloss\x1b[0m: 2.5"]
    assert texts(search=r"^(step|other) [34]$", regex=True) == ["step 3", "other 3", "step 4"]
    assert texts(search="(", epoch=1) == texts(epoch=2) == []
    assert texts(since="2023-11-14T22:13:30Z") == texts()[-5:]
    assert texts(limit=2) == texts()[:2]


def test_wrong_searches_are_refused_and_slow_ones_end(
    client: Client, written: Job, platform: Platform
) -> None:
    assert written.run_id is not None
    with pytest.raises(QuarterdeckError, match="no regular expression"):
        client.jobs.logs("hello", search="(", regex=True)
    write(platform, written.run_id, "a" * 5000)
    before = time.monotonic()
    with pytest.raises(QuarterdeckError, match="for one line"):
        client.jobs.logs("hello", search="(a|aa|a.)+$X", regex=True)
    assert time.monotonic() - before < 20


def test_following_goes_on_across_the_move(
    client: Client, platform: Platform, written: Job, move: Callable[[], int]
) -> None:
    assert written.run_id is not None
    known = client.jobs.logs("hello")
    assert move() == 1
    with closing(client.follow_logs("job/hello", last_event_id=known[9].cursor)) as followed:
        assert [next(followed).line for _ in range(5)] == [line.line for line in known[10:]]
        write(platform, written.run_id, "new")
        assert next(followed).line == "new"
        assert move() == 1
        write(platform, written.run_id, "newer", rank=1)
        assert next(followed).line == "newer"
    heard: list[str] = []

    def listen() -> None:
        for line in client.follow_logs("job/hello", search="newe", tail=5):
            heard.append(line.line)

    listener = threading.Thread(target=listen)
    listener.start()
    while not heard:
        time.sleep(0.01)
    write(platform, written.run_id, "newest", "old")
    platform.run_beat(written.run_id, "succeeded")
    listener.join(30)
    assert heard == ["newer", "newest"]


def test_the_command_chooses_and_prints(
    platform: Platform, written: Job, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("QUARTERDECK_HOME", str(platform.home.folder))
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def said(*arguments: str) -> str:
        capsys.readouterr()
        assert run(make_app(), ["logs", "job/hello", *arguments]) == 0
        return capsys.readouterr().out

    assert said("--setup").endswith("] installing\n")
    assert "[r0 setup " in said("--setup")
    assert said("--rank", "0-1", "--search", "loss: 3").endswith("] loss: 3.5\n")
    assert len(said("--rank", "1", "--attempt", "1").splitlines()) == 4
    assert said("--tail", "1").endswith("] odd \\x07 \\x85\\u2028 end\n")
    assert len(said("--search", "^other", "--regex").splitlines()) == 4
    rows = [json.loads(row) for row in said("--tail", "2", "-o", "json").split("\n") if row]
    assert [row["line"] for row in rows] == ["step 4", "odd \x07 \x85\u2028 end"]
    assert run(make_app(), ["logs", "job/hello", "--regex"]) == 2
    assert run(make_app(), ["logs", "job/hello", "--rank", "x"]) == 2
