"""The installation's own settings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from quarterdeck.specs.log_policies import LogPolicy
from quarterdeck.store.columns import database_now
from quarterdeck.store.outbox import append_event
from quarterdeck.store.tables import SettingRow

EPOCHS_A_GENERATION = 10_000
"""Epochs of a generation start at its multiple of this: a restored backup has forgotten the newest
epochs, and their checkpoints lie under their numbers."""


def generation(session: Session) -> int:
    """How often this database was restored from a backup; agents compare it."""
    row = session.get(SettingRow, "generation")
    return int(row.value["value"]) if row else 0


def restored_at(session: Session) -> datetime | None:
    """When it last was restored, by the database's clock; None: never."""
    row = session.get(SettingRow, "generation")
    text = row.value.get("at") if row else None
    return datetime.fromisoformat(text) if text else None


def raise_generation(session: Session, at_least: int = 0) -> int:
    """Count a restore; the new generation, which is more than `at_least` too."""
    value = max(generation(session), at_least) + 1
    now: datetime = session.execute(select(database_now())).scalar_one()
    session.merge(SettingRow(name="generation", value={"value": value, "at": now.isoformat()}))
    session.flush()
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


def next_epoch(newest: int, generation: int) -> int:
    """The epoch after `newest`, in the generation's range."""
    return max(newest + 1, generation * EPOCHS_A_GENERATION + 1)
