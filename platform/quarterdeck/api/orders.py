"""The order that a claimed run's supervisor gets: spec, inputs, secrets, and a key of its own."""

from __future__ import annotations

from typing import Any

from quarterdeck.api.credentials import new_credential
from quarterdeck.api.state import ApiState
from quarterdeck.specs.protocol import Claim, ResumeFrom, RunOrder
from quarterdeck.store import access_queries, agents, run_queries
from quarterdeck.store.fleet_statistics import mean_time_to_failure
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import RunRow


def claim_run(state: ApiState, run_id: str, request: Claim) -> RunOrder:
    """Claim a run for its agent and write its order. The key's text exists in this answer only.

    Raises NotFound, StaleEpoch and AlreadyClaimed, with nothing written.
    """
    fresh = new_credential(state.settings.random_bytes, "qdr")
    with state.database.write() as session:
        run = agents.claim(
            session, run_id, request, key_sha256=fresh.sha256, key_prefix=fresh.prefix
        )
        order = _order(session, state, run, fresh.text)
    return order


def _order(session: Session, state: ApiState, run: RunRow, run_key: str) -> RunOrder:
    settings = state.settings
    wanted = run.spec.get("secrets") or []
    names = [secret["name"] for secret in wanted]
    sealed = access_queries.find_secrets(session, run.project, names)
    return RunOrder.model_validate(
        {
            "run_id": run.id,
            "epoch": run.epoch,
            "attempt": run.attempt,
            "owner_type": run.owner_type,
            "owner_id": run.owner_id,
            "owner_name": run.owner_name,
            "project": run.project,
            "kind": run.kind,
            "spec": run.spec,
            "cluster": run.cluster,
            "placements": run.placements,
            "inputs": run.inputs,
            "resume": _resume(session, run),
            "mean_time_to_failure": mean_time_to_failure(
                session, run.cluster, max(1, len(run.placements))
            ),
            "artifacts_uri": settings.artifacts_uri,
            "artifacts_options": dict(settings.artifacts_options),
            "secrets": {row.name: state.vault.open(row.value) for row in sealed},
            "env_secrets": [secret["name"] for secret in wanted if secret.get("env")],
            "api_url": settings.api_url,
            "run_key": run_key,
            "stall_after": settings.stall_after,
            "stall_after_first": settings.stall_after_first,
        }
    )


def _resume(session: Session, run: RunRow) -> dict[str, Any] | None:
    found = run_queries.resume_checkpoint(session, run)
    if found is None:
        return None
    resume = ResumeFrom.model_validate(
        {
            "checkpoint_id": found.id,
            "step": found.step,
            "uri": found.uri,
            "manifest": found.manifest,
        }
    )
    return resume.model_dump()
