"""`exec`, `attach`, `port-forward` on a real platform: outwards from the node, through the api."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pty
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from quarterdeck.client import Client
from quarterdeck.client.config import read_key
from quarterdeck.client.jobs import ENDED
from quarterdeck.processes.home import Home

from .conftest import Machine, free_port

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra `workers`"
)
SIZE = 20_000_000
SECONDS = 120
TALKER = (
    "if [ $RANK = 0 ]; then head -c $SIZE /dev/urandom > blob; sha256sum blob; "
    "python3 -m http.server $WEB --bind 127.0.0.1 & fi; "
    "while true; do echo rank $RANK talks; sleep 0.2; done"
)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Client, int]]:
    """A platform on which job/talker runs two ranks, and the port of rank 0's web server."""
    folder = tmp_path_factory.mktemp("tunnels")
    machine = Machine(Home(folder / ".quarterdeck"), free_port(), free_port())
    up = machine.run("up", "--detach", "--slots", "3", *machine.up_arguments[2:], timeout=240)
    assert up.returncode == 0, up.stderr
    key = read_key(machine.home.admin_key)
    web = free_port()
    try:
        with Client(f"http://127.0.0.1:{machine.port}", key, retry_seconds=30) as client:
            client.submit(
                {"kind": "command", "name": "talker", "ranks": 2, "command": TALKER,
                 "env": {"SIZE": str(SIZE), "WEB": str(web), "GREETING": "hello"}}
            )  # fmt: skip
            assert client.wait("talker", until="running", timeout=SECONDS).phase == "running"
            yield machine, client, web
    finally:
        assert machine.run("down", "--purge", timeout=240).returncode == 0


def test_exec_runs_in_the_ranks_environment_and_passes_its_code(
    there: tuple[Machine, Client, int],
) -> None:
    machine, client, _ = there
    done = machine.run(
        "exec", "job/talker", "--rank", "1", "--", "sh", "-c",
        "echo $GREETING $RANK; basename $PWD; echo wrong >&2; exit 7",
    )  # fmt: skip
    (run,) = client.jobs.runs("talker")
    assert (done.returncode, done.stdout) == (7, f"hello 1\n{run.id}-1\n")
    assert "wrong" in done.stderr
    missing = machine.run("exec", "job/talker", "--", "no-such-program")
    assert missing.returncode == 127
    assert "not found" in missing.stderr
    with pytest.raises(ProcessLookupError):  # nothing stays once its user has left
        sleeper = machine.start("exec", "job/talker", "--", "sh", "-c", "echo $$; exec sleep 600")
        assert sleeper.stdout is not None
        pid = int(sleeper.stdout.readline())
        os.kill(pid, 0)
        sleeper.kill()
        sleeper.communicate(timeout=30)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)


def test_what_a_failed_attempt_had_is_there_while_it_is_held(
    there: tuple[Machine, Client, int],
) -> None:
    machine, client, _ = there
    client.secrets.set("TOKEN", "s3cret")
    job = client.submit(
        {"kind": "command", "name": "held", "command": "echo seen > evidence; exit 3",
         "env": {"COLOUR": "blue"}, "secrets": ["TOKEN"], "hold_on_failure": "10m"}
    )  # fmt: skip
    deadline = time.monotonic() + SECONDS
    while not (found := client.jobs.get(job.id)).message.startswith("held until"):
        assert time.monotonic() < deadline and found.phase not in ENDED, found
        time.sleep(0.2)
    assert found.phase == "running" and "code 3" in found.message
    done = machine.run(
        "exec", "job/held", "--", "sh", "-c",
        "cat evidence; echo $COLOUR $RANK; cat $QUARTERDECK_SECRETS_DIR/TOKEN; exit 7",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "seen\nblue 0\ns3cret"), done.stderr
    client.jobs.cancel("held")
    assert client.wait("held", timeout=SECONDS).phase == "cancelled"


def test_a_terminal_there_is_as_large_as_the_one_here(there: tuple[Machine, Client, int]) -> None:
    machine, _, _ = there
    command = machine.command("exec", "job/talker", "-t", "--", "sh", "-c", "tty; stty size; cat")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, {**machine.environment, "LINES": "33", "COLUMNS": "99"})
    said = b""
    deadline = time.monotonic() + SECONDS
    typed = False
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                said += os.read(terminal, 4096)
            except OSError:
                break
        if b"33 99" in said and not typed:
            typed = True
            os.write(terminal, b"typed\r\x04")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said
    assert re.search(rb"/dev/pts/\d+\r?\n33 99", said), said
    assert said.count(b"typed") == 2, said  # echoed there, then printed by cat


def test_a_port_is_reached_and_bytes_come_through_intact(
    there: tuple[Machine, Client, int],
) -> None:
    machine, client, web = there
    here = free_port()
    forward = machine.start("port-forward", "job/talker", f"{here}:{web}")
    try:
        assert forward.stderr is not None
        assert "forwarding" in forward.stderr.readline()
        digests = {hashlib.sha256(_fetch(here)).hexdigest() for _ in range(2)}
    finally:
        forward.terminate()
        forward.communicate(timeout=30)
    lines = [line.line for line in client.jobs.logs("talker", rank=0)]
    (printed,) = {line.split()[0] for line in lines if line.endswith("  blob")}
    assert digests == {printed}


def _fetch(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        connection.sendall(b"GET /blob HTTP/1.0\r\n\r\n")
        data = bytearray()
        while piece := connection.recv(65536):
            data += piece
    return bytes(data.partition(b"\r\n\r\n")[2])


def test_attach_shows_output_as_it_comes(there: tuple[Machine, Client, int]) -> None:
    machine, _, _ = there
    attached = machine.start("attach", "job/talker", "--rank", "1")
    try:
        assert attached.stdout is not None
        assert {attached.stdout.readline() for _ in range(3)} == {"rank 1 talks\n"}
    finally:
        attached.kill()
        attached.communicate(timeout=30)


def test_who_may_not_or_asks_for_nothing_is_told(there: tuple[Machine, Client, int]) -> None:
    machine, client, _ = there
    wrong = machine.run("exec", "job/talker", "--rank", "2", "--", "true")
    assert wrong.returncode == 1
    assert "rank 2: there are 2" in wrong.stderr
    unknown = machine.run("exec", "job/nobody", "--", "true")
    assert "'nobody' does not exist" in unknown.stderr
    viewer = client.keys.create("looker", access="viewer")
    done = subprocess.run(
        machine.command("exec", "job/talker", "--", "true"),
        env={
            **machine.environment, "QUARTERDECK_KEY": viewer.key,
            "QUARTERDECK_URL": f"http://127.0.0.1:{machine.port}",
        },
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "needs operator" in done.stderr


def test_a_tunnel_ends_with_its_run(there: tuple[Machine, Client, int]) -> None:
    machine, client, _ = there
    client.submit({"kind": "command", "name": "short", "command": "sleep 600"})
    machine.run("cancel", "job/talker")
    client.wait("talker", timeout=SECONDS)
    assert client.wait("short", until="running", timeout=SECONDS).phase == "running"
    inside = machine.start("exec", "job/short", "--", "sh", "-c", "echo in; sleep 600")
    assert inside.stdout is not None
    assert inside.stdout.readline() == "in\n"
    client.jobs.cancel("short")
    _, said = inside.communicate(timeout=SECONDS)
    assert inside.returncode == 1
    assert "error:" in said
    ended = machine.run("exec", "job/short", "--", "true")
    assert "job/short is cancelled" in ended.stderr
