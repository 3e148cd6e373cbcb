"""What a request costs at the gateway: beside HAProxy, nginx, Ray Serve, a bare uvicorn, and
the barest proxies in Python.

All proxies run on one thread in front of the same engine (Ray Serve's in front of a replica that
answers the same). Processor time is that of the proxy's
processes alone, from the operating system, for each request of a closed loop over 32 connections:
whole answers (echo) and streams of 200 events. Then the latency that is added at 300 requests a
second, and the memory with thousands of open streams.

    python -m benchmarks.gateway --quick
    python -m benchmarks.gateway
    python -m benchmarks.gateway --quick --only haproxy

The interpreter that runs this runs all sides in Python, and counts: one that was built without
optimizations makes them dearer (docs/decisions/0009).
Needs the Debian packages haproxy and nginx and the Python packages of ray[serve]; what is missing
is left out and said so.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.echo_engine import EVENTS
from benchmarks.harness import free_port, report

CONNECTIONS = 32
KEY = "qd_benchmark"
RATE = 300.0
SIDES = ("uvicorn", "bare_bytes", "bare_asgi", "haproxy", "nginx", "ray_serve")
WHOLE_ONLY = ("uvicorn", "bare_asgi")
"""Sides that do not stream."""
SERVE_NEEDS = ("grpc_reflection", "mmh3", "watchfiles")
"""What ray[serve] has beside Ray and what is installed anyway."""


@dataclass(frozen=True)
class Side:
    """A proxy that listens; `processes` are its own."""

    name: str
    port: int
    process: psutil.Process

    def cpu(self) -> float:
        """Processor seconds so far, of all its processes: from the scheduler, which counts
        nanoseconds where others count hundredths of a second."""
        everyone = [self.process, *self.process.children(recursive=True)]
        threads = [each for one in everyone for each in Path(f"/proc/{one.pid}/task").iterdir()]
        return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9

    def memory(self) -> float:
        """Bytes resident, of all its processes."""
        everyone = [self.process, *self.process.children(recursive=True)]
        return float(sum(each.memory_info().rss for each in everyone))


def request_of(port: int, **values: object) -> str:
    """A completion as an OpenAI client sends it."""
    body = json.dumps({"model": "echo", "prompt": "p" * 400, "max_tokens": 50, **values})
    return (
        f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        f"user-agent: benchmark\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    )


def load(port: int, **order: object) -> dict:
    """Run one load in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.http_load"], input=json.dumps({"port": port, **order}),
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def started(command: list[str], port: int, name: str, folder: Path) -> Iterator[Side]:
    log = (folder / f"{name}.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start:\n{(folder / f'{name}.log').read_text()}")
            time.sleep(0.1)
        yield Side(name, port, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@contextmanager
def ray_serve(port: int, folder: Path) -> Iterator[Side]:
    """Ray Serve with one replica; the side's process is its HTTP proxy alone."""
    file = folder / "ray-serve.pid"
    command = [sys.executable, "-m", "benchmarks.ray_serve_echo", str(port), str(file)]
    with started(command, port, "ray_serve", folder) as side:
        deadline = time.monotonic() + 60
        while not file.exists():
            if not side.process.is_running() or time.monotonic() > deadline:
                log = (folder / "ray_serve.log").read_text()
                raise SystemExit(f"Ray Serve did not start:\n{log}")
            time.sleep(0.1)
        yield Side("ray_serve", port, psutil.Process(int(file.read_text())))


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def haproxy(folder: Path, port: int, engine: int) -> list[str]:
    file = folder / "haproxy.cfg"
    file.write_text(
        f"""global
  nbthread 1
  maxconn 8000
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend in
  bind 127.0.0.1:{port}
  default_backend engines
backend engines
  balance leastconn
  server one 127.0.0.1:{engine}
"""
    )
    return ["haproxy", "-db", "-f", str(file)]


def nginx(folder: Path, port: int, engine: int) -> list[str]:
    file = folder / "nginx.conf"
    file.write_text(
        f"""daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 16000; }}
http {{
  access_log {folder}/nginx-access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream engines {{ server 127.0.0.1:{engine}; keepalive 64; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engines;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""
    )
    return ["nginx", "-c", str(file), "-p", str(folder)]


GATEWAY = """
import sys
from pathlib import Path
from quarterdeck.gateway.server import server_for
from quarterdeck.gateway.settings import GatewaySettings
folder, port, engine = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
server_for(GatewaySettings(
    api_url=f"http://127.0.0.1:{engine}", key_path=folder / "key", port=port,
    snapshot_path=folder / "kept.json", max_in_flight=20000, max_connections=20000,
)).run()
"""
UVICORN = """
import sys
import uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"300")]})
    await send({"type": "http.response.body", "body": b"x" * 300})
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning")
"""


def write_snapshot(folder: Path, engine: int) -> Path:
    endpoint = {"run_id": "run-1", "url": f"http://127.0.0.1:{engine}", "ready": True}
    route = {
        "name": "echo", "project": "default", "model_version": None, "endpoints": [endpoint],
        "concurrency": 100_000,
    }  # fmt: skip
    key = {
        "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "name": "k", "project": "default",
        "access": "viewer",
    }  # fmt: skip
    file = folder / "snapshot.json"
    file.write_text(json.dumps({"version": "1", "services": [route], "keys": [key]}))
    (folder / "key").write_text("qd_gateway")
    return file


def per_request(side: Side, requests: int, **values: object) -> float:
    """Microseconds of the proxy's processor time for each request."""
    order = {
        "kind": "closed",
        "connections": CONNECTIONS,
        "request": request_of(side.port, **values),
    }
    load(side.port, **order, requests=CONNECTIONS * 2)
    before = side.cpu()
    load(side.port, **order, requests=requests)
    return (side.cpu() - before) / requests * 1e6


