"""What a row asks of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from quarterdeck.specs.batch import PLACE, BatchSpec

DEFAULT = "{{text}}"
_ROLES = ("system", "user", "assistant")


class BadRow(Exception):
    """The row cannot be asked; the message names the field and the remedy."""


class Encoder(Protocol):
    """The part of a loaded model that makes tokens of texts."""

    context_length: int

    def encode(self, text: str) -> list[int]: ...
    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]: ...


def prompt_of(spec: BatchSpec, fields: dict[str, Any], encoder: Encoder) -> tuple[int, ...]:
    """The prompt's tokens. Raises BadRow, also where prompt and `max_tokens` exceed the model's
    context."""
    if spec.messages is not None:
        try:
            tokens = encoder.encode_chat(_messages(spec.messages, _field(fields, spec.messages)))
        except ValueError as error:
            raise BadRow(f"field {spec.messages!r}: {error}") from error
    else:
        tokens = encoder.encode(fill(spec.input or DEFAULT, fields))
    room = encoder.context_length - spec.generation.max_tokens
    if not tokens:
        raise BadRow("the prompt is empty")
    if len(tokens) > room:
        raise BadRow(
            f"the prompt has {len(tokens)} tokens; {room} fit beside max_tokens "
            f"{spec.generation.max_tokens} into the model's {encoder.context_length}"
        )
    return tuple(tokens)


def fill(template: str, fields: dict[str, Any]) -> str:
    """The template with the row's fields; what is no text becomes JSON. Raises BadRow."""
    return PLACE.sub(lambda match: _text(_field(fields, match[1])), template)


def _field(fields: dict[str, Any], path: str) -> Any:
    value: Any = fields
    for name in [path] if path in fields else path.split("."):
        if not isinstance(value, dict) or name not in value:
            known = ", ".join(sorted(fields)[:20]) or "none"
            raise BadRow(f"field {path!r} is missing; the row has: {known}")
        value = value[name]
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _messages(name: str, value: Any) -> list[dict[str, str]]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRow(f"field {name!r} is not a list of messages")
    for message in value:
        if (
            not isinstance(message, dict)
            or message.get("role") not in _ROLES
            or not isinstance(message.get("content"), str)
        ):
            raise BadRow(
                f"field {name!r}: each message has a role ({', '.join(_ROLES)}) and a content"
            )
    return [{"role": m["role"], "content": m["content"]} for m in value]
