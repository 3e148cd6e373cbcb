"""Engines that are programs of their own: start, readiness, health, drain, and why they fail."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

SERVER = Path(__file__).with_name("small_engine.py")
COMMAND = f"{shlex.quote(sys.executable)} {SERVER} $HOST {{port}} $MODEL_NAME"
Start = Callable[..., Any]


@pytest.fixture
def start(replicas: ModuleType, tmp_path: Path) -> Iterator[Start]:
    """Starts a replica with engine `command`; its own folder holds what shall go wrong."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "part.safetensors").write_bytes(b"\0" * 2**20)
    started: list[Any] = []

    def one(command: str = f"{COMMAND} {tmp_path}", **spec: Any) -> Any:
        given = {"engine": "command", "command": command, "ready_path": "/up", "probe": "chat"}
        replica = replicas.Replica(
            f"run-{len(started)}", (tmp_path / "model").as_uri(), tmp_path / "work" / "run",
            spec={**given, **spec}, probing=(0.3, 0.5),
        )  # fmt: skip
        started.append(replica)
        return replica

    yield one
    for replica in started:
        replica.close()


def chat(url: str, seconds: float = 30) -> httpx.Response:
    body = {"model": "chat", "messages": [{"role": "user", "content": "a"}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=seconds)


def failed(replica: Any) -> dict[str, Any]:
    """The failure that it reported; it has left with code 1."""
    _, errors = replica.process.communicate(timeout=60)
    assert replica.process.returncode == 1, errors
    (failure,) = replica.of("failure")
    return failure


def test_a_program_starts_serves_tells_its_load_drains_and_ends(
    start: Start, tmp_path: Path
) -> None:
    replica = start()
    endpoint = replica.endpoint()
    assert endpoint["probed"] and endpoint["healthy"] and endpoint["kv_usage"] == 0.25
    assert endpoint["generated_tokens"] >= 1
    assert chat(endpoint["url"]).status_code == 200
    (tmp_path / "slow").write_text("3")
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(chat(endpoint["url"]).status_code))
    asking.start()
    replica.wait_for(lambda: any(m.get("in_flight") for m in replica.messages))
    began = time.monotonic()
    replica.ask_to_stop(20)
    asking.join(30)
    assert answers == [200]
    assert replica.process.wait(30) == 0 and time.monotonic() - began < 15
    assert [m["event"] for m in replica.of("event")] == ["replica.started"]
    assert any(m["message"] == "starting the engine" for m in replica.of("phase"))


@pytest.mark.parametrize("trouble", ["hang", "garbage", "error"])
def test_one_that_hangs_or_answers_wrongly_is_unhealthy_until_it_answers_again(
    start: Start, tmp_path: Path, trouble: str
) -> None:
    replica = start()
    replica.endpoint()
    (tmp_path / trouble).touch()
    replica.wait_for(lambda: not replica.of("endpoint")[-1]["healthy"])
    replica.wait_for(lambda: "3 probes in a row failed" in replica.of("phase")[-1]["message"])
    (tmp_path / trouble).unlink()
    replica.wait_for(lambda: replica.of("endpoint")[-1]["healthy"])
    replica.wait_for(lambda: replica.of("phase")[-1]["message"].startswith("serving on"))


def test_one_that_stops_is_unhealthy_and_one_that_works_hard_is_not(
    start: Start, tmp_path: Path
) -> None:
    replica = start()
    endpoint = replica.endpoint()
    (tmp_path / "work").touch()
    time.sleep(3)  # at least four probes too late
    assert all(m["healthy"] for m in replica.of("endpoint"))
    (tmp_path / "work").unlink()
    pid = _pid_of(endpoint["url"])
    os.kill(pid, signal.SIGSTOP)
    try:
        replica.wait_for(lambda: not replica.of("endpoint")[-1]["healthy"])
    finally:
        os.kill(pid, signal.SIGCONT)


def _pid_of(url: str) -> int:
    port = url.rpartition(":")[2]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:2] == [str(SERVER).encode()] and port.encode() in words:
            return int(folder.name)
    raise AssertionError(f"nobody serves {url}")


def test_an_end_while_it_serves_is_a_failure_with_its_traceback(start: Start) -> None:
    replica = start()
    os.kill(_pid_of(replica.endpoint()["url"]), signal.SIGKILL)
    failure = failed(replica)
    assert failure["reason"] == "Crashed" and "SIGKILL while it served" in failure["message"]


@pytest.mark.parametrize(
    ("command", "reason", "words"),
    [
        ("no-such-engine --port $PORT", "EngineMissing", "no-such-engine"),
        ("echo torch.OutOfMemoryError: CUDA out of memory. >&2; exit 1", "OutOfMemory", "CUDA out"),
        (
            f"{shlex.quote(sys.executable)} -c 'import socket as s\n"
            's.create_server(("127.0.0.1", 0), reuse_port=False)\n'
            'raise OSError(98, "Address already in use")\'',
            "PortInUse",
            "OSError: [Errno 98]",
        ),
        (f"{shlex.quote(sys.executable)} -c '1/0'", "Crashed", "ZeroDivisionError"),
    ],
)
def test_a_start_that_fails_says_why(start: Start, command: str, reason: str, words: str) -> None:
    failure = failed(start(command))
    assert failure["reason"] == reason and words in failure["message"]
    assert "before it was ready" in failure["message"]
    if reason == "Crashed":
        assert failure["traceback"].startswith("Traceback") and "1/0" not in failure["message"]


def test_one_that_is_never_ready_or_of_another_kind_is_given_up(
    start: Start, tmp_path: Path
) -> None:
    late = start("sleep 60", start_timeout=1.5)
    wrong = start(probe="embedding")
    failure = failed(late)
    assert failure["reason"] == "StartTimeout" and "start_timeout" in failure["message"]
    failure = failed(wrong)
    assert failure["reason"] == "Unanswered" and "`probe` names its kind" in failure["message"]


def test_vllm_that_is_not_installed_is_refused_with_the_way_to_get_it(
    start: Start, tmp_path: Path
) -> None:
    nowhere = start(engine="vllm", environment={"python": str(tmp_path / "python")})
    without = start(engine="vllm", environment={"python": sys.executable})
    for replica in (nowhere, without):
        failure = failed(replica)
        assert failure["reason"] == "EngineMissing"
        assert "pip install vllm" in failure["message"]


def test_an_order_to_stop_ends_a_start(start: Start) -> None:
    replica = start("sleep 60")
    replica.wait_for(lambda: bool(replica.of("phase")))
    replica.ask_to_stop(20)
    assert replica.process.wait(20) == 0
    assert not replica.of("endpoint")
