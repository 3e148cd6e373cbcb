"""Clients that ask without a rest while something happens to the platform."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import httpx


class Asking(ABC):
    """Asks in so many threads while the block runs. `failures` holds what went wrong."""

    def __init__(self, threads: int = 1, pause: float = 0.1) -> None:
        self.answers, self.failures = 0, list[str]()
        self._pause = pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._loop) for _ in range(threads)]

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @abstractmethod
    def ask(self) -> str:
        """Ask once; what went wrong, else nothing."""

    def _loop(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                failure = self.ask()
            except Exception as error:  # a thread that ended would count as no failure
                failure = repr(error)
            with self._lock:
                if failure:
                    self.failures.append(failure)
                else:
                    self.answers += 1


class Readiness(Asking):
    """Asks each address whether it is ready, by a new connection each time, never again."""

    def __init__(self, *urls: str) -> None:
        super().__init__()
        self._urls = urls

    def ask(self) -> str:
        for url in self._urls:
            try:
                answer = httpx.get(f"{url}/readyz", timeout=10, trust_env=False)
            except httpx.HTTPError as error:
                return f"{url}: {type(error).__name__}: {error}"
            if answer.status_code != 200:
                return f"{url}: {answer.status_code} {answer.text[:200]}"
        return ""


class Completions(Asking):
    """Asks a service for a few tokens as one client in each thread; retries a failed request once.

    `urls` answers the gateways' addresses: one Service, or those behind it, of which the retry
    takes another. A refusal of the request itself (4xx but 408 and 429) is a failure at once.
    """

    def __init__(
        self, urls: Callable[[], Sequence[str]], key: str, model: str, *, threads: int = 2,
        pause: float = 0.1, timeout: float = 60.0, connect: float = 10.0,
    ) -> None:  # fmt: skip
        super().__init__(threads, pause)
        self.retried = list[str]()
        self.longest = 0.0
        """Seconds from a request to its answer, the retry included."""
        self._urls, self._timeout = urls, httpx.Timeout(timeout, connect=connect)
        self._headers = {"authorization": f"Bearer {key}"}
        self._body = {"model": model, "prompt": "def ", "max_tokens": 4, "temperature": 0}
        self._turn = 0

    def ask(self) -> str:
        with self._lock:
            self._turn += 1
            turn = self._turn
        begun = time.monotonic()
        failure = self._at(turn)
        if failure:
            with self._lock:
                self.retried.append(failure)
            again = self._at(turn + 1)
            failure = f"{failure}; then {again}" if again else ""
        with self._lock:
            self.longest = max(self.longest, time.monotonic() - begun)
        return failure

    def _at(self, turn: int) -> str:
        urls = self._urls()
        return self.once(urls[turn % len(urls)]) if urls else "there is no address to ask"

    def once(self, url: str) -> str:
        """Ask this address; what went wrong, else nothing."""
        begun = time.monotonic()
        try:
            answer = httpx.post(
                f"{url}/v1/completions", json=self._body, headers=self._headers,
                timeout=self._timeout, trust_env=False,
            )  # fmt: skip
            if answer.status_code == 200 and answer.json()["choices"][0]["text"]:
                return ""
            said = f"{answer.status_code} {answer.text[:200]}"
        except (httpx.HTTPError, ValueError, LookupError) as error:
            said = f"{type(error).__name__}: {error}"
        return f"{url}: {said} after {time.monotonic() - begun:.1f} s"
