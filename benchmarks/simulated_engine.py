"""An engine without a model: it takes as long as one with a prefix cache would, over real HTTP.

Prompts are computed one after the other, in time proportional to the characters that are not
cached; tokens then come at a fixed rate. The cache holds a bounded number of blocks of 64
characters, each valid only after the blocks before it, and drops what was used longest ago, as
vLLM's prefix cache does.

    python -m benchmarks.simulated_engine --port 9000
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import OrderedDict

from aiohttp import web

BLOCK = 64
TOKEN_TEXT = "and so it goes on and on, "


class BlockCache:
    """Which blocks of text are computed, at most `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def cached(self, text: str) -> int:
        """Characters of the beginning of `text` that need no computation."""
        count = 0
        for block in _chain(text):
            if block not in self._blocks:
                break
            count += 1
        return count * BLOCK

    def add(self, text: str) -> None:
        """All of `text` was computed. Its beginning counts as used last."""
        for block in reversed(_chain(text)):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)


def _chain(text: str) -> list[int]:
    blocks, before = [], 0
    for start in range(0, len(text) - BLOCK + 1, BLOCK):
        before = hash((before, text[start : start + BLOCK]))
        blocks.append(before)
    return blocks


class SimulatedEngine:
    """Times are seconds; `slow` multiplies them all."""

    def __init__(self, capacity: int, per_character: float, per_token: float) -> None:
        self._capacity = capacity
        self._per_character = per_character
        self._per_token = per_token
        self.reset(1.0)

    def reset(self, slow: float) -> None:
        """Empty cache and counters."""
        self._slow = slow
        self._cache = BlockCache(self._capacity)
        self._computing = asyncio.Lock()
        self._waiting = 0
        self._counts = {"requests": 0, "characters": 0, "cached": 0}

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions, always as a stream."""
        asked = await request.json()
        prompt = "".join(f"{one['role']}: {one['content']}\n" for one in asked["messages"])
        tokens = int(asked["max_tokens"])
        self._waiting += 1
        try:
            async with self._computing:
                cached = self._cache.cached(prompt)
                await asyncio.sleep((len(prompt) - cached) * self._per_character * self._slow)
                self._cache.add(prompt)
        finally:
            self._waiting -= 1
        self._counts["requests"] += 1
        self._counts["characters"] += len(prompt)
        self._counts["cached"] += cached
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(tokens):
            event = json.dumps({"choices": [{"index": 0, "delta": {"content": TOKEN_TEXT}}]})
            await answer.write(f"data: {event}\n\n".encode())
            await asyncio.sleep(self._per_token * self._slow)
        self._cache.add(f"{prompt}assistant: {TOKEN_TEXT * tokens}\n")
        await answer.write(b"data: [DONE]\n\n")
        return answer

    async def simulate(self, request: web.Request) -> web.Response:
        """POST /simulation: what was counted, then empty again and as slow as asked."""
        counts = self._counts
        self.reset(float((await request.json())["slow"]))
        return web.json_response(counts)

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics, by vLLM's names."""
        return web.Response(
            text=f"vllm:num_requests_waiting {self._waiting}\n"
            f"vllm:kv_cache_usage_perc {len(self._cache) / self._capacity}\n"
        )


def main() -> None:
    """Serve on the loopback until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--seconds-per-character", type=float, default=60e-6)
    parser.add_argument("--seconds-per-token", type=float, default=2e-3)
    given = parser.parse_args()

    async def app() -> web.Application:
        engine = SimulatedEngine(given.blocks, given.seconds_per_character, given.seconds_per_token)
        made = web.Application()
        made.router.add_post("/v1/chat/completions", engine.complete)
        made.router.add_post("/simulation", engine.simulate)
        made.router.add_get("/metrics", engine.metrics)
        return made

    web.run_app(app(), host="127.0.0.1", port=given.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
