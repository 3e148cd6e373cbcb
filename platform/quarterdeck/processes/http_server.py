"""Running a uvicorn server as a process's whole work."""

from __future__ import annotations

from contextlib import suppress

import uvicorn

FAILED_TO_START = 3


def serve(server: uvicorn.Server) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises SystemExit where the application did not start, whose reason is in the log: a process
    that served nobody must not look like one that ended well.
    """
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(FAILED_TO_START)
