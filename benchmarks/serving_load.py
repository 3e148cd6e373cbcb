"""Clients of a service over several gateways, as a careful SDK behaves: one retry, elsewhere."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

FIRST_BYTE_SECONDS = 60.0  # what a client waits for the next byte
_REFUSALS = (429, 503)


@dataclass
class Load:
    """`clients` ask all the time until `stop`; half of the requests stream."""

    urls: list[str]
    key: str
    model: str
    clients: int
    seed: int
    pause: float = 0.2
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Requests that failed or were refused at last, in words of both tries; the first hundred."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Codes of what was refused at last."""

    def start(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; what is under way ends."""
        self._over.set()
        self._thread.join(300)

    async def _work(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=FIRST_BYTE_SECONDS)
        async with aiohttp.ClientSession(
            timeout=timeout, headers={"authorization": f"Bearer {self.key}"}
        ) as session:
            await asyncio.gather(*(self._client(session, n) for n in range(self.clients)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        draw = random.Random(self.seed * 1000 + number)
        while not self._over.is_set():
            stream = draw.random() < 0.5
            urls = self.urls if draw.random() < 0.5 else list(reversed(self.urls))
            self.counts["requests"] += 1
            outcome, tries = "", []
            for attempt, url in enumerate((urls * 2)[:2]):
                outcome, words = await self._ask(session, url, stream)
                tries.append(f"{time.strftime('%H:%M:%S')} {words[:200]}")
                if outcome in ("answered", "broken", "silent"):
                    break
                if attempt == 0:
                    self.counts["retried"] += 1
            self.counts[outcome] += 1
            if outcome == "refused":
                self.reasons[_code(words)] += 1
            if outcome in ("refused", "failed", "silent") and len(self.wrong) < 100:
                self.wrong.append(f"{outcome}: {' | '.join(tries)}")
            await asyncio.sleep(self.pause * draw.uniform(0.5, 1.5))

    async def _ask(self, session: aiohttp.ClientSession, url: str, stream: bool) -> tuple[str, str]:
        """The outcome and its words. answered; broken (a stream that ended with an error event or
        with its connection); silent (one that just ended); refused; failed."""
        body = {"model": self.model, "prompt": "hello", "max_tokens": 20, "stream": stream}
        begun = False
        try:
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                if answer.status in _REFUSALS:
                    return "refused", await answer.text()
                if answer.status != 200:
                    return "failed", f"{answer.status} {await answer.text()}"
                last = b""
                async for piece in answer.content.iter_any():
                    begun = True
                    last = (last + piece)[-4096:]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            words = f"{type(error).__name__}: {error}"
            return ("broken" if begun and stream else "failed"), words
        if not stream or b"data: [DONE]" in last:
            return "answered", ""
        words = last.decode(errors="replace")[-200:]
        return ("broken" if b'data: {"error"' in last else "silent"), words


def _code(answer: str) -> str:
    try:
        return str(json.loads(answer)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "no error object"
