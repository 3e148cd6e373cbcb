"""What routing may know of a request: its session, the beginning of its text, its adapter.

The text is compared, never understood: roles and contents one after the other, as a chat template
would put them, so that a later turn begins with the earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from quarterdeck.routing.policies import READS_PROMPTS
from quarterdeck.routing.replicas import RouteRequest
from quarterdeck.specs.gateway_snapshot import ServiceRoute
from quarterdeck.specs.routing import RoutingSettings

LONGEST_PROMPT = 16 * 2**10
"""Characters of the beginning that are looked at."""
LONGEST_KEY = 256
_READS = READS_PROMPTS | {"session", "adapter"}
_NOTHING = RouteRequest()
_OPENING = 1024
"""Of a prompt that is not a conversation."""


def route_request(
    settings: RoutingSettings,
    headers: Sequence[tuple[bytes, bytes]],
    body: Mapping[str, object],
) -> RouteRequest:
    """Read a request, as far as the service's policy looks. Never raises: what has another form
    than OpenAI's is not there."""
    if settings.policy not in _READS:
        return _NOTHING
    session, adapter = "", ""
    if settings.policy == "session":
        session = _header(headers, settings.session_header) or _text(
            body.get("prompt_cache_key") or body.get("user")
        )
    if settings.policy == "adapter":
        adapter = _header(headers, settings.adapter_header)
    if settings.policy in READS_PROMPTS:
        return _prompt(body)
    return RouteRequest(session=session, adapter=adapter)


def engine_model(route: ServiceRoute, fields: Mapping[bytes, bytes]) -> str:
    """The model name that its engines know: the adapter that a request asks for by header, else
    the service's own."""
    adapter = fields.get(_wire_name(route.routing.adapter_header))
    return adapter.decode("latin-1").strip()[:LONGEST_KEY] if adapter else route.name


def _header(headers: Sequence[tuple[bytes, bytes]], name: str) -> str:
    wanted = _wire_name(name)
    for key, value in headers:
        if key == wanted:
            return value.decode("latin-1").strip()[:LONGEST_KEY]
    return ""


@lru_cache(maxsize=1024)
def _wire_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


def _text(value: object) -> str:
    return value[:LONGEST_KEY] if isinstance(value, str) else ""


def _prompt(body: Mapping[str, object]) -> RouteRequest:
    messages = body.get("messages")
    if messages is None and isinstance(body.get("input"), list):
        messages = body["input"]  # /v1/responses
    if isinstance(messages, list):
        return _conversation(messages, body.get("instructions"))
    prompt = body.get("prompt", body.get("input"))
    if isinstance(prompt, list):
        prompt = prompt[0] if prompt and isinstance(prompt[0], str) else _tokens(prompt)
    if not isinstance(prompt, str):
        return RouteRequest()
    prompt = prompt[:LONGEST_PROMPT]
    return RouteRequest(prompt=prompt, opening=prompt[:_OPENING], own_after=len(prompt))


def _conversation(messages: list[object], instructions: object) -> RouteRequest:
    pieces: list[str] = []
    length, opening = 0, None
    if isinstance(instructions, str):
        pieces.append(f"system\n{instructions[:LONGEST_PROMPT]}\n")
        length = len(pieces[0])
    for message in messages:
        if not isinstance(message, dict):
            continue
        role = message.get("role")
        for piece in (f"{role}\n", *_contents(message.get("content")), "\n"):
            pieces.append(piece[:LONGEST_PROMPT])
            length += len(pieces[-1])
        if role == "user" and opening is None:
            opening = length
        if length >= LONGEST_PROMPT:
            break
    text = "".join(pieces)[:LONGEST_PROMPT]
    # Through the first user message; what comes after is this conversation's own.
    return RouteRequest(prompt=text, opening=text[:opening], own_after=len(text[:opening]))


def _contents(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]


def _tokens(prompt: list[object]) -> str:
    """A prompt of token ids, as text with one character for each."""
    ids = prompt[0] if prompt and isinstance(prompt[0], list) else prompt
    return "".join(
        chr(0x100 + token % 0xD000)
        for token in ids[:LONGEST_PROMPT]
        if isinstance(token, int) and token >= 0
    )
