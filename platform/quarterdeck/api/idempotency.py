"""Creations that may be repeated: the first answer is remembered in the creation's transaction.

A refused creation leaves nothing behind: its repetition is judged anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request
from pydantic import BaseModel

from quarterdeck.api.auth import Caller
from quarterdeck.api.problems import ProblemError
from quarterdeck.api.state import ApiState
from quarterdeck.store.access_queries import remember_answer, reserve_answer
from quarterdeck.store.sessions import Session

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class Creation:
    """What makes two requests the same: the header and the digest of all that was asked."""

    key: str | None
    request_digest: str


async def read_creation(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=r"^[!-~]+$",
            description="The same key with the same body is answered like the first time.",
        ),
    ] = None,
) -> Creation:
    """The request's idempotency key and digest."""
    hashed = hashlib.sha256()
    for part in (request.method, request.url.path, request.url.query):
        hashed.update(part.encode() + b"\n")
    hashed.update(await request.body())
    return Creation(idempotency_key, hashed.hexdigest())


Creating = Annotated[Creation, Depends(read_creation)]


def once(
    state: ApiState,
    caller: Caller,
    creation: Creation,
    kind: type[Answer],
    work: Callable[[Session], Answer],
) -> Answer:
    """Run `work` in a write transaction, or answer as the first time.

    Two requests with one key at the same moment: the second waits for the first one's commit.
    Raises ProblemError `idempotency_key_reused` when the key stood for another request.
    """
    with state.database.write() as session:
        if creation.key is None:
            return work(session)
        actor, key = caller.key.id, creation.key
        found = reserve_answer(session, actor, key, creation.request_digest)
        if found is not None:
            if found.request_digest != creation.request_digest:
                raise ProblemError(
                    "idempotency_key_reused",
                    f"Idempotency-Key {creation.key!r} stood for another request: use a new key",
                )
            sealed = str(found.response["sealed"]).encode()
            return kind.model_validate_json(state.vault.open(sealed))
        answer = work(session)
        # Sealed, because an answer may hold a new key.
        sealed = state.vault.seal(answer.model_dump_json())
        remember_answer(session, actor, key, 200, {"sealed": sealed.decode()})
        return answer
