"""Uploads: bytes named by their SHA-256, of one project, received straight into the store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Path, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from quarterdeck.api.auth import Operator, ProjectQuery, Viewer
from quarterdeck.api.problems import ProblemError, documented
from quarterdeck.api.state import ApiState, State
from quarterdeck.api.uploads import hold_upload, size_of
from quarterdeck.artifacts import DiskFull, path_of_upload
from quarterdeck.specs.resources import Artifact
from quarterdeck.specs.workdir import DIGEST
from quarterdeck.store.uploads import CLAIM_S, UploadKey, touch

router = APIRouter(prefix="/artifacts", tags=["artifacts"])
Digest = Annotated[str, Path(pattern=DIGEST, description="SHA-256 of the content, hexadecimal.")]
PART = 2**20
WAIT_S, WAIT_BEYOND_S = 0.25, 10.0
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.put(
    "/{digest}",
    response_model=Artifact,
    responses=documented(
        "key_unknown", "access_denied", "digest_mismatch", "invalid_request", "storage_full",
        "too_many_streams", "artifacts_unavailable",
    ),
    openapi_extra={"requestBody": {"required": True, "content": _BINARY}},
)  # fmt: skip
async def put_artifact(
    digest: Digest, request: Request, state: State, caller: Operator, project: ProjectQuery = None
) -> Any:
    """Upload bytes; they exist once the whole body has arrived and has this digest. What is there
    already stays."""
    home = caller.named_in(project)
    size = await to_thread.run_sync(hold_upload, state.database, state.artifacts, home, digest)
    if size is None:
        state.news.check_room()
        with state.news.place():
            await _hold(state, UploadKey(home, digest))
            size = await _receive(state, path_of_upload(home, digest), digest, request)
            await _hold(state, UploadKey(home, digest))
    return Artifact(digest=digest, size=size)


async def _hold(state: ApiState, key: UploadKey) -> None:
    """Keep retention away; wait while it deletes an earlier upload of the same content."""

    def held() -> bool:
        with state.database.write() as session:
            return touch(session, key)

    for _ in range(int((CLAIM_S + WAIT_BEYOND_S) / WAIT_S)):
        if await to_thread.run_sync(held):
            return
        await asyncio.sleep(WAIT_S)
    raise ProblemError("artifacts_unavailable", f"upload {key.digest} is being deleted: send later")


async def _receive(state: ApiState, path: str, digest: str, request: Request) -> int:
    hashed, size = hashlib.sha256(), 0
    declared = request.headers.get("content-length", "")
    writing = state.artifacts.writing(path, int(declared) if declared.isdigit() else 0)
    try:
        write = await to_thread.run_sync(writing.__enter__)
        try:
            async for part in _parts(request):
                hashed.update(part)
                size += len(part)
                await to_thread.run_sync(write, part)
            if (found := hashed.hexdigest()) != digest:
                raise ProblemError(
                    "digest_mismatch", f"the {size} bytes that arrived have the digest {found}, "
                    f"not {digest}: send the content again"
                )  # fmt: skip
        except BaseException as error:
            # Nothing of it stays; `__exit__` raises the same again.
            writing.__exit__(type(error), error, error.__traceback__)
            raise
        await to_thread.run_sync(writing.__exit__, None, None, None)
    except ClientDisconnect as error:
        raise ProblemError("invalid_request", "the body ended early: send it again") from error
    except DiskFull as error:
        raise ProblemError("storage_full", str(error)) from error
    return size


async def _parts(request: Request) -> AsyncIterator[bytes]:
    """The body in parts of about a megabyte, whatever its packets were."""
    held = bytearray()
    async for packet in request.stream():
        held += packet
        if len(held) >= PART:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


@router.get(
    "/{digest}",
    response_model=Artifact,
    responses=documented("key_unknown", "access_denied", "not_found"),
)
def get_artifact(
    digest: Digest, state: State, caller: Viewer, project: ProjectQuery = None
) -> Any:  # fmt: skip
    """Whether an upload is there, and its size in bytes. One that is stays for a day at least, so
    that a job can name it."""
    home = caller.named_in(project)
    size = hold_upload(state.database, state.artifacts, home, digest)
    if size is None:
        raise _missing(home, digest)
    return Artifact(digest=digest, size=size)


@router.get(
    "/{digest}/content",
    response_class=StreamingResponse,
    responses={
        200: {"content": _BINARY, "description": "The bytes."},
        **documented("key_unknown", "access_denied", "not_found"),
    },
)
def get_artifact_content(
    digest: Digest, state: State, caller: Viewer, project: ProjectQuery = None
) -> Any:
    """An upload's bytes."""
    home = caller.named_in(project)
    path = path_of_upload(home, digest)
    size = size_of(state.artifacts, path)
    if size is None:
        raise _missing(home, digest)
    stream = state.artifacts.open(path)

    def parts() -> Iterator[bytes]:
        with stream:
            while part := stream.read(PART):
                yield part

    return StreamingResponse(
        parts(), media_type="application/octet-stream", headers={"Content-Length": str(size)}
    )


def _missing(project: str, digest: str) -> ProblemError:
    return ProblemError("not_found", f"project {project} has no upload {digest}: upload it")
