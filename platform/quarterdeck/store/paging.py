"""Pages of lists: keyset cursors, the same on both databases."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, and_, or_
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.expression import ColumnElement

from quarterdeck.store.errors import StoreError

Row = TypeVar("Row")
_LARGEST = 2**63 - 1


class BadCursor(StoreError):
    """A cursor that this list never gave out."""

    def __init__(self) -> None:
        super().__init__("cursor: this is no cursor of this list: start again without one")


def fetch_page(
    session: Session,
    query: Select[Row],
    keys: Sequence[InstrumentedAttribute[Any]],
    *,
    descending: bool,
    cursor: str | None,
    limit: int,
) -> tuple[list[Row], str | None]:
    """At most `limit` rows in the order of `keys` (which are unique together and never null)
    after `cursor`, and the cursor of the next page; None on the last. Raises BadCursor."""
    if cursor is not None:
        query = query.where(_after(keys, _decode(cursor, keys), descending))
    order = [key.desc() if descending else key.asc() for key in keys]
    rows = list(session.scalars(query.order_by(*order).limit(limit + 1)))
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], _encode([getattr(rows[limit - 1], key.key) for key in keys])


def _after(
    keys: Sequence[InstrumentedAttribute[Any]], values: Sequence[Any], descending: bool
) -> ColumnElement[bool]:
    """Rows beyond `values`, key by key: row values are not portable for every type."""
    steps = []
    for place, (key, value) in enumerate(zip(keys, values, strict=True)):
        equal = [earlier == known for earlier, known in zip(keys[:place], values, strict=False)]
        steps.append(and_(*equal, key < value if descending else key > value))
    return or_(*steps)


def _encode(values: Sequence[Any]) -> str:
    plain = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).rstrip(b"=").decode()


def _decode(cursor: str, keys: Sequence[InstrumentedAttribute[Any]]) -> list[Any]:
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(values, list):
            raise BadCursor
        return [_typed(value, key) for value, key in zip(values, keys, strict=True)]
    except (ValueError, RecursionError) as error:
        raise BadCursor from error


def _typed(value: Any, key: InstrumentedAttribute[Any]) -> Any:
    wanted = key.type.python_type
    if wanted is datetime and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            return moment
    elif type(value) is wanted and _storable(value):
        return value
    raise BadCursor


def _storable(value: object) -> bool:
    if isinstance(value, int):
        return abs(value) <= _LARGEST
    return "\x00" not in str(value)
