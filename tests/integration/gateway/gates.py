"""What tests of places and of manners share: a request, a replica that waits, a look at metrics."""

from __future__ import annotations

import threading
from typing import Any

import httpx

BODY = {"model": "chat", "prompt": "hi"}
USAGE = b'{"ok": true, "usage": {"prompt_tokens": 5, "completion_tokens": 7}}'


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


class Gate:
    """A script that answers when it is told to."""

    def __init__(self, scripted: Any, kit: Any, run_id: str = "run-1") -> None:
        self._open = threading.Event()
        self._kit = kit
        self.replica = scripted(run_id, self._script)

    def _script(self, number: int) -> Any:
        while not self._open.is_set():
            yield 0.02
        yield self._kit.whole(USAGE)

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    def holds(self, requests: int) -> None:
        self._kit.wait_until(lambda: len(self.replica.requests) >= requests, "not there")


def metric(url: str, start: str) -> float:
    lines = [
        each for each in httpx.get(url + "/metrics").text.splitlines() if each.startswith(start)
    ]
    return sum(float(each.rsplit(" ", 1)[1]) for each in lines)
