"""The order that a claimed run's supervisor gets: spec, inputs, secrets, and a key of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quarterdeck.api.credentials import new_credential
from quarterdeck.api.problems import ProblemError
from quarterdeck.api.state import ApiState
from quarterdeck.api.vault import WrongMasterKeyError
from quarterdeck.specs.log_policies import LogPolicy, in_force
from quarterdeck.specs.protocol import Claim, ResumeFrom, RunOrder
from quarterdeck.store import access_queries, agents, run_queries
from quarterdeck.store.fleet_statistics import mean_time_to_failure
from quarterdeck.store.references import secrets_missing
from quarterdeck.store.sessions import Session
from quarterdeck.store.settings import log_policies
from quarterdeck.store.tables import RunRow


class _Refused(Exception):
    """The order cannot be written; `reason` and the text are for the run's owner."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


_PROBLEMS = {"SecretMissing": "secret_missing", "SecretUnreadable": "wrong_master_key"}


def claim_run(
    state: ApiState, run_id: str, request: Claim, *, cluster: str | None = None
) -> RunOrder:
    """Claim a run for its agent and write its order. The key's text exists in this answer only.

    `cluster` is the only one that the agent's key reaches, None: all. Raises NotFound, StaleEpoch
    and AlreadyClaimed, with nothing written; ProblemError `secret_missing` and `wrong_master_key`
    when the order cannot be written: then the run stays unclaimed, and its row says why for the
    controller to act upon.
    """
    fresh = new_credential(state.settings.random_bytes, "qdr")
    try:
        with state.database.write() as session:
            run = agents.claim(
                session, run_id, request, cluster=cluster, key_sha256=fresh.sha256,
                key_prefix=fresh.prefix,
            )  # fmt: skip
            return _order(session, state, run, fresh.text)
    except _Refused as refused:
        with state.database.write() as session:
            agents.note_refused(session, run_id, request, refused.reason, str(refused))
        raise ProblemError(_PROBLEMS[refused.reason], str(refused)) from refused


def _order(session: Session, state: ApiState, run: RunRow, run_key: str) -> RunOrder:
    settings = state.settings
    wanted = run.spec.get("secrets") or []
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
            "secrets": _secrets(session, state, run.project, [item["name"] for item in wanted]),
            "env_secrets": [secret["name"] for secret in wanted if secret.get("env")],
            "log_policies": in_force(
                [LogPolicy.model_validate(each) for each in run.spec.get("log_policies") or ()],
                log_policies(session),
            ),
            "api_url": settings.api_url,
            "run_key": run_key,
            "stall_after": settings.stall_after,
            "stall_after_first": settings.stall_after_first,
        }
    )


def _secrets(
    session: Session, state: ApiState, project: str, names: Sequence[str]
) -> dict[str, str]:
    sealed = {row.name: row.value for row in access_queries.find_secrets(session, project, names)}
    if missing := secrets_missing(project, names, sealed):
        raise _Refused("SecretMissing", missing)
    opened: dict[str, str] = {}
    for name, value in sealed.items():
        try:
            opened[name] = state.vault.open(value)
        except WrongMasterKeyError as error:
            raise _Refused("SecretUnreadable", f"secret {name}: {error}") from error
    return opened


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
