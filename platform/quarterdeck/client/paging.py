"""Lists that come in pages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel

from quarterdeck.client.transport import Transport
from quarterdeck.specs.resources import Page

Item = TypeVar("Item", bound=BaseModel)

PAGE_SIZE = 100


def iterate(
    transport: Transport, kind: type[Item], path: str, /, cursor: str | None = None, **params: Any
) -> Iterator[Item]:
    """Every item of a list after `cursor`, fetching page after page as they are needed."""
    while True:
        page: Page[Any] = transport.get(
            Page[kind],  # type: ignore[valid-type]
            path,
            params={"limit": PAGE_SIZE, **params, "cursor": cursor},
        )
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def collect(
    transport: Transport, kind: type[Item], path: str, limit: int | None, /, **params: Any
) -> list[Item]:
    """At most `limit` items (None: all)."""
    size = PAGE_SIZE if limit is None else max(1, min(PAGE_SIZE, limit))
    return list(islice(iterate(transport, kind, path, **{"limit": size, **params}), limit))
