"""The engines' own numbers, read from their /metrics for services whose policy looks at them.

Names after the documentation of vLLM, SGLang and llama.cpp's server. What an engine does not tell
stays unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

_log = logging.getLogger(__name__)
PERIOD_S = 1.0
TIMEOUT_S = 2.0
_MOST_BYTES = 2**20
_AT_ONCE = 16

_WAITING = frozenset(
    {
        "quarterdeck_engine_waiting_sequences",
        "vllm:num_requests_waiting",
        "sglang:num_queue_reqs",
        "llamacpp:requests_deferred",
    }
)
_CACHE_USED = frozenset(
    {
        "quarterdeck_engine_kv_cache_usage_ratio",
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",  # vLLM before 0.10
        "sglang:token_usage",
        "llamacpp:kv_cache_usage_ratio",
    }
)
_ADAPTERS = "vllm:lora_requests_info"


@dataclass(frozen=True)
class EngineLoad:
    """Waiting requests, the free share of the KV cache (0 to 1), and LoRA adapters; None or empty
    where the engine does not tell."""

    waiting: int | None = None
    kv_free: float | None = None
    adapters: frozenset[str] = frozenset()
    adapters_waiting: frozenset[str] = frozenset()
    adapter_slots: int | None = None


def read_load(text: str) -> EngineLoad:
    """The numbers in a text exposition. Raises ValueError for one that is malformed."""
    waiting: int | None = None
    kv_free: float | None = None
    adapters: tuple[float, dict[str, str]] = (float("-inf"), {})
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in _WAITING:
                waiting = (waiting or 0) + max(0, int(sample.value))
            elif sample.name in _CACHE_USED:
                free = min(max(1.0 - sample.value, 0.0), 1.0)
                kv_free = free if kv_free is None else min(kv_free, free)
            elif sample.name == _ADAPTERS and sample.value >= adapters[0]:
                # One series for each set of adapters there was; its value is when: the last counts.
                adapters = (sample.value, dict(sample.labels))
    labels = adapters[1]
    slots = labels.get("max_lora", "")
    return EngineLoad(
        waiting=waiting,
        kv_free=kv_free,
        adapters=_names(labels.get("running_lora_adapters", "")),
        adapters_waiting=_names(labels.get("waiting_lora_adapters", "")),
        adapter_slots=int(slots) if slots.isdigit() else None,
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


class EngineLoads:
    """Reads the numbers of `replicas()`, pairs of run and address, and hands them to `told`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        replicas: Callable[[], Iterable[tuple[str, str]]],
        told: Callable[[str, EngineLoad], None],
    ) -> None:
        self._session = session
        self._replicas = replicas
        self._told = told
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Read once a period until cancelled."""
        while True:
            await asyncio.gather(*(self._read(run, url) for run, url in self._replicas()))
            await asyncio.sleep(PERIOD_S)

    async def _read(self, run_id: str, url: str) -> None:
        try:
            async with self._slots, asyncio.timeout(TIMEOUT_S):
                async with self._session.get(
                    url.rstrip("/") + "/metrics", allow_redirects=False
                ) as response:
                    if response.status != 200:
                        return
                    body = bytearray()
                    async for piece in response.content.iter_any():
                        body += piece
                        if len(body) > _MOST_BYTES:
                            return
            self._told(run_id, read_load(body.decode("utf-8", "replace")))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # Its last numbers run out by themselves; whether it lives is for others to say.
            _log.debug("no numbers from %s: %s", run_id, type(error).__name__)
