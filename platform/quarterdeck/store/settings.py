"""The installation's own settings."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from quarterdeck.specs.log_policies import LogPolicy
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import SettingRow


def generation(session: Session) -> int:
    """How often this database was restored from a backup; agents compare it."""
    row = session.get(SettingRow, "generation")
    return int(row.value["value"]) if row else 0


def raise_generation(session: Session) -> int:
    """Count a restore; the new generation."""
    value = generation(session) + 1
    session.merge(SettingRow(name="generation", value={"value": value}))
    return value


def log_policies(session: Session) -> list[LogPolicy]:
    """The installation's own log policies."""
    row = session.get(SettingRow, "log_policies")
    return [LogPolicy.model_validate(each) for each in row.value["policies"]] if row else []


def set_log_policies(session: Session, policies: Sequence[LogPolicy], *, actor: str) -> None:
    """Replace the installation's log policies; runs that are claimed from now on get them."""
    value = {"policies": [policy.model_dump(mode="json") for policy in policies]}
    session.merge(SettingRow(name="log_policies", value=value))
    append_event(
        session,
        type="settings.log_policies",
        subject="settings/log_policies",
        subject_id="log_policies",
        project="default",
        message=f"the installation has {len(policies)} log policies of its own",
        actor=actor,
    )
