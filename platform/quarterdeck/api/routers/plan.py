"""POST /plan: what a training needs, before it is submitted."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from quarterdeck.api.auth import ProjectQuery, Viewer
from quarterdeck.api.documents import read_documents, refuse
from quarterdeck.api.examples import PRETRAIN
from quarterdeck.api.fitting import Hardware, choose_hardware, plan_on, read_fleet
from quarterdeck.api.problems import documented
from quarterdeck.api.state import State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.planner.hardware import builtin_catalogue
from quarterdeck.planner.plan import Plan
from quarterdeck.specs.kinds import PretrainSpec

router = APIRouter(route_class=StrictRoute, tags=["plan"])
DEFAULT_ACCELERATOR = "H100"


class PlanRequest(BaseModel):
    """A `pretrain` document; `accelerator` plans for other hardware than the document names."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"document": PRETRAIN}]}
    )

    document: dict[str, Any]
    accelerator: str | None = Field(default=None, max_length=64)
    vocab_size: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Where neither the document nor its tokenizer says."""


@router.post(
    "/plan",
    response_model=Plan,
    responses=documented("key_unknown", "access_denied", "invalid_document"),
)
def plan(body: PlanRequest, state: State, caller: Viewer, project: ProjectQuery = None) -> Any:
    """Memory per rank by part, FLOPs, time, money, the best layouts, why each other was rejected,
    and remedies where nothing fits."""
    one = read_documents([body.document], caller.named_in(project), root="")[0]
    spec = one.parsed
    if not isinstance(spec, PretrainSpec):
        message = f"a {spec.kind} has nothing to plan: send a pretrain document"
        raise refuse([one.problem("kind", message)])
    if body.accelerator is not None:
        resources = spec.resources.model_copy(update={"accelerator": body.accelerator})
        spec = spec.model_copy(update={"resources": resources})
    with state.database.read() as session:
        fleet = read_fleet(session, spec.project)
    try:
        choices = choose_hardware(spec, fleet) or [_default()]
        plans = [plan_on(spec, hardware, body.vocab_size) for hardware in choices]
    except ValueError as error:
        raise refuse([one.problem("resources.accelerator", str(error))]) from error
    return next((found for found in plans if found.fits), plans[0])


def _default() -> Hardware:
    """Where no machine is connected and none is named."""
    accelerator = builtin_catalogue().find(DEFAULT_ACCELERATOR)
    return Hardware(accelerator, accelerator.per_host)
