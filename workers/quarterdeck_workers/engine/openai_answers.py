"""OpenAI's answers, whole or in pieces, from the token events of a request's sequences."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from quarterdeck_workers.engine.api_errors import ApiError
from quarterdeck_workers.engine.interface import TokenEvent, TokenLogprob

TokenText = Callable[[int], str]
DONE = b"data: [DONE]\n\n"


def sse(payload: dict[str, Any], event: str = "") -> bytes:
    """One server-sent event, with a name where its surface has names."""
    name = f"event: {event}\n".encode() if event else b""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    return name + b"data: " + text + b"\n\n"


@dataclass
class _Choice:
    text: str = ""
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    started: bool = False


class Answer:
    """Collects what one request generates and writes it in OpenAI's shapes.

    `chat` chooses between the two surfaces; `logprobs` and, of a stream, `include_usage` (at its
    end) and `continuous_usage` (in every piece too) say whether the client asked for them.
    """

    def __init__(
        self,
        model: str,
        prompt_tokens: int,
        choices: int,
        token_text: TokenText,
        *,
        chat: bool,
        logprobs: bool,
        include_usage: bool = False,
        continuous_usage: bool = False,
    ) -> None:
        self._chat = chat
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._logprobs = logprobs
        self._token_text = token_text
        self._prompt_tokens = prompt_tokens
        self._choices = [_Choice() for _ in range(choices)]
        self._head = {
            "id": ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex,
            "created": int(time.time()),
            "model": model,
        }
        self.generated = 0

    @property
    def complete(self) -> bool:
        """Every sequence has ended."""
        return all(choice.finish_reason is not None for choice in self._choices)

    def usage(self) -> dict[str, int]:
        """Tokens of the prompts and of everything generated."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self.generated,
            "total_tokens": self._prompt_tokens + self.generated,
        }

    def add(self, event: TokenEvent) -> list[bytes]:
        """Take an event in; what a stream sends for it, nothing where nothing shows."""
        chunks = self._chunks(event)
        if self._include_usage:
            usage = self.usage() if self._continuous_usage else None
            chunks = [{**chunk, "usage": usage} for chunk in chunks]
        return [sse(chunk) for chunk in chunks]

    def closing(self) -> Iterator[bytes]:
        """The end of a stream, with what `include_usage` asked for."""
        if self._include_usage:
            yield sse(
                {**self._head, "object": self._object(True), "choices": [], "usage": self.usage()}
            )
        yield DONE

    def broken(self, error: ApiError) -> Iterator[bytes]:
        """The end of a stream that fails."""
        yield sse(error.body)

    def _chunks(self, event: TokenEvent) -> list[dict[str, Any]]:
        choice = self._choices[event.index]
        offset = len(choice.text)
        choice.text += event.text
        choice.finish_reason = event.finish_reason
        if event.token_id is not None:
            self.generated += 1
        if event.logprob is not None:
            choice.logprobs.append(event.logprob)
        logprobs = None
        if self._logprobs and event.logprob is not None:
            logprobs = self._logprobs_of([event.logprob], offset)
        chunks = []
        if self._chat and not choice.started:
            choice.started = True
            opening = {"role": "assistant", "content": ""}
            chunks.append(self._chunk(event.index, {"delta": opening}, None, None))
        if event.text or logprobs or event.finish_reason:
            if self._chat:
                body: dict[str, Any] = {"delta": {"content": event.text} if event.text else {}}
            else:
                body = {"text": event.text}
            chunks.append(self._chunk(event.index, body, logprobs, event.finish_reason))
        return chunks

    def whole(self) -> dict[str, Any]:
        """The answer of a request that does not stream."""
        choices = []
        for index, choice in enumerate(self._choices):
            logprobs = self._logprobs_of(choice.logprobs, 0) if self._logprobs else None
            body: dict[str, Any] = {"text": choice.text}
            if self._chat:
                body = {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
            choices.append(
                {
                    "index": index,
                    **body,
                    "logprobs": logprobs,
                    "finish_reason": choice.finish_reason,
                }
            )
        return {
            **self._head,
            "object": self._object(False),
            "choices": choices,
            "usage": self.usage(),
        }

    def _object(self, stream: bool) -> str:
        if not self._chat:
            return "text_completion"
        return "chat.completion.chunk" if stream else "chat.completion"

    def _chunk(
        self,
        index: int,
        body: dict[str, Any],
        logprobs: dict[str, Any] | None,
        finish_reason: str | None,
    ) -> dict[str, Any]:
        choice = {"index": index, **body, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head, "object": self._object(True), "choices": [choice]}

    def _logprobs_of(self, items: list[TokenLogprob], offset: int) -> dict[str, Any]:
        if self._chat:
            return {
                "content": [
                    {
                        **self._entry(item.token_id, item.logprob),
                        "top_logprobs": [self._entry(*pair) for pair in item.top],
                    }
                    for item in items
                ]
            }
        tokens = [self._token_text(item.token_id) for item in items]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [item.logprob for item in items],
            "top_logprobs": [
                {self._token_text(token): logprob for token, logprob in item.top} for item in items
            ],
            "text_offset": offsets,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._token_text(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
