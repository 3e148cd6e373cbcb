"""Rollouts of services: seen, paused, resumed, undone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.api.auth import Operator, ProjectQuery, Viewer
from quarterdeck.api.parameters import LARGEST_INT, Identity
from quarterdeck.api.problems import ProblemError, documented
from quarterdeck.api.rollouts import rollout_status, state_of, undone
from quarterdeck.api.routers.services import lock_service, read_service
from quarterdeck.api.state import State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.specs.rollout_status import RolloutStatus
from quarterdeck.store import service_queries
from quarterdeck.store.tables import ServiceRow

router = APIRouter(prefix="/services", route_class=StrictRoute, tags=["services"])
_CHANGES = documented(
    "key_unknown", "access_denied", "not_found", "service_stopped", "rollout_state"
)


class Undo(BaseModel):
    """Back to revision `to`; None: the one that served before."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"to": 1}]})

    to: int | None = Field(default=None, ge=1, le=LARGEST_INT)


@router.get(
    "/{id}/rollout",
    response_model=RolloutStatus,
    responses=documented("key_unknown", "access_denied", "not_found"),
)
def get_rollout(id: Identity, state: State, caller: Viewer, project: ProjectQuery = None) -> Any:
    """Where its rollout stands: replicas, traffic and errors by revision."""
    with state.database.read() as session:
        return rollout_status(session, read_service(session, caller, id, project))


@router.post("/{id}/rollout/undo", response_model=RolloutStatus, responses=_CHANGES)
def undo_rollout(
    id: Identity,
    state: State,
    caller: Operator,
    body: Annotated[Undo | None, Body()] = None,
    project: ProjectQuery = None,
) -> Any:
    """Go back to an earlier revision, under a new number: replicas of it that live are kept."""
    with state.database.write() as session:
        row = lock_service(session, caller, id, project)
        to = undone(session, row, body.to if body else None)
        if to is None:
            raise ProblemError(
                "rollout_state",
                f"service/{row.name} has nothing to go back to: revision {row.revision} is "
                "the first, or the same as the one asked for",
            )
        service_queries.undo_service(session, row, to, actor=caller.actor)
        return rollout_status(session, row)


@router.post("/{id}/rollout/{action}", response_model=RolloutStatus, responses=_CHANGES)
def steer_rollout(
    id: Identity,
    action: Annotated[Literal["pause", "resume"], Path()],
    state: State,
    caller: Operator,
    project: ProjectQuery = None,
) -> Any:
    """`pause`: go no further. `resume`: go on, past a step that waits for it; after it was rolled
    back: try the revision again."""
    with state.database.write() as session:
        row = lock_service(session, caller, id, project)
        if refusal := _refusal(row, action):
            raise ProblemError("rollout_state", refusal)
        service_queries.wish_rollout(session, row, action, actor=caller.actor)
        return rollout_status(session, row)


def _refusal(row: ServiceRow, action: str) -> str:
    current = state_of(row)
    phase = current.phase if current is not None else "unknown"
    if row.spec.get("chain"):
        phase = "finished"
    if action == "pause" and phase in ("progressing", "paused"):
        return ""
    if action == "resume" and phase in ("paused", "rolled_back"):
        return ""
    # What was wished a moment ago, and is not obeyed yet, can be taken back.
    if (row.rollout_wish or {}).get("wish") not in (None, action):
        return ""
    return f"service/{row.name} cannot {action}: its rollout is {phase}"
