"""Projects, secrets (sealed before they come here) and remembered answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from quarterdeck.specs.tenancy import Isolation
from quarterdeck.store.columns import database_now
from quarterdeck.store.errors import NotFound
from quarterdeck.store.inserts import insert_ignoring
from quarterdeck.store.outbox import append_event
from quarterdeck.store.paging import fetch_page
from quarterdeck.store.tables import IdempotencyRow, ProjectRow, SecretRow


def project_exists(session: Session, name: str) -> bool:
    return session.get(ProjectRow, name) is not None


def project_names(session: Session) -> list[str]:
    """Every project's name, for suggestions."""
    return list(session.scalars(select(ProjectRow.name).order_by(ProjectRow.name).limit(1000)))


def list_projects(
    session: Session, only: str | None, *, cursor: str | None, limit: int
) -> tuple[list[ProjectRow], str | None]:
    """Projects by name: one, or all (None)."""
    query = select(ProjectRow)
    if only is not None:
        query = query.where(ProjectRow.name == only)
    keys = (ProjectRow.name,)
    return fetch_page(session, query, keys, descending=False, cursor=cursor, limit=limit)


def add_project(
    session: Session, name: str, *, actor: str, isolation: Isolation = "shared"
) -> ProjectRow:
    """Insert a project; a name that is taken fails at the flush (failures.Duplicate)."""
    row = ProjectRow(name=name, isolation=isolation)
    session.add(row)
    session.flush()
    append_event(
        session, type="project.created", subject=f"project/{name}", subject_id=name, project=name,
        message=f"project {name} created", actor=actor,
    )  # fmt: skip
    return row


def isolate_project(session: Session, name: str, isolation: Isolation, *, actor: str) -> ProjectRow:
    """Set where a project's runs may start from now on. Raises NotFound."""
    row = session.get(ProjectRow, name, with_for_update=True)
    if row is None:
        raise NotFound("project", name)
    if row.isolation != isolation:
        row.isolation = isolation
        what = "is isolated in clusters of its own" if isolation == "cluster" else "shares clusters"
        append_event(
            session, type="project.isolation", subject=f"project/{name}", subject_id=name,
            project=name, message=f"project {name} {what}", actor=actor,
            data={"isolation": isolation},
        )  # fmt: skip
    return row


def list_secrets(
    session: Session, project: str | None, *, cursor: str | None, limit: int
) -> tuple[list[SecretRow], str | None]:
    """Secrets by project and name."""
    query = select(SecretRow)
    if project is not None:
        query = query.where(SecretRow.project == project)
    keys = (SecretRow.project, SecretRow.name)
    return fetch_page(session, query, keys, descending=False, cursor=cursor, limit=limit)


def find_secrets(session: Session, project: str, names: Sequence[str]) -> list[SecretRow]:
    """Those of `names` that the project has."""
    query = select(SecretRow).where(SecretRow.project == project, SecretRow.name.in_(names))
    return list(session.scalars(query))


def secret_names(session: Session, project: str) -> list[str]:
    """Names of the project's secrets, for suggestions."""
    query = select(SecretRow.name).where(SecretRow.project == project).limit(1000)
    return list(session.scalars(query))


def put_secret(
    session: Session, project: str, name: str, sealed: bytes, *, actor: str
) -> SecretRow:
    """Create or replace a value; its version rises."""
    row = session.get(SecretRow, (project, name), with_for_update=True)
    if row is None:
        row = SecretRow(project=project, name=name, value=sealed)
        session.add(row)
    else:
        row.value = sealed
        row.version += 1
        row.updated_at = database_now()
    session.flush()
    session.refresh(row)
    _tell(session, project, name, f"secret {name} set, version {row.version}", actor)
    return row


def delete_secret(session: Session, project: str, name: str, *, actor: str) -> None:
    """Forget a value. Raises NotFound."""
    row = session.get(SecretRow, (project, name), with_for_update=True)
    if row is None:
        raise NotFound("secret", name)
    session.delete(row)
    session.flush()
    _tell(session, project, name, f"secret {name} deleted", actor)


def _tell(session: Session, project: str, name: str, message: str, actor: str) -> None:
    append_event(
        session, type="secret.changed", subject=f"secret/{name}",
        subject_id=f"{project}/{name}", project=project, message=message, actor=actor,
    )  # fmt: skip


def reserve_answer(
    session: Session, actor: str, key: str, request_digest: str
) -> IdempotencyRow | None:
    """Take this caller's Idempotency-Key for the running transaction; or, where an earlier
    request has it, what is remembered of that. Who comes second waits for the first one's end."""
    taken = session.scalar(
        insert_ignoring(session, IdempotencyRow, ["actor", "key"])
        .values(actor=actor, key=key, request_digest=request_digest, status=0, response={})
        .returning(IdempotencyRow.key)
    )
    return None if taken is not None else session.get_one(IdempotencyRow, (actor, key))


def remember_answer(
    session: Session, actor: str, key: str, status: int, response: dict[str, Any]
) -> None:
    """Complete a reservation in its transaction."""
    session.execute(
        update(IdempotencyRow)
        .where(IdempotencyRow.actor == actor, IdempotencyRow.key == key)
        .values(status=status, response=response)
        .execution_options(synchronize_session=False)
    )


def forget_answers(session: Session, days: float, limit: int = 500) -> int:
    """Delete answers older than `days`; how many."""
    old = (
        select(IdempotencyRow.actor, IdempotencyRow.key)
        .where(IdempotencyRow.created_at < database_now(-86_400.0 * days))
        .limit(limit)
    )
    found = session.execute(old).all()
    for actor, key in found:
        session.execute(
            delete(IdempotencyRow).where(IdempotencyRow.actor == actor, IdempotencyRow.key == key)
        )
    return len(found)


def ensure_project(session: Session, name: str) -> None:
    """Make a project unless it exists."""
    if not project_exists(session, name):
        add_project(session, name, actor="")
