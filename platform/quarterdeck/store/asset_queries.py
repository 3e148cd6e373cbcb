"""Versions of models, datasets and tokenizers, their aliases and their lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import NotFound
from quarterdeck.store.outbox import append_event
from quarterdeck.store.paging import fetch_page
from quarterdeck.store.tables import AssetAliasRow, AssetInputRow, AssetVersionRow

_DIGITS_OF_INT32 = 9


@dataclass(frozen=True)
class Lineage:
    """What stands beside a version's row."""

    aliases: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


def list_versions(
    session: Session,
    kind: str,
    *,
    project: str | None,
    name: str | None,
    cursor: str | None,
    limit: int,
) -> tuple[list[AssetVersionRow], str | None]:
    """Versions of one kind, newest first."""
    query = select(AssetVersionRow).where(AssetVersionRow.kind == kind)
    if project is not None:
        query = query.where(AssetVersionRow.project == project)
    if name is not None:
        query = query.where(AssetVersionRow.name == name)
    keys = (AssetVersionRow.created_at, AssetVersionRow.id)
    return fetch_page(session, query, keys, descending=True, cursor=cursor, limit=limit)


def find_version(
    session: Session, kind: str, name: str, project: str, version: str | None = None
) -> AssetVersionRow | None:
    """One version by number or alias; None means the newest."""
    query = select(AssetVersionRow).where(
        AssetVersionRow.project == project,
        AssetVersionRow.kind == kind,
        AssetVersionRow.name == name,
    )
    if version is None:
        query = query.order_by(AssetVersionRow.version.desc()).limit(1)
    elif version.isascii() and version.isdigit():
        number = int(version) if len(version) <= _DIGITS_OF_INT32 else -1
        query = query.where(AssetVersionRow.version == number)
    else:
        alias = session.get(AssetAliasRow, (project, kind, name, version))
        if alias is None:
            return None
        query = query.where(AssetVersionRow.version == alias.version)
    return session.scalars(query).one_or_none()


def get_version(
    session: Session, kind: str, name: str, project: str, version: str | None = None
) -> AssetVersionRow:
    """As `find_version`; raises NotFound."""
    found = find_version(session, kind, name, project, version)
    if found is None:
        raise NotFound(kind, f"{name}@{version}" if version else name)
    return found


def asset_names(session: Session, kind: str, project: str, limit: int = 1000) -> list[str]:
    """Names that have a version, for suggestions."""
    query = (
        select(AssetVersionRow.name)
        .where(AssetVersionRow.kind == kind, AssetVersionRow.project == project)
        .distinct()
        .limit(limit)
    )
    return list(session.scalars(query))


def lineage_of(session: Session, rows: Sequence[AssetVersionRow]) -> Mapping[str, Lineage]:
    """Aliases and inputs by the version's id."""
    aliases: dict[tuple[str, str, str, int], list[str]] = {}
    names = sorted({row.name for row in rows})
    for alias in session.scalars(
        select(AssetAliasRow).where(AssetAliasRow.name.in_(names)).order_by(AssetAliasRow.alias)
    ):
        place = (alias.project, alias.kind, alias.name, alias.version)
        aliases.setdefault(place, []).append(alias.alias)
    inputs: dict[str, list[str]] = {}
    for read in session.scalars(
        select(AssetInputRow)
        .where(AssetInputRow.asset_id.in_([row.id for row in rows]))
        .order_by(AssetInputRow.kind, AssetInputRow.name, AssetInputRow.version)
    ):
        inputs.setdefault(read.asset_id, []).append(f"{read.kind}/{read.name}@{read.version}")
    return {
        row.id: Lineage(
            tuple(aliases.get((row.project, row.kind, row.name, row.version), ())),
            tuple(inputs.get(row.id, ())),
        )
        for row in rows
    }


def set_alias(session: Session, row: AssetVersionRow, alias: str, *, actor: str) -> None:
    """Let `alias` mean this version from now on."""
    place = (row.project, row.kind, row.name, alias)
    found = session.get(AssetAliasRow, place, with_for_update=True)
    if found is None:
        session.add(
            AssetAliasRow(
                project=row.project,
                kind=row.kind,
                name=row.name,
                alias=alias,
                version=row.version,
            )
        )
    elif found.version == row.version:
        return
    else:
        found.version = row.version
        found.updated_at = database_now()
    session.flush()
    append_event(
        session,
        type=f"{row.kind}.alias",
        subject=f"{row.kind}/{row.name}",
        subject_id=row.id,
        project=row.project,
        message=f"{row.name}@{alias} is version {row.version}",
        actor=actor,
        data={"alias": alias, "version": row.version},
    )
