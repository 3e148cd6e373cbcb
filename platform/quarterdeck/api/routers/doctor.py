"""The invariants, proven on the live database and the artifact store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query

from quarterdeck.api.auth import Admin
from quarterdeck.api.problems import documented
from quarterdeck.api.state import ApiState, State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.artifacts import ArtifactError
from quarterdeck.specs.beats import CheckpointManifest
from quarterdeck.specs.reports import DoctorCheck, DoctorReport
from quarterdeck.store import proof
from quarterdeck.store.proof import Violation
from quarterdeck.store.settings import generation
from quarterdeck.store.tables import CheckpointRow

router = APIRouter(route_class=StrictRoute, tags=["fleet"])
MOST_SHOWN = 100
FILES_SECONDS = 30.0
"""For looking at checkpoints' files; the newest come first."""


@router.get(
    "/doctor",
    response_model=DoctorReport,
    responses=documented("key_unknown", "access_denied"),
)
def doctor(
    state: State,
    caller: Admin,
    deep: Annotated[bool, Query(description="Read checkpoints' files too.")] = False,
) -> Any:
    """What must never be, looked for."""
    caller.check_everywhere()
    with state.database.read() as session:
        now = generation(session)
        checks = [_checked(check, check.look(session)) for check in proof.CHECKS]
        saved = proof.registered_checkpoints(session)
    return DoctorReport(generation=now, checks=[*checks, _files(state, saved, deep)])


def _checked(check: proof.Check, found: Iterable[Violation]) -> DoctorCheck:
    shown = list(islice(found, MOST_SHOWN))
    state = "ok" if not shown else "note" if check.notes else "failed"
    return DoctorCheck.model_validate(
        {
            "name": check.name,
            "claim": check.claim,
            "state": state,
            "remedy": check.remedy if shown else "",
            "found": [{"id": each.id, "message": each.message} for each in shown],
        }
    )


def _files(state: ApiState, saved: list[CheckpointRow], deep: bool) -> DoctorCheck:
    looked: list[str] = []

    def look() -> Iterator[Violation]:
        until = time.monotonic() + FILES_SECONDS
        for row in saved:
            if time.monotonic() > until:
                return
            looked.append(row.id)
            manifest = CheckpointManifest.model_validate(row.manifest)
            try:
                state.artifacts.verify(manifest, digests=deep)
            except (ArtifactError, ValueError, OSError) as error:
                yield Violation(row.id, f"step {row.step} of job/{row.job_name}: {error}")

    check = proof.Check(
        "checkpoint-files",
        "files of registered checkpoints are there" + (" and unchanged" if deep else ""),
        "the job resumes from an older one only if these are gone: cancel it, or bring them back",
        lambda session: look(),
    )
    answer = _checked(check, look())
    if len(looked) < len(saved):
        answer.claim += f" (looked at the newest {len(looked)} of {len(saved)})"
    return answer
