"""What choosing a replica well is worth: cached prefixes, and one slow replica.

    python -m benchmarks.routing [--quick] [--pairs 5]

Four simulated engines (`simulated_engine.py`: time as a real one's, no model) behind real gateway
processes over HTTP. Conversations that share system prompts go through one gateway, then through
two at random, under `prefix` and `round_robin` in turn: the share of prompt characters found in
the engines' caches, and the time to the first token. The four caches together hold all
conversations about once. Then one engine is five times slower, requests come at a fixed rate, and
each policy shows what share it sends there.

Every measurement is a service of its own name with fresh replica ids, so that the gateways
remember nothing of the one before.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from benchmarks.harness import QUARTERDECK, arguments, free_port, median_interval, report
from benchmarks.simulated_engine import TOKEN_TEXT
from quarterdeck.specs.gateway_snapshot import (
    EngineEndpoint,
    GatewaySnapshot,
    KeyDigest,
    ServiceRoute,
)
from quarterdeck.specs.routing import RoutingSettings

REPLICAS = 4
SLOWNESS = 5.0
POLICIES = (
    "round_robin", "least_requests", "power_of_two", "latency", "session", "prefix", "queue",
)  # fmt: skip
KEY = "qd_benchmark"
TOKENS = 8

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Load:
    """How much is measured at a time."""

    conversations: int = 48
    turns: int = 6
    clients: int = 16
    rate: float = 30.0
    seconds: float = 10.0


QUICK = Load(conversations=24, turns=4, seconds=3.0)


@dataclass
class Result:
    """Seconds to the first token of each request, and what each engine counted."""

    ttft: list[float] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        return sum(c["cached"] for c in self.counts) / sum(c["characters"] for c in self.counts)

    @property
    def shares(self) -> list[float]:
        total = sum(c["requests"] for c in self.counts)
        return [c["requests"] / total for c in self.counts]


class Api:
    """The api's snapshot, over HTTP as gateways ask for it."""

    def __init__(self) -> None:
        self._routes: list[ServiceRoute] = []
        self._version = 0
        self._news = asyncio.Condition()

    async def publish(self, route: ServiceRoute) -> None:
        """Let this be the only service."""
        async with self._news:
            self._routes, self._version = [route], self._version + 1
            self._news.notify_all()

    async def answer(self, request: web.Request) -> web.Response:
        """GET /api/v1/gateway/snapshot."""
        after = request.query.get("after")
        async with self._news:
            try:
                async with asyncio.timeout(float(request.query["wait"])):
                    await self._news.wait_for(lambda: str(self._version) != after)
            except TimeoutError:
                return web.Response(status=204)
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        key = KeyDigest(sha256=digest, name="benchmark", project="default", access="viewer")
        found = GatewaySnapshot(version=str(self._version), services=self._routes, keys=[key])
        return web.json_response(text=found.model_dump_json())


@dataclass
class Bench:
    """What runs: the addresses of engines and gateways, and the snapshot that they follow."""

    session: aiohttp.ClientSession
    api: Api
    engines: list[str]
    gateways: list[str]
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def serve(self, policy: str, slow: Sequence[float]) -> str:
        """A new service over empty engines; its name, when all gateways know it."""
        await self.reset(slow)
        name = f"service-{next(self.numbers)}"
        endpoints = [
            EngineEndpoint(run_id=f"{name}-{place}", url=url, ready=True)
            for place, url in enumerate(self.engines)
        ]
        await self.api.publish(ServiceRoute(
            name=name, project="default", model_version=None, endpoints=endpoints,
            routing=RoutingSettings(policy=policy, slow_start=0.0),
        ))  # fmt: skip
        for gateway in self.gateways:
            await self._until_known(gateway, name)
        return name

    async def reset(self, slow: Sequence[float]) -> list[dict[str, int]]:
        """Empty the engines; what they had counted."""
        counts: list[dict[str, int]] = []
        for url, factor in zip(self.engines, slow, strict=True):
            async with self.session.post(f"{url}/simulation", json={"slow": factor}) as answer:
                counts.append(await answer.json())
        return counts

    async def ask(self, gateway: str, name: str, messages: Messages, user: str) -> float:
        """Seconds to the first token of one request, which is read to its end."""
        body = {
            "model": name, "messages": messages, "max_tokens": TOKENS, "stream": True, "user": user,
        }  # fmt: skip
        began, first = time.perf_counter(), 0.0
        async with self.session.post(f"{gateway}/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                raise SystemExit(f"{answer.status}: {await answer.text()}")
            async for _ in answer.content.iter_any():
                first = first or time.perf_counter() - began
        return first

    async def _until_known(self, gateway: str, name: str) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                async with self.session.get(f"{gateway}/v1/models") as answer:
                    if answer.status == 200 and name in await answer.text():
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)
        raise SystemExit(f"the gateway at {gateway} did not hear of {name}")


async def converse(bench: Bench, load: Load, policy: str, gateways: int, seed: int) -> Result:
    """Conversations of several turns, each turn through one of so many gateways."""
    chance = random.Random(seed)
    name = await bench.serve(policy, [1.0] * REPLICAS)
    systems = [f"Rules of house {n}. " + _words(chance, 2000) for n in range(4)]
    texts = [
        [_message("system", systems[n % 4]), _message("user", _words(chance, 600))]
        for n in range(load.conversations)
    ]
    ready = [(n, load.turns) for n in range(load.conversations)]
    result = Result()

    async def client() -> None:
        while ready:
            number, left = ready.pop(chance.randrange(len(ready)))
            gateway = bench.gateways[chance.randrange(gateways)]
            result.ttft.append(await bench.ask(gateway, name, texts[number], f"user-{number}"))
            texts[number].append(_message("assistant", TOKEN_TEXT * TOKENS))
            texts[number].append(_message("user", _words(chance, 600)))
            if left > 1:
                ready.append((number, left - 1))

    await asyncio.gather(*(client() for _ in range(load.clients)))
    result.counts = await bench.reset([1.0] * REPLICAS)
    return result


