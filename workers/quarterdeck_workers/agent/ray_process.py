"""Ray's processes of one home: started as daemons, found again, ended without a rest.

They outlive the agent. What was started is in `HOME/ray/ray.json`; every process below carries
the home's folder in its environment, so that also workers and ranks are found and ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

MARK = "QUARTERDECK_RAY"
NODE_HOME = "QUARTERDECK_NODE_HOME"
NODE_TEMP = "QUARTERDECK_NODE_TEMP"
TOKEN_FILE = "token"
RECORD_FILE = "ray.json"
LOCK_FILE = "starting"
LONGEST_TEMP = 40
"""Characters of Ray's folder: its sockets add up to 64, and unix sockets allow 107."""
START_SECONDS = 90.0
_TERM_SECONDS = 3.0
_DAEMONS = ("raylet", "gcs_server")


class RayFailed(Exception):
    """Ray did not start, or did not end; the message says what to look at."""


@dataclass(frozen=True)
class RayNode:
    """The Ray that runs on this machine for a home."""

    address: str
    """The head's host:port."""
    node_ip: str
    head: bool
    temp: str
    processes: tuple[tuple[int, float], ...] = ()
    """(pid, moment of creation) of the raylet, on the head also of the GCS."""


@dataclass(frozen=True)
class RayOptions:
    """What `start_ray` is told. `address` None: this machine becomes a head; `token` None: with the
    token of its home."""

    node_ip: str
    slots: int
    labels: Mapping[str, str]
    object_store_bytes: int
    gpus: int = 0
    address: str | None = None
    token: str | None = None
    port: int | None = None
    """Of the head; None: a free one."""


def ray_folder(home: Path) -> Path:
    """Where a home keeps Ray's token and record."""
    return home / "ray"


def running(home: Path) -> RayNode | None:
    """The living Ray of a home; None when one of its daemons is gone."""
    try:
        data = json.loads((ray_folder(home) / RECORD_FILE).read_text(encoding="utf-8"))
        data["processes"] = tuple((int(pid), float(made)) for pid, made in data["processes"])
        node = RayNode(**data)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return node if node.processes and all(_alive(*entry) for entry in node.processes) else None


def client_environment(home: Path) -> dict[str, str]:
    """Variables with which a process may talk to the home's Ray."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(ray_folder(home) / TOKEN_FILE),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextmanager
def starting(home: Path) -> Iterator[None]:
    """One agent of a home at a time looks for its Ray or starts it: starting ends what was left
    of an earlier one, and two would end each other's."""
    folder = ray_folder(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def start_ray(home: Path, options: RayOptions) -> RayNode:
    """Start Ray as daemons and record them. Raises RayFailed; then nothing of it is left."""
    stop_ray(home)
    folder = ray_folder(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_token(folder / TOKEN_FILE, options.token)
    temp = temp_folder(home)
    temp.mkdir(mode=0o700, parents=True, exist_ok=True)
    address = options.address or f"{options.node_ip}:{options.port or _free_port(options.node_ip)}"
    node = RayNode(address, options.node_ip, options.address is None, str(temp))
    _record(folder, node)
    logs = home / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    log = logs / "ray.log"
    with log.open("ab") as stream:
        try:
            code = subprocess.run(
                _command(node, options), env=_environment(home, temp), stdin=subprocess.DEVNULL,
                stdout=stream, stderr=subprocess.STDOUT, timeout=START_SECONDS, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = -1
    daemons = [process for process in _marked(home) if _name(process) in _DAEMONS]
    if code != 0 or not daemons:
        stop_ray(home)
        raise RayFailed(f"Ray did not start on {options.node_ip}: see {log}")
    entries = tuple((process.pid, process.create_time()) for process in daemons)
    node = replace(node, processes=entries)
    _record(folder, node)
    return node


def stop_ray(home: Path) -> int:
    """End every process of the home's Ray on this machine: daemons, workers, ranks.

    Answers how many there were; raises RayFailed when one survives SIGKILL.
    """
    found = _marked(home)
    count = len(found)
    deadline = time.monotonic() + _TERM_SECONDS
    for process in found:
        if _name(process) in _DAEMONS:
            with suppress(psutil.Error):
                process.terminate()
    while found and time.monotonic() < deadline:
        _, found = psutil.wait_procs(found, timeout=0.2)
    for _ in range(10):  # a dying process may still have made a child
        found = _marked(home)
        if not found:
            break
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=2)
    else:
        pids = ", ".join(str(process.pid) for process in _marked(home))
        if pids:
            raise RayFailed(f"Ray's processes {pids} could not be ended: end them by hand")
    shutil.rmtree(temp_folder(home), ignore_errors=True)
    shutil.rmtree(home / "work", ignore_errors=True)
    shutil.rmtree(ray_folder(home) / "actors", ignore_errors=True)
    with suppress(OSError):
        (ray_folder(home) / RECORD_FILE).unlink()
    return count


def temp_folder(home: Path) -> Path:
    """Ray's own folder: below the home if its path is short enough for unix sockets."""
    inside = ray_folder(home) / "t"
    if len(str(inside)) <= LONGEST_TEMP:
        return inside
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:10]
    return Path(f"/tmp/qd-{os.getuid()}-{digest}")


def _command(node: RayNode, options: RayOptions) -> list[str]:
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start",
        "--node-ip-address", options.node_ip,
        "--resources", json.dumps({"slots": options.slots}),
        "--labels", ",".join(f"{name}={value}" for name, value in options.labels.items()),
        "--num-gpus", str(options.gpus),
        "--object-store-memory", str(options.object_store_bytes),
        "--disable-usage-stats",
        "--include-log-monitor", "false",
    ]  # fmt: skip
    if node.head:
        port = node.address.rpartition(":")[2]
        return [
            *command, "--head", "--port", port, "--include-dashboard", "false",
            "--temp-dir", node.temp,
        ]  # fmt: skip
    return [*command, "--address", node.address, "--temp-dir", node.temp]


def _environment(home: Path, temp: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "QUARTERDECK_KEY"
        and not (name.startswith("QUARTERDECK_") and name.endswith("KEY_FILE"))
        and not name.startswith("RAY_")
    }
    return {
        **kept,
        **client_environment(home),
        "RAY_worker_niceness": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        MARK: str(home),
        NODE_HOME: str(home),
        NODE_TEMP: str(temp),
    }


def _write_token(file: Path, token: str | None) -> None:
    if token is None and file.exists():
        file.chmod(0o600)
        return
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(token or secrets.token_hex(32))


def _record(folder: Path, node: RayNode) -> None:
    file = folder / RECORD_FILE
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(asdict(node)) + "\n", encoding="utf-8")
    temporary.replace(file)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _marked(home: Path) -> list[psutil.Process]:
    me = os.getpid()
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            ours = process.environ().get(MARK) == str(home) and process.pid != me
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def _alive(pid: int, made: float) -> bool:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - made) < 0.02
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
