"""The echo engine behind Ray Serve: its proxy in front of one replica that answers the same.

`python -m benchmarks.ray_serve_echo PORT FILE` serves it and writes the proxy's process id to
FILE once it answers.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from benchmarks.echo_engine import ANSWER, DONE, EVENT, EVENT_SECONDS, EVENTS


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Echo:
    """Whole answers, and streams of events."""

    async def __call__(self, request: Request) -> Response:
        if b'"stream": true' in await request.body():
            return StreamingResponse(_events(), media_type="text/event-stream")
        return Response(ANSWER, media_type="application/json")


async def _events() -> AsyncIterator[bytes]:
    for _ in range(EVENTS - 1):
        yield EVENT
        await asyncio.sleep(EVENT_SECONDS)
    yield DONE


def proxy_process() -> psutil.Process:
    """The process of Serve's HTTP proxy on this machine, of the Ray that this process started."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True):
            if "ProxyActor" in " ".join(process.cmdline()):
                return process
        time.sleep(0.2)
    raise SystemExit("Ray Serve's proxy was not found")


def main(port: int, file: Path) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(Echo.bind())  # type: ignore[attr-defined]
        file.write_text(str(proxy_process().pid))
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