async def with_a_slow_one(bench: Bench, load: Load, policy: str, seed: int) -> Result:
    """Unrelated requests at a fixed rate through one gateway; the first engine is slow."""
    chance = random.Random(seed)
    slow = [SLOWNESS] + [1.0] * (REPLICAS - 1)
    name = await bench.serve(policy, slow)
    result = Result()

    async def one(number: int) -> None:
        messages = [_message("user", f"{chance.random()} {_words(chance, 400)}")]
        user = f"user-{number}"
        result.ttft.append(await bench.ask(bench.gateways[0], name, messages, user))

    async with asyncio.TaskGroup() as group:
        ends = time.monotonic() + load.seconds
        for number in itertools.count():
            if time.monotonic() >= ends:
                break
            group.create_task(one(number))
            await asyncio.sleep(chance.expovariate(load.rate))
    result.counts = await bench.reset([1.0] * REPLICAS)
    return result


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _words(chance: random.Random, length: int) -> str:
    return "".join(chance.choices("abcdefghij    ", k=length))


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Bench]:
    """Engines, the snapshot and two gateways; all gone at the end."""
    api = Api()
    app = web.Application()
    app.router.add_get("/api/v1/gateway/snapshot", api.answer)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    ports = [free_port() for _ in range(REPLICAS + 3)]
    await web.TCPSite(runner, "127.0.0.1", ports[0]).start()
    key = folder / "key"
    key.write_text(KEY)
    processes = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.simulated_engine", "--port", str(port)])
        for port in ports[3:]
    ]
    for port in ports[1:3]:
        home = folder / str(port)
        home.mkdir()
        command = [
            *QUARTERDECK, "gateway", "--port", str(port), "--key-file", str(key),
            "--url", f"http://127.0.0.1:{ports[0]}",
        ]  # fmt: skip
        processes.append(subprocess.Popen(
            command, env={**os.environ, "QUARTERDECK_HOME": str(home)}, stdout=subprocess.DEVNULL
        ))  # fmt: skip
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    headers = {"authorization": f"Bearer {KEY}"}
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            await _until_up(session, urls[3:])
            yield Bench(session, api, urls[3:], urls[1:3])
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        await runner.cleanup()


async def _until_up(session: aiohttp.ClientSession, urls: Sequence[str]) -> None:
    deadline = time.monotonic() + 30
    for url in urls:
        while True:
            try:
                async with session.get(f"{url}/metrics"):
                    break
            except aiohttp.ClientConnectionError:
                if time.monotonic() > deadline:
                    raise SystemExit(f"the engine at {url} did not come up") from None
                await asyncio.sleep(0.05)


async def measure(load: Load, pairs: int) -> dict[str, float]:
    """All figures; ratios are `prefix` to `round_robin` within each pair."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="qd-routing-") as folder:
        async with running(Path(folder)) as bench:
            for gateways in (1, 2):
                figures |= await _compare(bench, load, gateways, pairs)
            shares: dict[str, list[Result]] = {policy: [] for policy in POLICIES}
            for pair in range(pairs):
                for policy in POLICIES if pair % 2 == 0 else reversed(POLICIES):
                    shares[policy].append(await with_a_slow_one(bench, load, policy, pair))
            for policy, results in shares.items():
                share = statistics.median(result.shares[0] for result in results)
                late = statistics.median(_quantile(result.ttft, 0.95) for result in results)
                figures[f"slow_share_{policy}"] = share
                figures[f"slow_ttft_p95_ms_{policy}"] = 1000 * late
                print(f"slow replica, {policy}: {share:.1%} of requests, p95 {late * 1000:.0f} ms")
    return figures


async def _compare(bench: Bench, load: Load, gateways: int, pairs: int) -> dict[str, float]:
    found: dict[str, list[Result]] = {"prefix": [], "round_robin": []}
    for pair in range(pairs):
        for policy in list(found) if pair % 2 == 0 else reversed(list(found)):
            result = await converse(bench, load, policy, gateways, pair)
            found[policy].append(result)
            middle, late = statistics.median(result.ttft), _quantile(result.ttft, 0.95)
            print(
                f"{gateways} gateway(s), {policy}: {result.hit_rate:.1%} cached, time to the first "
                f"token {middle * 1000:.0f} ms, p95 {late * 1000:.0f} ms, shares "
                + " ".join(f"{share:.0%}" for share in result.shares)
            )
    ratios = [
        statistics.median(mine.ttft) / statistics.median(other.ttft)
        for mine, other in zip(found["prefix"], found["round_robin"], strict=True)
    ]
    ratio, low, high = median_interval(ratios)
    print(f"{gateways} gateway(s): ratio {ratio:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    figures = {f"ttft_prefix_vs_round_robin_{gateways}": ratio}
    for policy, results in found.items():
        middle = statistics.median(statistics.median(result.ttft) for result in results)
        rate = statistics.median(result.hit_rate for result in results)
        figures[f"hit_rate_{policy}_{gateways}"] = rate
        figures[f"ttft_p50_ms_{policy}_{gateways}"] = 1000 * middle
    return figures


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def main() -> None:
    """Measure and print the closing line."""
    given = arguments(__doc__)
    load, pairs = (QUICK, 1) if given.quick else (Load(), given.pairs)
    report("routing", asyncio.run(measure(load, pairs)))


if __name__ == "__main__":
    main()