def added_latency(direct: int, through: int, requests: int) -> tuple[float, float]:
    """Milliseconds that a proxy adds at the median and at the 99th percentile."""

    def percentiles(port: int) -> tuple[float, float]:
        order = {"kind": "paced", "rate": RATE, "requests": requests, "request": request_of(port)}
        cuts = statistics.quantiles(load(port, **order)["latencies"], n=100)
        return cuts[49] * 1e3, cuts[98] * 1e3

    (m0, p0), (m1, p1) = percentiles(direct), percentiles(through)
    return m1 - m0, p1 - p0


def streams_memory(side: Side, connections: int) -> float:
    """MiB resident with so many streams open, beyond what it had before."""
    before = side.memory()
    client = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.http_load"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert client.stdin is not None and client.stdout is not None
    request = request_of(side.port, stream=True, hold=True)
    order = {"kind": "held", "port": side.port, "connections": connections, "request": request}
    client.stdin.write(json.dumps(order) + "\n")
    client.stdin.flush()
    opened = client.stdout.readline()
    used = side.memory() - before
    client.stdin.close()
    client.wait(120)
    client.stdout.close()
    if not opened:
        raise SystemExit(f"{side.name} did not open {connections} streams")
    return used / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=200, help="of 200 events, for each round")
    parser.add_argument("--open", type=int, default=5000)
    parser.add_argument(
        "--only", nargs="+", choices=SIDES, default=SIDES, help="what is measured beside it"
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests, options.streams, options.open = 2, 3000, 64, 500
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="qd-gateway-") as text, ExitStack() as stack:
        return run(Path(text), stack, options)


def run(folder: Path, stack: ExitStack, options: argparse.Namespace) -> int:
    engine = free_port()
    snapshot = write_snapshot(folder, engine)
    os.environ["OMP_NUM_THREADS"] = "1"
    stack.enter_context(
        started(
            [sys.executable, "-m", "benchmarks.echo_engine", str(engine), str(snapshot)], engine,
            "engine", folder,
        )
    )  # fmt: skip
    python = [sys.executable, "-c"]
    bare = [sys.executable, "-m", "benchmarks.bare_proxy"]
    commands: dict[str, Callable[[int], list[str]]] = {
        "gateway": lambda port: [*python, GATEWAY, str(folder), str(port), str(engine)],
        "uvicorn": lambda port: [*python, UVICORN, str(folder), str(port)],
        "bare_bytes": lambda port: [*bare, "bytes", str(port), str(engine)],
        "bare_asgi": lambda port: [*bare, "asgi", str(port), str(engine)],
        "haproxy": lambda port: haproxy(folder, port, engine),
        "nginx": lambda port: nginx(folder, port, engine),
    }
    for missing in [name for name in ("haproxy", "nginx") if shutil.which(name) is None]:
        print(f"{missing} is not installed: left out", file=sys.stderr)
        del commands[missing]
    wanted = {"gateway", *options.only}
    sides: dict[str, Side] = {}
    for name, command in commands.items():
        if name not in wanted:
            continue
        port = free_port()
        sides[name] = stack.enter_context(started(command(port), port, name, folder))
    if "ray_serve" in wanted:
        if all(map(importlib.util.find_spec, SERVE_NEEDS)):
            sides["ray_serve"] = stack.enter_context(ray_serve(free_port(), folder))
        else:
            print("ray[serve] is not installed: left out", file=sys.stderr)
    time.sleep(2)  # the gateway reads its snapshot
    echo: dict[str, list[float]] = {name: [] for name in sides}
    stream: dict[str, list[float]] = {name: [] for name in sides if name not in WHOLE_ONLY}
    added: list[tuple[float, float]] = []
    for _ in range(options.rounds):
        for name, side in sides.items():
            echo[name].append(per_request(side, options.requests))
            if name in stream:
                stream[name].append(per_request(side, options.streams, stream=True))
        added.append(added_latency(engine, sides["gateway"].port, min(3000, options.requests)))
        print(_row(echo, stream, added), file=sys.stderr, flush=True)
    figures: dict[str, float] = {}
    for name in sides:
        figures[f"echo_us_{name}"] = statistics.median(echo[name])
        if name in stream:
            figures[f"stream_us_{name}"] = statistics.median(stream[name])
    for figure, spent, floor in (  # what any gateway costs at least: in Python, and as an ASGI app
        ("echo_cpu_floor_python", echo, "bare_bytes"),
        ("echo_cpu_floor_asgi", echo, "bare_asgi"),
        ("stream_cpu_floor_python", stream, "bare_bytes"),
    ):
        if {floor, "haproxy"} <= spent.keys():
            figures[figure] = _ratio(spent[floor], spent["haproxy"])
    for name in [name for name in sides if name != "gateway"]:
        figures[f"echo_cpu_vs_{name}"] = _ratio(echo["gateway"], echo[name])
        if name in stream:
            figures[f"stream_cpu_vs_{name}"] = _ratio(stream["gateway"], stream[name])
    figures["added_p50_ms"] = statistics.median(each[0] for each in added)
    figures["added_p99_ms"] = statistics.median(each[1] for each in added)
    figures["open_streams"] = options.open
    figures["mb_with_open_streams"] = streams_memory(sides["gateway"], options.open)
    report("gateway", figures)
    return 0


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds, each side measured next to the other."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def _row(echo: dict, stream: dict, added: list) -> str:
    parts = [f"{name} {values[-1]:.0f}" for name, values in echo.items()]
    flows = [f"{name} {values[-1] / EVENTS:.1f}" for name, values in stream.items()]
    return f"echo µs: {', '.join(parts)}; µs per event: {', '.join(flows)}; +{added[-1][0]:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
