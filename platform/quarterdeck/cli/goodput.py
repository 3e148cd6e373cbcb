"""`goodput`: where rank-seconds went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.names import of_kind
from quarterdeck.cli.output import Column, duration, show_one, table
from quarterdeck.cli.session import Output, Project, connect, note

if TYPE_CHECKING:
    from quarterdeck.specs.reports import IncidentCost, JobGoodput

ACCOUNTS = ("productive", "checkpoint", "restart", "stalled", "starting")


def goodput(
    job: Annotated[str | None, typer.Argument(metavar="[job/NAME]", help="One job.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Jobs that held slots since a moment, or so long ago.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="Only runs on this cluster.")] = None,
    project: Project = None,
    output: Output = "table",
) -> None:
    """Show where the rank time of a job, or of all, went, and what incidents cost.

    Example: quarterdeck goodput --since 24h
    """
    with connect(project) as client:
        if job is not None:
            one = client.jobs.goodput(of_kind(job, "job"))
            if output in ("json", "yaml"):
                show_one(one, output)
            else:
                print(accounts_table([one]))
                if one.incidents:
                    print("\nincidents\n" + incidents_table(one.incidents))
            return
        found = client.goodput(since=since, cluster=cluster)
    if output in ("json", "yaml"):
        show_one(found, output)
        return
    if not found.jobs:
        note("no runs held slots")
        return
    total = found.jobs[0].model_copy(
        update={
            "name": "all", "attempts": sum(one.attempts for one in found.jobs),
            "accounts": found.accounts, "held_seconds": found.held_seconds,
            "goodput": found.goodput,
        }
    )  # fmt: skip
    print(accounts_table([*found.jobs, total]))


def accounts_table(jobs: Sequence[JobGoodput]) -> str:
    """A line for each job: its goodput, what it held, and the share of each account."""
    columns: list[Column[JobGoodput]] = [
        Column("JOB", lambda one: one.name),
        Column("ATTEMPTS", lambda one: one.attempts),
        Column("GOODPUT", lambda one: "-" if one.goodput is None else f"{one.goodput:.1%}"),
        Column("HELD", lambda one: duration(one.held_seconds)),
        *(Column(name.upper(), _seconds_of(name)) for name in ACCOUNTS),
    ]
    return table(jobs, columns)


def incidents_table(incidents: Sequence[IncidentCost]) -> str:
    """A line for each incident: rank time that it cost, and in what."""
    columns: list[Column[IncidentCost]] = [
        Column("ATTEMPT", lambda one: one.epoch),
        Column("WHAT", lambda one: one.what),
        Column("AT", lambda one: f"{one.at:%Y-%m-%d %H:%M:%S}Z"),
        Column("COST", lambda one: duration(one.total)),
        Column("LOST", lambda one: duration(one.lost)),
        Column("STALLED", lambda one: duration(one.stalled)),
        Column("WAITING", lambda one: duration(one.waiting)),
        Column("RESTART", lambda one: duration(one.restart)),
    ]
    return table(incidents, columns)


def _seconds_of(name: str) -> Callable[[JobGoodput], str]:
    def cell(one: JobGoodput) -> str:
        return duration(float(getattr(one.accounts, name)))

    return cell
