"""Asking an engine over HTTP: is it ready, does it really answer, how loaded is it.

Every question has one deadline for all of it, so that an engine that trickles bytes holds nobody.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from quarterdeck_workers.engine.liveness import ProbeOutcome
from quarterdeck_workers.engine.metric_names import EngineLoad, MetricNames, read_load

_MOST_BYTES = 4 * 2**20
METRICS_TIMEOUT = 2.0
_READY_SECONDS = 2.0
_BUSY = 429


class EngineClient:
    """One engine's questions. `probe` names one of `_QUESTIONS`."""

    def __init__(
        self, url: str, model: str, probe: str, ready_path: str, names: Iterable[MetricNames]
    ) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._model = model
        self._probe = probe
        self._ready_path = ready_path
        self._names = tuple(names)

    def ready(self) -> bool:
        """Its ready path answers 200."""
        try:
            return self._ask("GET", self._ready_path, None, _READY_SECONDS)[0] == http.client.OK
        except OSError:
            return False

    def load(self) -> EngineLoad:
        """What its metrics say now; empty where it has none."""
        try:
            status, text = self._ask("GET", "/metrics", None, METRICS_TIMEOUT)
        except OSError:
            return EngineLoad()
        if status != http.client.OK:
            return EngineLoad()
        return read_load(text.decode(errors="replace"), self._names)

    def probe(self, timeout: float) -> ProbeOutcome:
        """A real request of its kind: one token, embedding, ranked document or search."""
        path, body, judge = _QUESTIONS[self._probe]
        path = path.format(model=self._model)
        if self._probe not in _NAMES_NO_MODEL:
            body = {"model": self._model, **body}
        data = json.dumps(body).encode()
        began = time.monotonic()
        try:
            status, text = self._ask("POST", path, data, timeout)
        except OSError as error:
            late = time.monotonic() - began >= timeout
            why = f"no answer within {timeout:g} s" if late else f"{type(error).__name__}: {error}"
            return ProbeOutcome(False, why, busy=late)
        shown = text[:300].decode(errors="replace")
        if status != http.client.OK:
            return ProbeOutcome(False, f"{path} answered {status}: {shown}", busy=status == _BUSY)
        try:
            good = judge(json.loads(text))
        except (ValueError, KeyError, TypeError, IndexError):
            good = False
        return ProbeOutcome(good, "" if good else f"{path} answered without a result: {shown}")

    def _ask(self, method: str, path: str, body: bytes | None, timeout: float) -> tuple[int, bytes]:
        """Status and body; raises OSError, also TimeoutError, and for what is no HTTP."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        over = threading.Event()

        def cut() -> None:
            over.set()
            if (line := connection.sock) is not None:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(timeout, cut)
        timer.daemon = True
        timer.start()
        try:
            headers = {"content-type": "application/json"} if body is not None else {}
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            text = answer.read(_MOST_BYTES)
        except (http.client.HTTPException, ValueError, AttributeError) as error:
            if over.is_set():
                raise TimeoutError(f"no whole answer within {timeout:g} s") from error
            raise OSError(f"{type(error).__name__}: {error}") from error
        finally:
            timer.cancel()
            connection.close()
        if over.is_set():
            raise TimeoutError(f"no whole answer within {timeout:g} s")
        return answer.status, text


def _completed(answer: Any) -> bool:
    return isinstance(answer["choices"][0]["text"], str) and _generated(answer)


def _chatted(answer: Any) -> bool:
    return isinstance(answer["choices"][0]["message"], dict) and _generated(answer)


def _generated(answer: Any) -> bool:
    # Servers may leave the usage out; one that tells it must have generated something.
    usage = answer.get("usage")
    return usage is None or int(usage.get("completion_tokens") or 0) >= 1


def _embedded(answer: Any) -> bool:
    vector = answer["data"][0]["embedding"]
    return isinstance(vector, list) and len(vector) > 0 and all(
        isinstance(number, (int, float)) for number in vector
    )  # fmt: skip


def _ranked(answer: Any) -> bool:
    best = answer["results"][0]
    return isinstance(best["index"], int) and isinstance(best["relevance_score"], (int, float))


def _searched(answer: Any) -> bool:
    return isinstance(answer["data"], list)  # there may be nothing to find


_QUESTIONS: dict[str, tuple[str, dict[str, Any], Callable[[Any], bool]]] = {
    "completion": (
        "/v1/completions",
        {"prompt": "a", "max_tokens": 1, "temperature": 0},
        _completed,
    ),
    "chat": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "temperature": 0},
        _chatted,
    ),
    "embedding": ("/v1/embeddings", {"input": "a", "encoding_format": "float"}, _embedded),
    "rerank": ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": 1}, _ranked),
    # As OpenAI's search has it, the body names no model: the store is called like the service.
    "search": (
        "/v1/vector_stores/{model}/search",
        {"query": "a", "max_num_results": 1},
        _searched,
    ),
}
_NAMES_NO_MODEL = ("search",)


class HealthWatch:
    """Asks an engine every few seconds on a thread of its own and tells each outcome."""

    def __init__(
        self, client: EngineClient, every: float, timeout: float,
        tell: Callable[[ProbeOutcome, EngineLoad], None],
    ) -> None:  # fmt: skip
        self._client, self._every, self._timeout, self._tell = client, every, timeout, tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Begin, after one pause."""
        self._thread.start()

    def stop(self) -> None:
        """Ask nothing more."""
        self._over.set()

    def _run(self) -> None:
        pause = self._every
        while not self._over.wait(pause):
            began = time.monotonic()
            outcome = self._client.probe(self._timeout)
            self._tell(outcome, self._client.load())
            pause = max(0.0, self._every - (time.monotonic() - began))
