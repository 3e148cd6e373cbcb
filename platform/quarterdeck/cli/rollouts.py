"""`rollout`: how a service goes from one revision to the next."""

from __future__ import annotations

import sys
from difflib import unified_diff
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quarterdeck.cli.names import of_kind
from quarterdeck.cli.output import Column, age, show, show_one, table, yaml_text
from quarterdeck.cli.session import USAGE, Output, Project, connect, note, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quarterdeck.client import Client
    from quarterdeck.specs.rollout_status import Revision, RevisionStatus, RolloutStatus

Action = Literal["status", "pause", "resume", "undo", "history", "diff"]


def rollout(
    name: Annotated[str, typer.Argument(metavar="service/NAME", help="The service.")],
    action: Annotated[
        Action,
        typer.Argument(help="status, pause, resume, undo, history, or diff A B.", metavar="ACTION"),
    ] = "status",
    revisions: Annotated[
        list[int] | None, typer.Argument(metavar="[A B]", help="Of diff: two revisions.")
    ] = None,
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="Of undo: the revision to go back to.")
    ] = None,
    project: Project = None,
    output: Output = "table",
) -> None:
    """See or steer how a service goes to its newest revision.

    Example: quarterdeck rollout service/chat undo --to 3
    """
    service = of_kind(name, "service")
    if to is not None and action != "undo":
        refuse("--to belongs to undo", USAGE)
    if revisions and action != "diff":
        refuse(f"{action} takes no revisions", USAGE)
    with connect(project) as client:
        if action == "history":
            _history(client.services.revisions(service), service, output)
        elif action == "diff":
            _diff(client.services.revisions(service), revisions or [])
        else:
            _status(_steer(client, service, action, to), output)


def _steer(client: Client, service: str, action: Action, to: int | None) -> RolloutStatus:
    if action == "pause":
        return client.services.pause(service)
    if action == "resume":
        return client.services.resume(service)
    if action == "undo":
        return client.services.undo(service, to)
    return client.services.rollout(service)


def _status(status: RolloutStatus, output: str) -> None:
    if output in ("json", "yaml"):
        show_one(status, output)
        return
    columns: list[Column[RevisionStatus]] = [
        Column("REVISION", lambda one: one.revision),
        Column("WEIGHT", lambda one: f"{one.weight:.0%}"),
        Column("READY", lambda one: f"{one.ready}/{one.wanted}"),
        Column(
            "ERR%", lambda one: None if one.error_rate is None else f"{100 * one.error_rate:.1f}"
        ),
        Column("STEP", lambda one: _step(status, one)),
        Column("MODEL", lambda one: one.model_version, wide=True),
        Column("REQUESTS", lambda one: one.requests, wide=True),
        Column("TTFT-P95", lambda one: _seconds(one.ttft_p95), wide=True),
    ]
    newest = f"revision {status.revision}"
    newest += f" (of {status.of_revision})" if status.of_revision else ""
    note(f"{newest} · {status.strategy} · {status.phase}: {status.message}")
    print(table(status.revisions, columns, wide=output == "wide"))


def _step(status: RolloutStatus, one: RevisionStatus) -> str | None:
    if one.revision != status.target:
        return "stable" if one.revision == status.stable else None
    if status.phase in ("progressing", "paused") and status.steps:
        return f"{min(status.step + 1, status.steps)}/{status.steps} {status.phase}"
    return status.phase


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}s"


def _history(revisions: Sequence[Revision], service: str, output: str) -> None:
    columns: list[Column[Revision]] = [
        Column("REVISION", lambda one: one.revision),
        Column("AGE", lambda one: age(one.created_at)),
        Column("BY", lambda one: one.actor),
        Column("WHY", lambda one: one.note),
        Column("CHANGED", lambda one: ", ".join(one.changed)),
        Column("MODEL", _model),
    ]
    show(revisions, columns, output, lambda one: f"service/{service}@{one.revision}")


def _model(revision: Revision) -> str | None:
    found = (revision.inputs or {}).get("model") or []
    return f"{found[0]['name']}@{found[0]['version']}" if found else None


def _diff(revisions: Sequence[Revision], wanted: list[int]) -> None:
    known = {one.revision: one for one in revisions}
    pair = wanted or sorted(known)[-2:]
    if len(pair) != 2:
        refuse("diff takes two revisions: quarterdeck rollout service/NAME diff 1 2", USAGE)
    missing = [number for number in pair if number not in known]
    if missing:
        refuse(f"revision {missing[0]} does not exist: there are {', '.join(map(str, known))}")
    before, after = (known[number] for number in pair)
    sys.stdout.writelines(
        unified_diff(
            yaml_text(_shown(before)).splitlines(keepends=True),
            yaml_text(_shown(after)).splitlines(keepends=True),
            fromfile=f"revision {before.revision}",
            tofile=f"revision {after.revision}",
        )
    )


def _shown(revision: Revision) -> dict[str, Any]:
    return {**revision.spec, "model_version": _model(revision)}
