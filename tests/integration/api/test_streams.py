"""Server-sent events over a real server and a real connection."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import update

from quarterdeck.api.app import create_app
from quarterdeck.client.agents import AgentClient, RunClient
from quarterdeck.client.client import Client
from quarterdeck.client.errors import QuarterdeckError
from quarterdeck.controller.loop import Controller
from quarterdeck.specs.beats import LogChunk, RunBeat
from quarterdeck.specs.protocol import AgentBeat
from quarterdeck.store.failures import UNAVAILABLE
from quarterdeck.store.sessions import Database
from quarterdeck.store.tables import JobRow
from tests.integration.api.conftest import (
    NOW,
    add_raw_key,
    agent_beat,
    command,
    problem,
    settings_for,
)


@contextmanager
def serving(database: Database, **changes: Any) -> Iterator[str]:
    """A real uvicorn on loopback; its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(settings_for(database, keep_alive_seconds=0.2, **changes))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def serve(database: Database) -> Iterator[Callable[..., str]]:
    """Start a server; it stops after the test."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(serving(database, **changes))


def messages(lines: Iterator[str], count: int) -> list[tuple[str, str]]:
    """The next `count` messages as (id or event, data); comments as ("", comment)."""
    found: list[tuple[str, str]] = []
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field in ("id", "event"):
            name = value
        elif field == "data":
            found.append((name, value))
        elif line.startswith(":"):
            found.append(("", line.removeprefix(": ")))
        if len(found) == count:
            break
    return found


def test_events_come_as_they_happen_and_go_on_after_the_last_one_seen(
    database: Database, serve: Callable[..., str]
) -> None:
    with Client(serve(), add_raw_key(database, "home", "admin")) as client, ExitStack() as stack:
        client.submit(command("a"))
        followed = stack.enter_context(closing(client.follow_events("job/a")))
        first = next(followed)
        assert first.type == "job.submitted"
        client.jobs.suspend("a")
        second = next(followed)
        assert (second.type, second.data["desired"]) == ("job.desired", "suspend")
        client.jobs.resume("a")
        with closing(client.follow_events("job/a", last_event_id=str(second.id))) as again:
            assert next(again).data["desired"] == "run"
        assert next(followed).data["desired"] == "run"


def test_a_jobs_stream_ends_after_its_end(database: Database, serve: Callable[..., str]) -> None:
    with Client(serve(), add_raw_key(database, "home", "admin")) as client:
        client.submit(command("a"))
        client.jobs.cancel("a")
        controller = Controller(database)
        while client.jobs.get("a").phase != "cancelled":
            controller.tick()
        seen = [event.type for event in client.follow_events("job/a")]
        assert seen == ["job.submitted", "job.desired", "job.phase"]
        assert list(client.follow_logs("job/a")) == []


def test_log_lines_stream_while_a_run_speaks(database: Database, serve: Callable[..., str]) -> None:
    url, key = serve(), add_raw_key(database, "home", "admin")
    with ExitStack() as stack:
        agent = stack.enter_context(AgentClient(url, add_raw_key(database, "agent", "agent")))
        client = stack.enter_context(Client(url, key))
        agent.beat("a", AgentBeat.model_validate(agent_beat()))
        client.submit(command("a"))
        controller = Controller(database)
        while not (work := agent.work("a", wait=0)).start:
            controller.tick()
        order = agent.claim(work.start[0].run_id, work.start[0].epoch, "agent-1")
        run = stack.enter_context(RunClient(url, order.run_key))

        def say(seq: int, *lines: str) -> None:
            chunk = LogChunk(rank=0, seq=seq, lines=[(float(seq), line) for line in lines])
            run.beat(
                order.run_id,
                RunBeat(epoch=1, seq=seq, sent_at=NOW, reported_phase="running", logs=[chunk]),
            )

        say(1, "one", "two", "three")
        followed = stack.enter_context(closing(client.follow_logs("job/a", tail=2)))
        second, third = next(followed), next(followed)
        assert [second.line, third.line] == ["two", "three"]
        say(2, "four")
        assert next(followed).line == "four"
        headers = {"Authorization": f"Bearer {key}", "Last-Event-ID": second.cursor}
        with httpx.stream(
            "GET", f"{url}/api/v1/jobs/a/logs?follow=1", headers=headers, timeout=30
        ) as response:
            texts = [data for _, data in messages(response.iter_lines(), 3)]
        assert texts[0] == "open" and "three" in texts[1] and "four" in texts[2]
        with database.write() as session:
            session.execute(update(JobRow).values(phase="failed"))
        assert list(followed) == []


def test_a_quiet_stream_is_kept_alive_and_streams_are_bounded(
    database: Database, serve: Callable[..., str]
) -> None:
    url = serve(max_streams=1)
    headers = {
        "Authorization": f"Bearer {add_raw_key(database, 'home', 'admin')}",
        "Accept": "text/event-stream",
    }
    with httpx.stream("GET", f"{url}/api/v1/events", headers=headers, timeout=30) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()  # closed with it, so it lives as long as the stream
        opened, event, quiet = messages(lines, 3)
        assert (opened, event[0], quiet) == (("", "open"), "1", ("", "keep-alive"))
        refused = httpx.get(f"{url}/api/v1/events", headers=headers, timeout=30)
        assert (refused.status_code, problem(refused)) == (503, "too_many_streams")
        assert refused.headers["retry-after"] == "5"
    for _ in range(100):  # the server notices the closed connection with its next keep-alive
        with httpx.stream("GET", f"{url}/api/v1/events", headers=headers, timeout=30) as again:
            if again.status_code == 200:
                return
    raise AssertionError("the place was not given back")


def test_what_is_wrong_is_a_problem_before_the_stream_begins(
    database: Database, serve: Callable[..., str]
) -> None:
    with Client(serve(), add_raw_key(database, "home", "admin")) as client:
        with pytest.raises(QuarterdeckError) as wrong:
            next(client.follow_events("job/none"))
        assert wrong.value.problem is not None and wrong.value.problem.status == 404
        client.submit(command("a"))
        with pytest.raises(QuarterdeckError) as cursor:
            next(client.follow_events("job/a", last_event_id="1.5"))
    assert cursor.value.problem is not None and cursor.value.problem.status == 422


def test_only_waiting_looks_at_the_database(database: Database) -> None:
    from quarterdeck.api.news import News

    class Counting(News):
        looks = 0

        def _look(self) -> tuple[int, int]:
            type(self).looks += 1
            if self.looks == 2:
                raise UNAVAILABLE[0]("SELECT 1", {}, Exception("gone"))
            return super()._look()

    async def scenario() -> None:
        news = Counting(database, 0.01, 10)
        await asyncio.sleep(0.05)
        assert Counting.looks == 0
        mark = news.mark()
        assert await news.wait(mark, 5)  # the first look is news
        waits = [news.wait(news.mark(), 5) for _ in range(20)]
        add_raw_key(database, "home", "admin")
        assert all(await asyncio.gather(*waits))
        await asyncio.sleep(0.05)
        settled = Counting.looks
        await asyncio.sleep(0.05)
        assert settled == Counting.looks
        await news.close()

    asyncio.run(scenario())
