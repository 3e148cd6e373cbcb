"""Which processes of the local installation a fault can hit, by its own records and marks.

Never by a name alone: api, controller, gateway and agent are those of `processes.json`, Ray's
daemons those of `ray/ray.json`, and everything below Ray carries the home's mark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from quarterdeck.processes.home import Home
from quarterdeck.processes.records import Recorded, alive, read_record

RAY_MARK = "QUARTERDECK_RAY"
"""Variable that every process of a home's Ray inherits (the workers' agent/ray_process.py)."""
KINDS: Mapping[str, str] = {
    "api": "the REST server",
    "controller": "decides: admission, runs, services",
    "gateway": "passes requests to engines",
    "agent": "claims runs, starts supervisors",
    "supervisor": "the actor that leads one run",
    "host": "the actor that watches a run's ranks on a machine",
    "rank": "one rank's process",
    "ranks": "all ranks of one run at once",
    "parent": "the preloaded process that forks ranks",
    "gcs": "Ray's global control store",
    "raylet": "Ray's daemon of this machine",
}
PLATFORM_KINDS = frozenset({"api", "controller", "gateway", "agent"})
RUN_KINDS = frozenset({"supervisor", "host", "rank", "ranks"})
_DAEMONS = {"raylet": "raylet", "gcs_server": "gcs"}
_ACTORS = {"ray::Supervisor": "supervisor", "ray::Host": "host"}


@dataclass(frozen=True)
class Target:
    """What one fault hits: one process, or all ranks of a run."""

    kind: str
    processes: tuple[psutil.Process, ...]
    owner: str = ""
    """`job/NAME` or `service/NAME`, where it belongs to a run and this is known."""
    epoch: int = 0
    rank: int | None = None

    @property
    def pids(self) -> str:
        return ", ".join(str(process.pid) for process in self.processes)

    @property
    def words(self) -> str:
        """For people: `rank 1 of job/x`."""
        which = f"{self.kind} {self.rank}" if self.rank is not None else self.kind
        return f"{which} of {self.owner}" if self.owner else which


def targets(home: Home) -> list[Target]:
    """Everything of this home that lives and can be hit, platform first."""
    found = list(_recorded(home))
    below = list(_below_ray(home))
    gangs: dict[tuple[str, int], list[Target]] = {}
    for target in below:
        if target.kind == "rank":
            gangs.setdefault((target.owner, target.epoch), []).append(target)
    found += _daemons(home)
    found += below
    for (owner, epoch), ranks in gangs.items():
        if owner:
            processes = tuple(process for rank in ranks for process in rank.processes)
            found.append(Target("ranks", processes, owner, epoch))
    return found


def chosen(
    found: Sequence[Target], kind: str, *, job: str | None = None, rank: int | None = None
) -> list[Target]:
    """Those of a kind, of a job (`job/NAME`) and of a rank where these are given."""
    return [
        target
        for target in found
        if target.kind == kind
        and (job is None or target.owner == job)
        and (rank is None or target.rank == rank)
    ]


def _recorded(home: Home) -> Iterator[Target]:
    record = read_record(home)
    for entry in record.processes if record else ():
        kind = entry.name.partition("-")[0]
        process = alive(entry)
        if kind in PLATFORM_KINDS and process is not None:
            yield Target(kind, (process,))


def _daemons(home: Home) -> Iterator[Target]:
    data = _read(home.ray / "ray.json")
    for pid, created in data.get("processes", ()):
        process = alive(Recorded("", int(pid), float(created)))
        if process is not None and (kind := _DAEMONS.get(process.name())):
            yield Target(kind, (process,))


def _below_ray(home: Home) -> Iterator[Target]:
    actors = _actors(home)
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            environment = process.environ()
            if environment.get(RAY_MARK) != str(home.folder):
                continue
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            target = _actor(process, actors) or _rank(process, environment, actors)
            if target is not None:
                yield target


def _actor(process: psutil.Process, actors: Mapping[int, dict[str, Any]]) -> Target | None:
    line = process.cmdline()
    if not line:
        return None
    if "quarterdeck_workers.rank.parent" in line and "--socket" in line:
        parent = process.parent()
        # Watchers are forked from it and carry the same line: only the actor's child serves.
        return Target("parent", (process,)) if parent and _is_node_parent(parent) else None
    kind = _ACTORS.get(line[0].partition(".")[0])
    if kind is None:
        return None
    said = actors.get(process.pid)
    if said is None or abs(float(said["created"]) - process.create_time()) > 0.02:
        return Target(kind, (process,))
    return Target(kind, (process,), str(said["owner"]), int(said["epoch"]))


def _is_node_parent(process: psutil.Process) -> bool:
    line = process.cmdline()
    return bool(line) and line[0].startswith("ray::NodeParent")


def _rank(
    process: psutil.Process,
    environment: Mapping[str, str],
    actors: Mapping[int, Mapping[str, Any]],
) -> Target | None:
    watcher = process.parent()
    if watcher is None or not watcher.name().startswith("qd-watch-"):
        return None
    number = watcher.name().rpartition("-")[2]
    children = watcher.children()
    if not number.isdecimal() or not children or children[0].pid != process.pid:
        return None  # an orphan of the program that the watcher adopted
    if name := environment.get("QUARTERDECK_OWNER"):
        epoch = int(environment.get("QUARTERDECK_ATTEMPT", "0"))
        return Target("rank", (process,), f"job/{name}", epoch, int(number))
    # The environment of a forked process is its parent's: its folder is the run's own.
    folder = Path(process.cwd()).name
    for said in actors.values():
        if folder == f"{said['run_id']}-{said['epoch']}":
            return Target("rank", (process,), str(said["owner"]), int(said["epoch"]), int(number))
    return Target("rank", (process,), rank=int(number))


def _actors(home: Home) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for file in (home.ray / "actors").glob("*.json"):
        data = _read(file)
        if {"pid", "created", "owner", "run_id", "epoch"} <= data.keys():
            found[int(data["pid"])] = data
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
