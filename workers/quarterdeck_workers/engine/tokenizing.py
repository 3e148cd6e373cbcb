"""Bodies of /tokenize and /detokenize, as vLLM has them: text or a conversation to token ids and
back."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool

from quarterdeck_workers.engine.api_errors import ApiError
from quarterdeck_workers.engine.openai_requests import Body, Ids, Messages

_MOST_TOKENS = 1_000_000


class TokenizeRequest(Body):
    """POST /tokenize. Without `model` it is the engine's own."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: StrictBool | None = None
    """Of a prompt, by default true; a conversation's template writes its own."""
    add_generation_prompt: StrictBool = True
    return_token_strs: StrictBool = False

    def check(self) -> None:
        """Refuse what is contradictory or not implemented."""
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(400, "prompt, messages: give one of both", param="prompt")
        if self.messages is not None and self.add_special_tokens:
            raise ApiError(
                400,
                "add_special_tokens: true is not supported with messages, whose template writes "
                "them: leave it out",
                param="add_special_tokens",
                code="unsupported_parameter",
            )
        self.refuse(
            {"continue_final_message": (False,), "chat_template": (), "tools": ([],),
             "chat_template_kwargs": ({},)}
        )  # fmt: skip


class DetokenizeRequest(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: Annotated[Ids, Field(max_length=_MOST_TOKENS)]
