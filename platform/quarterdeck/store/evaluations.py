"""What evaluations have found of a model version."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from quarterdeck.store.tables import JobRow, RevisionRow, RunRow

MOST_RUNS = 500
"""Evaluations of a project that are looked at, the newest first."""


def results_of(session: Session, project: str, revision: RevisionRow) -> Mapping[str, float]:
    """The newest value of each metric that a succeeded evaluation found of the model version which
    the revision serves."""
    served = _version((revision.inputs or {}).get("model"))
    if served is None:
        return {}
    found: dict[str, float] = {}
    rows = session.execute(
        select(RunRow.inputs, JobRow.results)
        .join(JobRow, JobRow.id == RunRow.owner_id)
        .where(RunRow.kind == "evaluate", RunRow.phase == "succeeded", RunRow.project == project)
        .order_by(JobRow.ordinal.desc())
        .limit(MOST_RUNS)
    )
    for inputs, results in rows:
        if _version(inputs.get("model")) == served:
            numbers = {key: value for key, value in results.items() if _is_number(value)}
            found = {**numbers, **found}
    return found


def _version(models: object) -> tuple[str, int] | None:
    if not isinstance(models, list) or not models or not models[0].get("version"):
        return None
    return models[0]["name"], models[0]["version"]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
