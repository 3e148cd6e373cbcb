"""The installation's log policies: what lines of the output mean for the next attempt."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.api.auth import Admin, Viewer
from quarterdeck.api.problems import ProblemError, documented
from quarterdeck.api.state import State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.specs import resources as r
from quarterdeck.specs.log_policies import BUILT_IN, MOST_OF_INSTALLATION, LogPolicy, in_force
from quarterdeck.store import settings

router = APIRouter(prefix="/log-policies", route_class=StrictRoute, tags=["fleet"])


class PolicyList(BaseModel):
    """All of the installation's own policies; one of a built-in's name replaces it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"policies": [BUILT_IN[0].model_dump(mode="json")]}]},
    )

    policies: Annotated[list[LogPolicy], Field(max_length=MOST_OF_INSTALLATION)]


@router.get("", response_model=r.LogPolicies, responses=documented("key_unknown", "access_denied"))
def get_log_policies(state: State, caller: Viewer) -> Any:
    """The installation's own policies, and all that are in force."""
    with state.database.read() as session:
        own = settings.log_policies(session)
    return r.LogPolicies(policies=own, in_force=in_force((), own))


@router.put(
    "",
    response_model=r.LogPolicies,
    responses=documented("key_unknown", "access_denied", "invalid_document"),
)
def put_log_policies(body: PolicyList, state: State, caller: Admin) -> Any:
    """Replace them; runs that are claimed from now on get the new ones."""
    caller.check_everywhere()
    names = [policy.name for policy in body.policies]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ProblemError("invalid_document", f"policies: named twice: {', '.join(twice)}")
    with state.database.write() as session:
        settings.set_log_policies(session, body.policies, actor=caller.actor)
    return r.LogPolicies(policies=body.policies, in_force=in_force((), body.policies))
