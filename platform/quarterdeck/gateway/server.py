"""The gateway under uvicorn, with every bound of its settings."""

from __future__ import annotations

import gc

import uvicorn

from quarterdeck.gateway.app import create_app
from quarterdeck.gateway.deadlines import protocol_for
from quarterdeck.gateway.settings import GatewaySettings

_COLLECT_AFTER = 50_000
"""Objects made and not freed: a request makes hundreds, and nearly all go by their counts."""


def server_for(settings: GatewaySettings) -> uvicorn.Server:
    """A server to run: `.run()` blocks and ends on SIGINT or SIGTERM, after the requests under
    way or `shutdown_timeout` seconds. The process collects cyclic garbage more seldom from here
    on, which was a tenth of what a request cost."""
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 100)
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            http=protocol_for(settings),
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(settings.keep_alive_timeout),
            timeout_graceful_shutdown=settings.shutdown_timeout,
        )
    )
