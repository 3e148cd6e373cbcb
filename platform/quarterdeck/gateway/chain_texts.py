"""What the steps of a chain are asked, and what their answers mean. Pure.

A chain reads one question from a request: the text of the last user message, or the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from quarterdeck.gateway.errors import ApiError
from quarterdeck.specs.chains import PLACEHOLDER
from quarterdeck.specs.gateway_snapshot import RouteStep
from quarterdeck.specs.log_policies import matcher

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
RERANK = "/v1/rerank"
PATHS = (CHAT, COMPLETIONS, RESPONSES)
LONGEST_QUERY = 8192
"""Characters of the question that retrievers and rerankers get."""
_LONGEST_DOCUMENT = 64 * 2**10
_LONGEST_NAME = 200
_VERDICT = 1000
"""Characters of a guard's answer that are looked at."""
_VERDICT_TOKENS = 32
_TEXT_PARTS = ("text", "input_text", "output_text")


class Unreadable(ValueError):
    """A step's answer has another form than its role's."""


@dataclass(frozen=True)
class Question:
    """`text` is what is looked up; `last` the message as a guard is shown it, `conversation` all
    messages of users and assistants."""

    text: str
    last: Mapping[str, Any]
    conversation: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Document:
    """What a retriever found."""

    name: str
    text: str


def question_of(path: str, body: Mapping[str, Any]) -> Question:
    """The question of a request. Raises ApiError 400 where there is none that a chain can read."""
    field, messages = _messages(path, body)
    said = [_plain(each) for each in messages if each.get("role") in ("user", "assistant")]
    last = next((each for each in reversed(said) if each["role"] == "user"), None)
    if last is None:
        raise ApiError(
            400, f"{field}: a chain answers a user's message, and there is none", param=field
        )
    text = _text(last["content"])
    if not text.strip():
        raise ApiError(
            400, f"{field}: a chain reads the text of the last user message, which has none",
            param=field,
        )  # fmt: skip
    return Question(text, last, said)


def _messages(path: str, body: Mapping[str, Any]) -> tuple[str, Sequence[Mapping[str, Any]]]:
    """The field that they stand in, and the messages."""
    field = {CHAT: "messages", COMPLETIONS: "prompt"}.get(path, "input")
    given = body.get(field)
    if path == COMPLETIONS and isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(given, str) and path != CHAT:
        return field, [{"role": "user", "content": given}]
    if isinstance(given, list) and path != COMPLETIONS and all(isinstance(x, dict) for x in given):
        return field, given
    wanted = "a list of messages" if path == CHAT else "one text"
    raise ApiError(400, f"{field}: a chain reads {wanted} here", param=field)


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """Role and content; parts of text alone become one text, others stay as they are, so that a
    guard that cannot judge them refuses them."""
    content = message.get("content")
    if isinstance(content, list) and all(_is_text(part) for part in content):
        content = _text(content)
    return {"role": message["role"], "content": content if content is not None else ""}


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") in _TEXT_PARTS and "text" in part


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part["text"]) for part in parts if _is_text(part))


# --- guards ------------------------------------------------------------------------------------


def guard_body(step: RouteStep, question: Question) -> dict[str, Any]:
    """What a guard is asked, by `/v1/chat/completions`."""
    messages = question.conversation if step.looks_at == "conversation" else [question.last]
    return {
        "model": step.service,
        "messages": list(messages),
        "temperature": 0,
        "max_tokens": _VERDICT_TOKENS,
    }


def refuses(step: RouteStep, answer: Any) -> bool:
    """Whether a guard's answer means no. Raises Unreadable; saying nothing is no verdict."""
    try:
        said = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        said = None
    if not isinstance(said, str) or not said.strip():
        raise Unreadable("answered without a verdict: no text in choices[0].message.content")
    said = said[:_VERDICT]
    try:
        if _matches(step.refuse_when)(said):
            return True
        return step.pass_when is not None and not _matches(step.pass_when)(said)
    except ValueError as error:
        raise Unreadable(f"cannot be judged here: {error}") from None


_matches = lru_cache(maxsize=1024)(matcher)


# --- documents ---------------------------------------------------------------------------------


def search_path(step: RouteStep) -> str:
    """Where a retriever is asked."""
    return f"/v1/vector_stores/{step.store or step.service}/search"


