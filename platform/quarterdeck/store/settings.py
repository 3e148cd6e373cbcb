"""The installation's own settings."""

from __future__ import annotations

from sqlalchemy.orm import Session

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
