"""All that one rank's process needs to start, as one JSON document.

It travels from the host actor to the node's preloaded parent (or to a fresh interpreter) over a
unix socket, with four descriptors beside it. It holds no credential of the control plane; the
environment may hold secrets that the job asked for as variables, so it is never logged.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("!Q")
_LARGEST = 256 * 1024 * 1024
DESCRIPTORS = 4
"""alive (pipe, read end), status (socket), output (pipe, write end), report (socket)."""

_SCRUBBED_PREFIXES = ("RAY_", "QUARTERDECK_")
_SCRUBBED = frozenset({"OMP_NUM_THREADS", "LD_PRELOAD", "PYTHONUNBUFFERED"})
_KEPT = frozenset({"QUARTERDECK_INSTANCE", "QUARTERDECK_RAY"})
"""Marks by which `down` finds every process of an installation."""


def most_processes(cores: int) -> int:
    """How many processes a rank may have on a machine: more of them, all wanting to run, would
    keep everybody else from running."""
    return min(4096, 512 + 64 * cores)


@dataclass(frozen=True)
class Launch:
    """One rank's start. `command` set: it is run by bash, else `entry` (module:function)."""

    order: dict[str, Any] = field(repr=False)
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    master_address: str
    master_port: int
    workdir: str
    """Shared by the run's ranks on this node."""
    cwd: str
    private: str
    """A folder of mode 0700 in memory: secrets, report socket, stacks. Of this rank alone."""
    environment: dict[str, str] = field(repr=False)
    command: str | None = None
    entry: str | None = None
    most_processes: int = field(default_factory=lambda: most_processes(os.cpu_count() or 1))
    """What the rank may have below it, itself included; more ends it."""

    def encode(self) -> bytes:
        """JSON, UTF-8."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def decode(data: bytes) -> Launch:
        """The reverse of `encode`; raises TypeError or ValueError for something else."""
        return Launch(**json.loads(data))


def send_launch(connection: socket.socket, launch: Launch, descriptors: list[int]) -> None:
    """Send a launch with its descriptors in the order of `DESCRIPTORS`."""
    data = launch.encode()
    socket.send_fds(connection, [_HEADER.pack(len(data))], descriptors)
    connection.sendall(data)


def receive_launch(connection: socket.socket) -> tuple[Launch, list[int]]:
    """Receive what `send_launch` sent; raises ConnectionError when the sender went away."""
    head, descriptors, _, _ = socket.recv_fds(connection, _HEADER.size, DESCRIPTORS)
    try:
        while len(head) < _HEADER.size:
            head += _some(connection, _HEADER.size - len(head))
        (size,) = _HEADER.unpack(head)
        if size > _LARGEST or len(descriptors) != DESCRIPTORS:
            raise ConnectionError(f"not a launch: {size} bytes, {len(descriptors)} descriptors")
        data = bytearray()
        while len(data) < size:
            data += _some(connection, size - len(data))
        return Launch.decode(bytes(data)), list(descriptors)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _some(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(min(size, 1 << 20))
    if not data:
        raise ConnectionError("the sender of a launch went away")
    return data


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for people's programs: without Ray's and the platform's own variables."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in _KEPT or not (name.startswith(_SCRUBBED_PREFIXES) or name in _SCRUBBED)
    }
    programs = str(Path(sys.executable).parent)
    rest = [part for part in kept.get("PATH", os.defpath).split(os.pathsep) if part != programs]
    kept["PATH"] = os.pathsep.join([programs, *rest])
    return kept


def write_secrets(folder: Path, secrets: Mapping[str, str]) -> None:
    """One file of mode 0400 per secret in `folder`, made with mode 0700."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, value in secrets.items():
        if "/" in name or name in ("", ".", ".."):
            raise ValueError(f"secret {name!r}: a name is a plain file name")
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(value)
