"""Which paths of OpenAI's API are passed on, and what a request of each says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CHARACTERS_PER_TOKEN = 4
_DEFAULT_ANSWER = 256


@dataclass(frozen=True)
class Endpoint:
    """`generates`: its answers are generated tokens, which take time and may be streamed."""

    path: str
    generates: bool = False


ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/completions", generates=True),
        Endpoint("/v1/chat/completions", generates=True),
        Endpoint("/v1/responses", generates=True),
        Endpoint("/v1/embeddings"),
        Endpoint("/v1/rerank"),
        Endpoint("/tokenize"),
        Endpoint("/detokenize"),
    )
}


def guessed_tokens(endpoint: Endpoint, body: Mapping[str, Any], size: int) -> int:
    """About how many tokens a request of `size` bytes will cost, for limits: its text and the
    longest answer that it allows."""
    prompt = size // _CHARACTERS_PER_TOKEN
    if not endpoint.generates:
        return prompt
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        wanted = body.get(name)
        if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted <= 10**7:
            return prompt + wanted
    return prompt + _DEFAULT_ANSWER
