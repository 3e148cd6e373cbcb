"""POST /apply: documents become what they say."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict

from quarterdeck.api.auth import Operator, ProjectQuery
from quarterdeck.api.examples import DRY_RUN
from quarterdeck.api.idempotency import Creating, once
from quarterdeck.api.problems import documented
from quarterdeck.api.state import State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.api.submission import Wishes, prepare, submit
from quarterdeck.specs import resources as r
from quarterdeck.store.sessions import Session

router = APIRouter(route_class=StrictRoute, tags=["documents"])


class ApplyRequest(r.ApplyRequest):
    """Documents to apply in one transaction. A misspelt wish is refused, never ignored."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [DRY_RUN]})


class _DryRunOver(Exception):
    """Ends the transaction of a dry run without a trace."""

    def __init__(self, result: r.ApplyResult) -> None:
        super().__init__("dry run")
        self.result = result


@router.post(
    "/apply",
    response_model=r.ApplyResult,
    responses=documented(
        "key_unknown", "access_denied", "job_live", "invalid_document", "does_not_fit",
        "idempotency_key_reused",
    ),
)  # fmt: skip
def apply(
    request: ApplyRequest,
    state: State,
    caller: Operator,
    creation: Creating,
    project: ProjectQuery = None,
) -> Any:
    """Create, update or leave each document as it is; all of them, or none when one is wrong."""
    wishes = Wishes(replace=request.replace, force=request.force, prune=request.prune)
    home = caller.named_in(project)
    artifacts = None if request.dry_run else state.artifacts
    prepared = prepare(state.database, caller, request.documents, home, wishes, artifacts=artifacts)

    def work(session: Session) -> r.ApplyResult:
        done = submit(session, caller, prepared, wishes)
        order = [f"documents[{place}]" for place in range(len(request.documents))]
        rest = [path for path in done if path not in order]
        results = [done[path] for path in (*order, *rest)]
        return r.ApplyResult(results=results, dry_run=request.dry_run)

    if not request.dry_run:
        return once(state, caller, creation, r.ApplyResult, work)
    try:
        with state.database.write() as session:
            raise _DryRunOver(work(session))
    except _DryRunOver as over:
        return over.result.model_copy(
            update={
                "results": [
                    # What would be created has no id yet.
                    item.model_copy(update={"id": None}) if item.action == "created" else item
                    for item in over.result.results
                ]
            }
        )
