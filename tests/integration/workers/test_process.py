"""One rank's process without Ray: forked from the preloaded parent, or started afresh."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.specs.log_policies import in_force
from quarterdeck.specs.protocol import RankPlacement, RunOrder
from quarterdeck_workers.rank.launch import Launch, scrubbed
from quarterdeck_workers.rank.masking import MaskedStream, Masker
from quarterdeck_workers.rank.process import REPORT_PATH, RankNews, RankProcess
from quarterdeck_workers.rank.reporting import REPORT_SOCKET

ENTRIES = """
import os, sys, time

def steps(context):
    print("hello from", os.getpid())
    sys.stderr.write("warned\\n")
    context.step(1, {"loss": 2.0}, steps_total=1, seconds=0.5)

def wait_for_stop(context):
    context.phase("waiting", running=True)
    while context.stop_requested is None:
        time.sleep(0.01)
    context.result("checkpoint", context.stop_requested.checkpoint)

def hang_here(context):
    context.phase("hanging", running=True)
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    time.sleep(600)

def fill_the_disk(context):
    raise OSError(28, "No space left on device")
"""


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real parent that preloads nothing: what it imports is not what is tested here."""
    folder = tmp_path_factory.mktemp("p")
    (folder / "job_entries.py").write_text(ENTRIES)
    path = folder / "s"
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); " + (
        "from quarterdeck_workers.rank import parent; from pathlib import Path;"
        f"import quarterdeck_workers.rank.context, job_entries; parent.serve(Path({str(path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield path
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0  # it ends with its starter


def launch(folder: Path, **fields: Any) -> Launch:
    order = RunOrder(
        run_id="run-x", epoch=1, owner_type="job", owner_id="job-x", owner_name="x",
        kind="command" if "command" in fields else "pretrain", spec={}, cluster="c",
        placements=[RankPlacement(rank=0, node_id="n")], artifacts_uri="memory://", api_url="",
        run_key="",
    )  # fmt: skip
    private = folder / "private"
    private.mkdir(mode=0o700)
    return Launch(
        order=order.model_dump(mode="json"), rank=0, world_size=1, local_rank=0,
        local_world_size=1, node_rank=0, master_address="127.0.0.1", master_port=1,
        workdir=str(folder / "work"), cwd=str(folder / "work"), private=str(private),
        environment=scrubbed(os.environ), **fields,
    )  # fmt: skip


def finish(process: RankProcess, limit: float = 30.0) -> RankNews:
    """All news until the process is gone."""
    assert process.gone.wait(limit)
    everything, last = RankNews(), 0.0
    deadline = time.monotonic() + 5
    while last < 1 and time.monotonic() < deadline:
        news = process.take()
        everything.messages += news.messages
        everything.lines += news.lines
        last = float(any(message["type"] == "gone" for message in everything.messages))
        time.sleep(0.01)
    return everything


def test_last_words_arrive_before_the_end(tmp_path: Path) -> None:
    script = (
        "from quarterdeck_workers import report\n"
        "for step in range(3000): print('line', step)\n"
        "report(7, {'loss': 0.5})\n"
    )
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "job.py").write_text(script)
    process = RankProcess(launch(tmp_path, command="python job.py"))
    process.launch.environment[REPORT_SOCKET] = f"{process.launch.private}/{REPORT_PATH}"
    process.start(None)
    news = finish(process)
    assert types(news)[-1] == "gone"
    assert [m["metrics"] for m in news.messages if m["type"] == "step"] == [{"loss": 0.5}]
    assert len(news.lines) == 3000


def test_an_exit_is_told_with_the_lines_before_it_however_slow_the_reader(tmp_path: Path) -> None:
    class Slow(Masker):
        def stream(self) -> MaskedStream:
            stream = super().stream()
            feed = stream.feed

            def slow(data: bytes) -> bytes:
                time.sleep(0.3)
                return feed(data)

            stream.feed = slow  # type: ignore[method-assign]
            return stream

    (tmp_path / "work").mkdir()
    process = RankProcess(launch(tmp_path, command="echo why; exit 3"), masker=Slow([]))
    process.start(None)
    deadline = time.monotonic() + 30
    news = process.take()
    while "exit" not in types(news):
        assert time.monotonic() < deadline
        news = process.take()
    assert news.tail == "why"
    finish(process)


