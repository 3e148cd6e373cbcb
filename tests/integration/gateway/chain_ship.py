"""A chain for tests, and the services of its steps: real servers that say what they are told."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from quarterdeck.specs.gateway_snapshot import RouteStep

DOCUMENTS = ["Boats float.", "Masts carry sails.", "Anchors hold."]
ASKED: dict[str, Any] = {
    "model": "support",
    "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hello!"},
        {"role": "user", "content": "why do boats float?"},
    ],
}


def chat_answer(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "chat",
         "choices": [choice], "usage": usage}
    ).encode()  # fmt: skip


def found(*texts: str) -> bytes:
    data = [
        {"file_id": f"file-{n}", "filename": f"{n}.md", "score": 1.0 - n / 10, "attributes": {},
         "content": [{"type": "text", "text": text}]}
        for n, text in enumerate(texts)
    ]  # fmt: skip
    page = {"object": "vector_store.search_results.page", "has_more": False, "next_page": None}
    return json.dumps({**page, "search_query": ["q"], "data": data}).encode()


def ranked(*indices: int) -> bytes:
    results = [
        {"index": index, "relevance_score": 0.9 - n / 10, "document": {"text": "…"}}
        for n, index in enumerate(indices)
    ]
    return json.dumps({"id": "r", "model": "rerank", "results": results}).encode()


def code_of(answer: httpx.Response) -> Any:
    return answer.json()["error"]["code"]


class Ship:
    """The four services, each one real server that answers what it is told to, and the chain."""

    DOCUMENTS, ASKED = DOCUMENTS, ASKED
    GUARD = {"role": "guard", "service": "guard", "refuse_when": r"^\s*unsafe"}
    SEARCH = {"role": "retriever", "service": "search", "store": "handbook", "top": 3}
    RERANK = {"role": "reranker", "service": "rerank", "top": 2}
    MODEL = {"role": "model", "service": "chat", "template": "Read:\n{documents}"}
    chat_answer = staticmethod(chat_answer)
    found = staticmethod(found)
    code_of = staticmethod(code_of)

    def __init__(self, api: Any, gateways: Any, kit: Any, scripted: Any) -> None:
        self._api, self._kit = api, kit
        self.says: dict[str, Any] = {
            "guard": [kit.whole(chat_answer("safe"))],
            "search": [kit.whole(found(*DOCUMENTS))],
            "rerank": [kit.whole(ranked(0, 2))],
            "chat": [kit.whole(chat_answer("because"))],
        }
        self.replicas = {
            name: scripted(f"run-{name}", lambda _, name=name: self._script(name))
            for name in self.says
        }
        self.gateway = gateways()
        self.keys: list[Any] | None = None
        self.reports: list[dict[str, Any]] = api.reports

    def _script(self, name: str) -> Any:
        says = self.says[name]
        return says() if callable(says) else says

    def sail(self, *steps: dict[str, Any], without: str = "", **values: Any) -> None:
        """Publish the services and a chain of these steps."""
        plain = self._kit.route("support")
        chain = [RouteStep.model_validate(step) for step in steps]
        services = [
            self._kit.route(name, replica.endpoint())
            for name, replica in self.replicas.items()
            if name != without
        ]
        self._api.publish(
            *services,
            type(plain).model_validate({**plain.model_dump(), "chain": chain, **values}),
            keys=self.keys,
        )
        self.gateway.wait_for("support", *(self.replicas.keys() - {without}))

    def ask(self, priority: str = "normal", **body: Any) -> httpx.Response:
        headers = {"x-quarterdeck-priority": priority}
        with self.gateway.client() as client:
            return client.post("/v1/chat/completions", json={**ASKED, **body}, headers=headers)

    def asked(self, name: str) -> list[Any]:
        """Every body that a service got."""
        return [json.loads(body) for _, _, body in self.replicas[name].requests]

    def metric(self, start: str) -> float:
        text = httpx.get(self.gateway.url + "/metrics").text
        lines = [line for line in text.splitlines() if line.startswith(start)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.fixture
def ship(api: Any, gateways: Any, kit: Any, scripted: Any) -> Ship:
    return Ship(api, gateways, kit, scripted)
