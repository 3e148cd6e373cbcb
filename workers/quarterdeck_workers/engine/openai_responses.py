"""OpenAI's responses without memory: one answer to an input, nothing is stored.

What would need a store (`previous_response_id`, `conversation`, `store`, `background`) or what
this engine does not do (tools, formats) is refused by name.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt

from quarterdeck_workers.engine.api_errors import ApiError
from quarterdeck_workers.engine.interface import Sampling, TokenEvent
from quarterdeck_workers.engine.openai_answers import sse
from quarterdeck_workers.engine.openai_requests import Body

_MOST_METADATA = 16


class InputPart(Body):
    """A piece of a message: `output_text` where the assistant said it."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class InputMessage(Body):
    """One turn; items of other types (tool calls, files) are refused."""

    type: Literal["message"] = "message"
    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[InputPart], Field(fail_fast=True)]

    def plain(self) -> dict[str, str]:
        """As templates expect it."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


def _few(value: object) -> object:
    # Before its values are looked at: a million wrong ones would make a million errors.
    if isinstance(value, dict) and len(value) > _MOST_METADATA:
        raise ValueError(f"{len(value)} keys; give at most {_MOST_METADATA}")
    return value


class ResponseRequest(Body):
    """POST /v1/responses."""

    model: str
    input: str | Annotated[list[InputMessage], Field(min_length=1, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: StrictInt | None = Field(default=None, ge=1, le=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: StrictBool | None = None
    ignore_eos: StrictBool = False
    metadata: Annotated[dict[str, str], BeforeValidator(_few)] | None = None

    def check(self) -> None:
        """Refuse what this engine does not do."""
        extra = self.model_extra or {}
        kept = [name for name in ("previous_response_id", "conversation") if extra.get(name)]
        kept += [name for name in ("store", "background") if extra.get(name) not in (None, False)]
        if kept:
            raise ApiError(
                400,
                f"{kept[0]}: this engine keeps no responses: leave it out, and send the whole "
                "conversation as input",
                param=kept[0],
                code="unsupported_parameter",
            )
        text = extra.get("text") or {}
        plain = (None, {"type": "text"})
        if not isinstance(text, dict) or text.get("format") not in plain:
            raise ApiError(
                400, "text.format: this engine writes plain text only: leave it out",
                param="text", code="unsupported_parameter",
            )  # fmt: skip
        self.refuse(
            {
                "tools": ([],),
                "tool_choice": ("none", "auto"),
                "truncation": ("disabled",),
                "include": ([],),
                "prompt": (),
                "top_logprobs": (0,),
                "n": (1,),
                "stop": ([],),
                "seed": (),
                "reasoning": ({},),
            }
        )

    def messages(self) -> list[dict[str, str]]:
        """The conversation as templates expect it, `instructions` first."""
        first = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*first, {"role": "user", "content": self.input}]
        return [*first, *(message.plain() for message in self.input)]

    def sampling(self, max_tokens: int, stops: tuple[str, ...]) -> Sampling:
        """How to sample the answer."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=stops,
            ignore_eos=self.ignore_eos,
        )


class ResponseAnswer:
    """Writes one sequence as a response, whole or as `response.…` events (see `Writer`)."""

    def __init__(self, model: str, prompt_tokens: int, request: ResponseRequest) -> None:
        self._request = request
        self._prompt_tokens = prompt_tokens
        self._generated = 0
        self._text = ""
        self._reason: str | None = None
        self._number = 0
        self._opened = False
        self._item = f"msg_{uuid.uuid4().hex}"
        self._head = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
        }

    @property
    def complete(self) -> bool:
        """The sequence has ended."""
        return self._reason is not None

    def add(self, event: TokenEvent) -> Iterator[bytes]:
        """Take an event in; what a stream sends for it."""
        self._text += event.text
        self._generated += event.token_id is not None
        self._reason = event.finish_reason
        # A list, not a generator that nobody may run: the state above changes in any case.
        return iter(self._delta(event.text))

    def _delta(self, text: str) -> list[bytes]:
        events = []
        if not self._opened:
            self._opened = True
            running = {"response": self._response("in_progress", [])}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events = [
                self._event("response.created", **running),
                self._event("response.in_progress", **running),
                self._event(
                    "response.output_item.added", output_index=0,
                    item=self._message("in_progress", []),
                ),
                self._event("response.content_part.added", **self._place, part=part),
            ]  # fmt: skip
        if text:
            events.append(
                self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])
            )
        return events

    def closing(self) -> Iterator[bytes]:
        """The events that end a stream."""
        message = self._message(self._status, [self._part])
        yield self._event("response.output_text.done", **self._place, text=self._text, logprobs=[])
        yield self._event("response.content_part.done", **self._place, part=self._part)
        yield self._event("response.output_item.done", output_index=0, item=message)
        yield self._event(f"response.{self._status}", response=self.whole())

    def broken(self, error: ApiError) -> Iterator[bytes]:
        """The end of a stream that fails."""
        said = {"code": "server_error", "message": str(error)}
        response = {**self._response("failed", []), "error": said}
        yield self._event("response.failed", response=response)

    def whole(self) -> dict[str, Any]:
        """The answer of a request that does not stream."""
        response = self._response(self._status, [self._message(self._status, [self._part])])
        if self._status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["usage"] = {
            "input_tokens": self._prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self._generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._prompt_tokens + self._generated,
        }
        return response

    @property
    def _status(self) -> str:
        return "incomplete" if self._reason == "length" else "completed"

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    @property
    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": []}

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._item, "type": "message", "role": "assistant", "status": status,
            "content": content,
        }  # fmt: skip

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        asked = self._request
        return {
            **self._head,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def _event(self, type_: str, **content: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse({"type": type_, "sequence_number": number, **content}, type_)