def test_lines_and_tracebacks_that_policies_know_are_told(tmp_path: Path, parent: Path) -> None:
    policies = [policy.model_dump() for policy in in_force()]
    for name in ("script", "forked"):
        (tmp_path / name / "work").mkdir(parents=True)
    script = launch(tmp_path / "script", command="echo one; echo CUDA out of memory >&2; exit 1")
    forked = launch(tmp_path / "forked", entry="job_entries:fill_the_disk")
    told = []
    for each, through in ((script, None), (forked, parent)):
        each.order["log_policies"] = policies
        process = RankProcess(each)
        process.start(through)
        told.append(
            {
                (message["policy"], message["verdict"], message["trusted"])
                for message in finish(process).messages
                if message["type"] == "log_match"
            }
        )
    assert told == [
        {("cuda-oom", "cancel_retries", True)}, {("disk-full", "exclude_node", True)},
    ]  # fmt: skip


def types(news: RankNews) -> list[str]:
    return [message["type"] for message in news.messages]


def heard(process: RankProcess, kind: str) -> None:
    deadline = time.monotonic() + 20
    while kind not in types(process.take()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_forked_rank_reports_prints_and_leaves_nothing(parent: Path, tmp_path: Path) -> None:
    process = RankProcess(launch(tmp_path, entry="job_entries:steps"))
    process.start(parent)
    news = finish(process)
    assert sorted(types(news)) == ["exit", "gone", "pid", "step"]
    assert [line.split()[0] for _, line in news.lines] == ["hello", "warned"]
    assert not (tmp_path / "private").exists()
    assert not (tmp_path / "work").exists()


def test_stop_reaches_the_entry_point(parent: Path, tmp_path: Path) -> None:
    process = RankProcess(launch(tmp_path, entry="job_entries:wait_for_stop"))
    process.start(parent)
    heard(process, "phase")
    process.stop(checkpoint=True, deadline_seconds=5.0, reason="test")
    results = [m["value"] for m in finish(process).messages if m["type"] == "result"]
    assert results == [True]


def test_stacks_of_a_hanging_rank_and_the_end_of_its_daemons(parent: Path, tmp_path: Path) -> None:
    process = RankProcess(launch(tmp_path, entry="job_entries:hang_here"))
    process.start(parent)
    heard(process, "phase")
    assert "hang_here" in process.stacks(0.5)
    assert process.pid is not None
    watcher = psutil.Process(process.pid).parent()
    assert watcher is not None
    below = watcher.children(recursive=True)
    assert len(below) == 2
    process.kill()
    assert types(finish(process)) == ["gone"]
    assert not any(each.is_running() for each in below)


def test_full_disk_is_blamed_on_the_disk(parent: Path, tmp_path: Path) -> None:
    process = RankProcess(launch(tmp_path, entry="job_entries:fill_the_disk"))
    process.start(parent)
    failures = [m for m in finish(process).messages if m["type"] == "failure"]
    assert [failure["blame"] for failure in failures] == ["disk"]
    assert "fill_the_disk" in failures[0]["traceback"]


def test_terminated_watcher_ends_all_first(tmp_path: Path) -> None:
    process = RankProcess(launch(tmp_path, command="setsid sleep 600 & echo up; sleep 600"))
    process.start(None)
    deadline = time.monotonic() + 20
    while not any(line == "up" for _, line in process.take().lines):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.pid is not None
    watcher = psutil.Process(process.pid).parent()
    assert watcher is not None
    below = watcher.children(recursive=True)
    watcher.send_signal(signal.SIGTERM)
    finish(process)
    assert not any(each.is_running() for each in below)


def test_parent_refuses_what_is_no_launch_and_lives_on(parent: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(parent))
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    process = RankProcess(launch(tmp_path, entry="job_entries:steps"))
    process.start(parent)
    assert "step" in types(finish(process))
