"""OpenAI's embeddings: the request's bounds, and the answer's two encodings."""

from __future__ import annotations

import base64 as encoding
from array import array
from sys import byteorder
from typing import Any, Literal

from pydantic import Field, StrictInt

from quarterdeck_workers.engine.api_errors import ApiError
from quarterdeck_workers.engine.openai_requests import Body, Prompts

MAX_INPUTS = 2048
MAX_TOKENS = 300_000
"""Of all inputs of one request; both bounds are OpenAI's."""


class EmbeddingRequest(Body):
    """POST /v1/embeddings."""

    model: str
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: StrictInt | None = Field(default=None, ge=1, le=2**31)

    def check(self) -> None:
        """Refuse what this engine does not do."""
        self.refuse({"truncate_prompt_tokens": (), "add_special_tokens": (True,), "messages": ()})

    def check_dimensions(self, width: int) -> None:
        """Vectors of a model that was not trained for it may not be cut: raises ApiError 400."""
        if self.dimensions is not None and self.dimensions != width:
            raise ApiError(
                400,
                f"dimensions: {self.dimensions}; this model's embeddings have {width} and were "
                "not trained to be shortened: leave it out",
                param="dimensions",
                code="unsupported_parameter",
            )

    def check_total(self, tokens: int) -> None:
        """Raises ApiError 400 for more tokens than one request may hold."""
        if tokens > MAX_TOKENS:
            raise ApiError(
                400,
                f"input: {tokens} tokens in one request; at most {MAX_TOKENS}: send several",
                param="input",
            )

    def prompts(self) -> list[str | list[int]]:
        """Each input as text or as token ids; raises ApiError 400 for none or too many."""
        given = self.input
        prompts: list[str | list[int]]
        if isinstance(given, str):
            prompts = [given]
        elif given and isinstance(given[0], int):
            prompts = [[token for token in given if isinstance(token, int)]]
        else:
            prompts = [item for item in given if not isinstance(item, int)]
        if not 1 <= len(prompts) <= MAX_INPUTS:
            raise ApiError(
                400, f"input: {len(prompts)} inputs; give 1 to {MAX_INPUTS}", param="input"
            )
        return prompts


def embeddings_answer(
    model: str, vectors: list[list[float]], tokens: int, *, base64: bool
) -> dict[str, Any]:
    """The answer's body. `base64` writes each vector as little-endian float32."""
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _packed(vector: list[float]) -> str:
    numbers = array("f", vector)
    if byteorder == "big":
        numbers.byteswap()
    return encoding.b64encode(numbers.tobytes()).decode()
