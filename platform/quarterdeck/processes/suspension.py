"""Suspend jobs before the platform stops, and resume exactly those after it has started."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

from quarterdeck.client import Client, QuarterdeckError
from quarterdeck.processes.home import Home, write_private
from quarterdeck.specs.resources import Job

ACTIVE = ("starting", "running", "stopping")
POLL = 0.5


def suspend_all(
    client: Client,
    home: Home,
    seconds: float,
    tell: Callable[[str], None],
    hurry: Callable[[], bool],
) -> None:
    """Suspend what runs, each job with a checkpoint; wait at most `seconds` or until `hurry()`.

    Nodes are cordoned first, so that no waiting job takes the freed slots.
    """
    jobs = [job for job in client.jobs.list(all_projects=True) if job.phase in ACTIVE]
    if not jobs:
        return
    for node in client.nodes.list():
        if node.phase == "alive" and not node.cordoned:
            client.nodes.cordon(node.id)
    suspended = []
    for job in jobs:
        try:
            client.jobs.suspend(job.id)
        except QuarterdeckError as error:
            tell(f"job/{job.name} cannot be suspended: {error}")
        else:
            suspended.append(job.id)
    remember(home, suspended)
    clock, sleep = client.transport.clock, client.transport.sleep
    deadline = clock() + seconds
    said = ""
    while clock() < deadline and not hurry():
        left = [job for job in map(client.jobs.get, suspended) if job.phase in ACTIVE]
        if not left:
            break
        now = f"suspending {', '.join(_state(job) for job in left)}"
        if now != said:
            tell(now)
        said = now
        sleep(POLL)
    for job in map(client.jobs.get, suspended):
        if job.phase == "suspended":
            step = job.progress.step
            tell(f"job/{job.name} suspended" + (f" · step {step}" if step is not None else ""))
        elif job.phase in ACTIVE:
            tell(f"job/{job.name} did not stop in time; it resumes from its last checkpoint")


def _state(job: Job) -> str:
    step = "" if job.progress.step is None else f" (step {job.progress.step})"
    return f"job/{job.name}{step}"


def remember(home: Home, jobs: list[str]) -> None:
    """Add job ids to those that the next start resumes."""
    known = recall(home)
    write_private(home.suspended, json.dumps([*known, *(j for j in jobs if j not in known)]))


def recall(home: Home) -> list[str]:
    """Ids of the jobs that a stop suspended."""
    try:
        return [str(job) for job in json.loads(home.suspended.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return []


def resume_all(client: Client, home: Home, tell: Callable[[str], None]) -> None:
    """Uncordon what we cordoned and resume the jobs of the last stop, once."""
    jobs = recall(home)
    if not jobs:
        return
    for node in client.nodes.list():
        if node.phase == "alive" and node.cordoned and not node.cordon_reason:
            client.nodes.uncordon(node.id)
    for job_id in jobs:
        try:
            job = client.jobs.get(job_id)
            if job.phase == "suspended" or job.desired == "suspend":
                client.jobs.resume(job_id)
                tell(f"job/{job.name} resumed")
        except QuarterdeckError as error:
            tell(f"{job_id} cannot be resumed: {error}")
    with suppress(OSError):
        home.suspended.unlink()
