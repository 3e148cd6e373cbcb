"""Where rank-seconds went: of one job, and of all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from quarterdeck.api.auth import ProjectQuery, Viewer
from quarterdeck.api.parameters import Identity, Since, since_seconds
from quarterdeck.api.problems import documented
from quarterdeck.api.routers.jobs import read_job
from quarterdeck.api.state import State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.lifecycle.goodput import Cost
from quarterdeck.specs.base import NAME_PATTERN
from quarterdeck.specs.beats import RankSeconds
from quarterdeck.specs.reports import FleetGoodput, IncidentCost, JobGoodput
from quarterdeck.store import goodput

router = APIRouter(route_class=StrictRoute, tags=["goodput"])


@router.get(
    "/jobs/{id}/goodput", response_model=JobGoodput,
    responses=documented("key_unknown", "access_denied", "not_found"),
)  # fmt: skip
def job_goodput(id: Identity, state: State, caller: Viewer, project: ProjectQuery = None) -> Any:
    """Where a job's rank-seconds went, and what each incident cost."""
    with state.database.read() as session:
        row = read_job(session, caller, id, project)
        runs, incidents = goodput.job_books(session, row)
    accounts = _total([goodput.books_of(run).accounts for run in runs])
    return JobGoodput(
        job_id=row.id,
        name=row.name,
        project=row.project,
        attempts=len(runs),
        accounts=accounts,
        held_seconds=accounts.held,
        goodput=_share(accounts),
        incidents=[_incident(cost) for cost in incidents],
    )


@router.get(
    "/goodput", response_model=FleetGoodput,
    responses=documented("key_unknown", "access_denied", "invalid_parameter"),
)  # fmt: skip
def fleet_goodput(
    state: State,
    caller: Viewer,
    project: ProjectQuery = None,
    since: Since = None,
    cluster: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
) -> Any:
    """Where the rank-seconds of all jobs went. A run that held slots after `since` counts whole."""
    seconds = since_seconds(since, state.settings.clock().timestamp())
    moment = None if seconds is None else datetime.fromtimestamp(seconds, tz=UTC)
    with state.database.read() as session:
        found = goodput.accounts_by_job(
            session, project=caller.listed(project), since=moment, cluster=cluster
        )
    accounts = _total([books.accounts for books in found])
    return FleetGoodput(
        accounts=accounts,
        held_seconds=accounts.held,
        goodput=_share(accounts),
        jobs=[
            JobGoodput(
                job_id=books.job_id,
                name=books.name,
                project=books.project,
                attempts=books.attempts,
                accounts=books.accounts,
                held_seconds=books.accounts.held,
                goodput=_share(books.accounts),
            )
            for books in found
        ],
    )


def _total(accounts: Sequence[RankSeconds]) -> RankSeconds:
    return RankSeconds(
        **{name: sum(getattr(one, name) for one in accounts) for name in goodput.ACCOUNTS}
    )


def _share(accounts: RankSeconds) -> float | None:
    return min(1.0, accounts.productive / accounts.held) if accounts.held > 0 else None


def _incident(cost: Cost) -> IncidentCost:
    return IncidentCost(
        epoch=cost.epoch, what=cost.what, at=cost.at, lost=cost.lost, stalled=cost.stalled,
        waiting=cost.waiting, restart=cost.restart, total=cost.total,
    )  # fmt: skip
