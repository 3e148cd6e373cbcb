"""What engines call their numbers in Prometheus text, and ours from it. Pure.

Sources: the metrics documentation of vLLM, SGLang and llama.cpp's server.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class EngineLoad:
    """A moment of an engine; None where it does not tell. Counters count since its start."""

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    """Share of the key-value cache, 0 to 1."""
    generated_tokens: float | None = None
    prompt_tokens: float | None = None

    @property
    def progress(self) -> float | None:
        """Grows while the engine works: long prompts too are work without a token."""
        known = [n for n in (self.generated_tokens, self.prompt_tokens) if n is not None]
        return sum(known) if known else None

    @property
    def in_flight(self) -> int | None:
        """Sequences that it has taken and not ended."""
        known = [n for n in (self.running, self.waiting) if n is not None]
        return round(sum(known)) if known else None


@dataclass(frozen=True)
class MetricNames:
    """One engine's names. Several series of a name are summed, of `kv_usage` the largest counts."""

    running: str
    waiting: str
    kv_usage: tuple[str, ...]
    generated_tokens: str
    prompt_tokens: str


BUILTIN = MetricNames(
    "quarterdeck_engine_running_sequences", "quarterdeck_engine_waiting_sequences",
    ("quarterdeck_engine_kv_cache_usage_ratio",), "quarterdeck_engine_generated_tokens_total",
    "quarterdeck_engine_prompt_tokens_total",
)  # fmt: skip
VLLM = MetricNames(
    "vllm:num_requests_running", "vllm:num_requests_waiting",
    ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
)  # fmt: skip
SGLANG = MetricNames(
    "sglang:num_running_reqs", "sglang:num_queue_reqs", ("sglang:token_usage",),
    "sglang:generation_tokens_total", "sglang:prompt_tokens_total",
)  # fmt: skip
LLAMA_CPP = MetricNames(
    "llamacpp:requests_processing", "llamacpp:requests_deferred",
    ("llamacpp:kv_cache_usage_ratio",), "llamacpp:tokens_predicted_total",
    "llamacpp:prompt_tokens_total",
)  # fmt: skip
KNOWN = (VLLM, BUILTIN, SGLANG, LLAMA_CPP)


def read_load(text: str, names: Iterable[MetricNames]) -> EngineLoad:
    """The numbers of the first engine of `names` that the text knows; lines that are no samples
    are passed over."""
    samples = _samples(text)
    for candidate in names:
        usage = [value for name in candidate.kv_usage for value in samples.get(name, ())]
        load = EngineLoad(
            running=_sum(samples, candidate.running),
            waiting=_sum(samples, candidate.waiting),
            kv_usage=max(usage, default=None),
            generated_tokens=_sum(samples, candidate.generated_tokens),
            prompt_tokens=_sum(samples, candidate.prompt_tokens),
        )
        if load != EngineLoad():
            return load
    return EngineLoad()


def _sum(samples: dict[str, list[float]], name: str) -> float | None:
    return sum(samples[name]) if name in samples else None


def _samples(text: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        name, brace, rest = line.partition("{")
        if brace:
            rest = rest.rpartition("}")[2]
        else:
            name, _, rest = line.partition(" ")
        words = rest.split()
        try:
            value = float(words[0])
        except (IndexError, ValueError):
            continue
        if math.isfinite(value):
            found.setdefault(name.strip(), []).append(value)
    return found
