"""The bodies of OpenAI's completion requests: parsing, bounds, and the errors they answer.

Fields that would change the answer and are not implemented are refused, never ignored; fields
nobody knows are ignored as OpenAI's own clients expect of compatible servers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
)

from quarterdeck_workers.engine.api_errors import ApiError
from quarterdeck_workers.engine.interface import Sampling

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_STOP_LENGTH = 1024
MAX_ALTERNATIVES = 20
_COMPLETION_TOKENS = 16  # OpenAI's default of /v1/completions

# Only the first error is told, so looking ends there: an error for each of a million wrong items
# would cost gigabytes.
Texts = Annotated[list[str], Field(fail_fast=True)]
Ids = Annotated[list[StrictInt], Field(fail_fast=True)]
Prompts = str | Ids | Texts | Annotated[list[Ids], Field(fail_fast=True)]
"""One text, its token ids, or several of either."""


_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "repetition_penalty": (1, 1.0),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": ([],),
    "guided_grammar": (),
}
"""Fields of OpenAI's and of servers like it that change an answer, with values that do not."""


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    model_config = ConfigDict(extra="allow")  # refused by name in `check_stream`

    include_usage: StrictBool = False
    continuous_usage_stats: StrictBool = False
    """With `include_usage`: not at the end alone but in every piece, as vLLM has it."""
    include_obfuscation: StrictBool | None = None
    """Padding against eavesdroppers on the length of tokens: means nothing where there is none."""


class Body(BaseModel):
    """What every request's body has in common."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), allow_inf_nan=False)

    def refuse(self, neutral: dict[str, tuple[Any, ...]]) -> None:
        """Refuse fields that are not implemented, unless they hold a value without effect."""
        for name, values in neutral.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in values:
                raise ApiError(
                    400,
                    f"{name}: {str(value)[:100]!r} is not supported by this engine: leave it out",
                    param=name,
                    code="unsupported_parameter",
                )


class _Request(Body):
    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: StrictInt | None = Field(default=None, ge=-1, le=2**31)
    n: StrictInt | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: StrictInt | None = Field(default=None, ge=1, le=2**31)
    seed: StrictInt | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | Texts | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    ignore_eos: StrictBool = False
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None

    def check_stream(self) -> None:
        """Raises ApiError 400 for unknown options, and for those of a stream that was not asked
        for."""
        if self.stream_options is None:
            return
        for name in self.stream_options.model_extra or {}:
            raise ApiError(
                400,
                f"stream_options.{name[:100]}: is unknown: leave it out",
                param="stream_options",
                code="unsupported_parameter",
            )
        if not self.stream:
            raise ApiError(400, "stream_options: needs stream: true", param="stream_options")

    def stops(self) -> tuple[str, ...]:
        """Stop strings, checked."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP_LENGTH for stop in stops):
            raise ApiError(
                400,
                f"stop: at most {MAX_STOPS} strings of 1 to {MAX_STOP_LENGTH} characters",
                param="stop",
            )
        return tuple(stops)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.include_usage and (
            self.stream_options is not None and self.stream_options.continuous_usage_stats
        )

    def sampling(
        self, max_tokens: int, logprobs: int | None, more_stops: tuple[str, ...] = ()
    ) -> Sampling:
        """How to sample one sequence of this request."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=self.seed,
            stop=(*self.stops(), *more_stops),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
        )


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: Prompts
    logprobs: StrictInt | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)

    def check(self) -> None:
        """Refuse what this engine does not do."""
        self.check_stream()
        self.refuse(
            {"echo": (False,), "best_of": (1, self.n), "suffix": ("",),
             "response_format": ({"type": "text"},), **_UNSUPPORTED}
        )  # fmt: skip

    def prompts(self) -> list[str | list[int]]:
        """Each prompt as text or as token ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return [[token for token in prompt if isinstance(token, int)]]
        return [item for item in prompt if not isinstance(item, int)]

    def token_limit(self, room: int) -> int:
        """Tokens to generate; `room` is what the context leaves."""
        return _COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One turn of a conversation."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None

    def plain(self) -> dict[str, str]:
        """The message as templates expect it. Raises ApiError 400 for what it cannot tell."""
        self.refuse({name: ([], {}) for name in ("tool_calls", "function_call", "audio", "images")})
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        # OpenAI's newer name for the same role, which templates do not know.
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": content or ""}


Messages = Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: StrictInt | None = Field(default=None, ge=1, le=2**31)
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)

    def check(self) -> None:
        """Refuse what this engine does not do."""
        self.check_stream()
        self.refuse(
            {
                "tools": ([],),
                "functions": ([],),
                "tool_choice": ("none", "auto"),
                "function_call": ("none", "auto"),
                "response_format": ({"type": "text"},),
                "audio": (),
                "modalities": (["text"],),
                "web_search_options": (),
                "echo": (False,),
                "continue_final_message": (False,),
                "add_generation_prompt": (True,),
                "chat_template": (),
                "chat_template_kwargs": ({},),
                "documents": ([],),
                "store": (False,),
                "reasoning_effort": ("none",),
                **_UNSUPPORTED,
            }
        )
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs: true", param="top_logprobs")

    def token_limit(self, room: int) -> int:
        """Tokens to generate: unless said otherwise, all that the context leaves."""
        return self.max_completion_tokens or self.max_tokens or max(room, 1)


_Kind = TypeVar("_Kind", bound=Body)


def parse(kind: type[_Kind], body: bytes) -> _Kind:
    """Read a body; raises ApiError 400 naming the first wrong field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise ApiError(400, f"the body is not JSON: {first['msg']}") from None
        path = ".".join(str(part) for part in first["loc"])
        param = str(first["loc"][0]) if first["loc"] else None
        raise ApiError(400, f"{path or 'body'}: {first['msg']}", param=param) from None