def search_body(step: RouteStep, question: Question) -> dict[str, Any]:
    """What a retriever is asked."""
    return {"query": question.text[:LONGEST_QUERY], "max_num_results": step.top}


def found(step: RouteStep, answer: Any) -> list[Document]:
    """The documents of a retriever's answer, `top` at most. Raises Unreadable."""
    results = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(results, list):
        raise Unreadable("answered without data, the list of what it found")
    documents = []
    for result in results[: step.top]:
        if not isinstance(result, dict):
            raise Unreadable("answered with a result that is no object")
        text = _text(result.get("content"))[:_LONGEST_DOCUMENT]
        name = str(result.get("filename") or result.get("file_id") or "")[:_LONGEST_NAME]
        if text.strip():
            documents.append(Document(" ".join(name.split()), text))
    return documents


def rerank_body(
    step: RouteStep, question: Question, documents: Sequence[Document]
) -> dict[str, Any]:
    """What a reranker is asked, by `/v1/rerank`."""
    return {
        "model": step.service,
        "query": question.text[:LONGEST_QUERY],
        "documents": [document.text for document in documents],
        "top_n": min(step.top, len(documents)),
    }


def reranked(step: RouteStep, answer: Any, documents: Sequence[Document]) -> list[Document]:
    """The `top` best documents, the best first. Raises Unreadable."""
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list):
        raise Unreadable("answered without results, a list of index and relevance_score")
    scores: dict[int, float] = {}
    for result in results:
        try:
            index, score = result["index"], float(result["relevance_score"])
        except (KeyError, TypeError, ValueError):
            raise Unreadable("answered with a result without index or relevance_score") from None
        if type(index) is not int or not 0 <= index < len(documents) or not math.isfinite(score):
            raise Unreadable(f"answered with index {str(index)[:20]} of {len(documents)} documents")
        scores.setdefault(index, score)
    best = sorted(scores, key=lambda index: -scores[index])
    return [documents[index] for index in best[: step.top]]


# --- the model ---------------------------------------------------------------------------------


def with_documents(
    path: str, body: Mapping[str, Any], step: RouteStep, documents: Sequence[Document]
) -> dict[str, Any]:
    """The request with what was found; as it was, where that is nothing."""
    if not documents:
        return dict(body)
    before, _, after = step.template.partition(PLACEHOLDER)
    text = before + "\n\n".join(_shown(documents, step.max_characters)) + after
    field, messages = _messages(path, body)
    if path == COMPLETIONS:
        return {**body, field: f"{text}\n\n{messages[0]['content']}"}
    if step.documents_in == "user":
        return {**body, field: _before_question(messages, text, path)}
    if path == RESPONSES:
        told = body.get("instructions")
        return {**body, "instructions": f"{told}\n\n{text}" if isinstance(told, str) else text}
    return {**body, field: _in_system(messages, text)}


def _shown(documents: Sequence[Document], most: int) -> Iterator[str]:
    """Each document under its number and name, all of them within `most` characters."""
    left = most
    for number, document in enumerate(documents, 1):
        if left <= 0:
            return
        piece = f"[{number}] {document.name}".rstrip() + f"\n{document.text}"
        yield piece[:left]
        left -= len(piece) + 2


def _in_system(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    # One system message, at the front: many chat templates take no other.
    first = messages[0]
    if first.get("role") not in ("system", "developer"):
        return [{"role": "system", "content": text}, *messages]
    content = first.get("content")
    if isinstance(content, list):
        joined: object = [*content, {"type": "text", "text": text}]
    else:
        joined = f"{content or ''}\n\n{text}".lstrip()
    return [{**first, "content": joined}, *messages[1:]]


def _before_question(
    messages: Sequence[Mapping[str, Any]], text: str, path: str
) -> list[Mapping[str, Any]]:
    last = max(place for place, each in enumerate(messages) if each.get("role") == "user")
    message = messages[last]
    content = message.get("content")
    if isinstance(content, list):
        kind = "input_text" if path == RESPONSES else "text"
        joined: object = [{"type": kind, "text": text}, *content]
    else:
        joined = f"{text}\n\n{content}"
    return [*messages[:last], {**message, "content": joined}, *messages[last + 1 :]]
