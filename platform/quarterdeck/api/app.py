"""The api as an ASGI application: `create_app(settings)`."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from anyio import to_thread
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

import quarterdeck
from quarterdeck.api.log_reader import LogReader
from quarterdeck.api.middleware import AnswerDeadline, BodyLimit, CatchFailures, RequestIdentity
from quarterdeck.api.monitoring import PREFIX, CountRequests, Monitoring
from quarterdeck.api.news import News
from quarterdeck.api.problems import install_handlers
from quarterdeck.api.routers import (
    access,
    agents,
    apply,
    artifacts,
    assets,
    doctor,
    fleet,
    goodput,
    jobs,
    log_policies,
    pages,
    plan,
    records,
    rollouts,
    services,
    tunnels,
    warming,
)
from quarterdeck.api.schema import install_schema
from quarterdeck.api.settings import ApiSettings
from quarterdeck.api.state import ApiState
from quarterdeck.api.tunnels import Tunnels
from quarterdeck.api.vault import Vault
from quarterdeck.artifacts import ArtifactStore
from quarterdeck.store.access_queries import ensure_project, forget_answers
from quarterdeck.store.failures import UNAVAILABLE, Duplicate

FORGET_EVERY_S = 3600.0
_log = logging.getLogger(__name__)


def create_app(settings: ApiSettings) -> FastAPI:
    """The application of one api process. Migrate the database before.

    Raises ValueError when the master key is no Fernet key.
    """
    artifacts = ArtifactStore(settings.artifacts_uri, settings.artifacts_options)
    parts = ApiState(
        settings=settings,
        vault=Vault(settings.master_key),
        news=News(settings.database, settings.poll_seconds, settings.max_streams),
        monitoring=Monitoring(),
        tunnels=Tunnels(),
        artifacts=artifacts,
        logs=LogReader(settings.database, artifacts),
    )
    app = FastAPI(
        title="Quarterdeck",
        version=quarterdeck.__version__,
        description="Pretrain, fine-tune and serve language models on shared accelerators.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        lifespan=_lifespan,
    )
    app.state.parts = parts
    install_handlers(app)
    for router in _versioned():
        app.include_router(router, prefix=PREFIX)
    app.include_router(pages.router)
    install_schema(app)
    # The last one added is the outermost.
    app.add_middleware(
        BodyLimit,
        limit=settings.body_limit,
        machine_limit=settings.machine_body_limit,
        upload_limit=settings.upload_limit,
        seconds=settings.body_seconds,
    )
    app.add_middleware(
        AnswerDeadline,
        seconds=settings.answer_seconds,
        upload_seconds=settings.upload_seconds,
    )
    app.add_middleware(CatchFailures)
    app.add_middleware(CountRequests, monitoring=parts.monitoring)
    app.add_middleware(RequestIdentity, new_id=lambda: _request_id(settings))
    return app


def _versioned() -> list[APIRouter]:
    return [
        apply.router,
        jobs.router,
        services.router,
        rollouts.router,
        records.router,
        *assets.routers,
        warming.models,
        artifacts.router,
        fleet.router,
        log_policies.router,
        goodput.router,
        doctor.router,
        access.router,
        plan.router,
        agents.router,
        warming.agents,
        tunnels.router,
    ]


def _operation_id(route: APIRoute) -> str:
    return route.name


def _request_id(settings: ApiSettings) -> str:
    return base64.b32encode(settings.random_bytes(10)).decode().lower()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts = app.state.parts
    assert isinstance(parts, ApiState)
    await to_thread.run_sync(_make_default_project, parts)
    forgetting = asyncio.create_task(_forget(parts), name="forget old answers")
    try:
        yield
    finally:
        forgetting.cancel()
        with suppress(asyncio.CancelledError):
            await forgetting
        await parts.news.close()


def _make_default_project(parts: ApiState) -> None:
    # Another api process may make it at the same moment.
    with suppress(Duplicate), parts.database.write() as session:
        ensure_project(session, "default")


async def _forget(parts: ApiState) -> None:
    def forget() -> None:
        with parts.database.write() as session:
            forget_answers(session, parts.settings.idempotency_days)

    while True:
        await asyncio.sleep(FORGET_EVERY_S)
        try:
            await to_thread.run_sync(forget)
        except UNAVAILABLE as error:
            _log.warning("old answers are kept: %s", type(error).__name__)
