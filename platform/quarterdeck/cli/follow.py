"""`watch`, `wait`, `events`: what is looked at while it happens."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quarterdeck.cli.jobs import JobName
from quarterdeck.cli.names import job_or_service, of_kind
from quarterdeck.cli.output import amount, clock, duration, step
from quarterdeck.cli.session import (
    CANCELLED,
    JOB_FAILED,
    USAGE,
    Output,
    Project,
    connect,
    note,
    refuse,
)
from quarterdeck.cli.units import seconds_of

if TYPE_CHECKING:
    from quarterdeck.client import Client
    from quarterdeck.specs.resources import Event, Job

Subject = Annotated[str, typer.Argument(metavar="TYPE/NAME", help="job/NAME or service/NAME.")]


def watch(name: JobName, project: Project = None) -> None:
    """Follow a job's progress on one line until it has ended.

    Example: quarterdeck watch job/llama-8b
    """
    with connect(project) as client:
        if sys.stdout.isatty():
            from rich.live import Live

            with Live(auto_refresh=False) as live:
                job = client.wait(
                    of_kind(name, "job"),
                    on_change=lambda job: live.update(progress(job), refresh=True),
                )
        else:
            said = ""

            def tell(job: Job) -> None:
                nonlocal said
                if (now := progress(job)) != said:
                    print(now, flush=True)
                said = now

            job = client.wait(of_kind(name, "job"), on_change=tell)
    end_with(job)


def progress(job: Job) -> str:
    """`running · step 812/2000 · loss 2.31 · 41k tok/s · ETA 18m · goodput 96%`."""
    now = job.progress
    parts = [
        job.phase,
        f"step {step(now.step, now.steps_total)}" if now.step is not None else "",
        f"loss {now.loss:.3f}" if now.loss is not None else "",
        f"{amount(now.tokens_per_second)} tok/s" if now.tokens_per_second else "",
        f"ETA {duration(now.eta_seconds)}" if now.eta_seconds is not None else "",
        f"goodput {now.goodput:.0%}" if now.goodput is not None else "",
        ": ".join(text for text in (job.reason, job.message) if text and job.phase != "running"),
    ]
    return " · ".join(part for part in parts if part)


def make(client: Client, document: dict[str, Any], *, wait: bool) -> None:
    """Apply a job that makes versions and, unless `wait` is false, follow it and print them; ends
    the command as the job does where that fails."""
    applied = client.apply([document]).results[0]
    print(f"job/{applied.name} {applied.action}")
    if not wait:
        return
    said: set[str] = set()

    def tell(text: str) -> None:
        if text not in said:
            note(text)
        said.add(text)

    job = client.wait(applied.id or applied.name, on_change=lambda job: tell(progress(job)))
    if job.phase != "succeeded":
        end_with(job)
    for made in job.outputs:
        print(made)


def wait(
    subject: Subject,
    until: Annotated[
        str | None, typer.Option(help="A phase; default: ended (jobs), ready (services).")
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="At most this long, e.g. 10m.")] = None,
    project: Project = None,
) -> None:
    """Wait for a phase. Exit codes: 3 job failed, 4 cancelled, 5 time is over.

    Example: quarterdeck wait job/llama-8b --until running --timeout 10m
    """
    from typing import cast, get_args

    from quarterdeck.specs.resources import JobPhase, ServicePhase

    kind, name = job_or_service(subject)
    seconds = seconds_of(timeout)
    phases = get_args(JobPhase if kind == "job" else ServicePhase)
    if until is not None and until not in phases:
        refuse(f"--until {until}: write one of {', '.join(phases)}", USAGE)
    with connect(project) as client:
        if kind == "service":
            phase = cast(ServicePhase, until or "ready")
            service = client.wait_for_service(
                name, until=phase, timeout=seconds, on_change=lambda s: note(s.message or s.phase)
            )
            print(f"service/{service.name} {service.phase}")
            return
        job = client.wait(
            name, until=cast(JobPhase | None, until), timeout=seconds,
            on_change=_Changes(),
        )  # fmt: skip
    print(f"job/{job.name} {job.phase}")
    if job.phase != until:
        end_with(job, quiet=True)


class _Changes:
    """Tells each new phase and reason once."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, job: Job) -> None:
        now = " · ".join(part for part in (job.phase, job.reason, job.message) if part)
        if now != self._said:
            note(now)
        self._said = now


def end_with(job: Job, *, quiet: bool = False) -> None:
    """End the command with the exit code of a job's phase; a failure is shown."""
    if job.phase == "failed":
        if not quiet or job.failure is not None:
            print_failure(job)
        raise typer.Exit(JOB_FAILED)
    if job.phase == "cancelled":
        note(f"job/{job.name} was cancelled")
        raise typer.Exit(CANCELLED)
    if not quiet:
        note(f"job/{job.name} {job.phase}")


def print_failure(job: Job) -> None:
    """The first failure of a job, with its traceback, on stderr."""
    note(f"job/{job.name} failed: {job.reason}: {job.message}")
    if job.failure is not None:
        rank = "" if job.failure.rank is None else f"rank {job.failure.rank}, "
        note(f"{rank}blame: {job.failure.blame}: {job.failure.message}")
        if job.failure.traceback:
            note(job.failure.traceback.rstrip())


def events(
    subject: Annotated[
        str | None, typer.Argument(metavar="[TYPE/NAME]", help="Only of this job or service.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as they come.")] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many.", min=1)] = None,
    project: Project = None,
    output: Output = "table",
) -> None:
    """Print what happened, oldest first.

    Example: quarterdeck events job/llama-8b -f
    """
    with connect(project) as client:
        if follow:
            found = client.follow_events(
                subject, on_reconnect=lambda reason: note(f"{reason}; reconnecting")
            )
            for event in found:
                print(event_line(event, output), flush=True)
            return
        if subject is None:
            listed = client.events(limit=limit)
        else:
            kind, name = job_or_service(subject)
            owner = client.jobs if kind == "job" else client.services
            listed = list(owner.events(name, limit=limit))
    for event in listed:
        print(event_line(event, output))


def event_line(event: Event, output: str = "table") -> str:
    """One event on a line."""
    if output == "json":
        return event.model_dump_json()
    actor = f" (by {event.actor})" if event.actor and output == "wide" else ""
    return f"{clock(event.at)}  {event.subject}  {event.type}  {event.message}{actor}"
