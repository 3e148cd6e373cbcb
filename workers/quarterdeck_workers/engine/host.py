"""What the HTTP surface serves, and the parts of requests that all its routes read alike."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from starlette.requests import Request

from quarterdeck_workers.engine.api_errors import ApiError, too_long, unavailable
from quarterdeck_workers.engine.interface import Engine
from quarterdeck_workers.engine.loading import LoadedModel
from quarterdeck_workers.engine.metrics import EngineMetrics

MAX_BODY = 8 * 2**20
_LONG_TEXT = 20_000


@dataclass
class EngineHost:
    """What the surface serves: filled once the weights are loaded."""

    model_name: str
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    max_choices: int = 64
    """Sequences of one request (prompts × n): at most what the waiting queue holds."""
    engine: Engine | None = None
    loaded: LoadedModel | None = None
    in_flight: int = 0
    created: int = field(default_factory=lambda: int(time.time()))

    def ready(self) -> tuple[Engine, LoadedModel]:
        """Engine and model; raises ApiError 503 while they load or when the loop is dead."""
        if self.engine is None or self.loaded is None:
            raise unavailable("the model is still loading", "model_loading", 2.0)
        if not self.engine.alive():
            raise unavailable("the engine's loop does not answer", "engine_dead", 5.0)
        return self.engine, self.loaded

    def check_name(self, name: str) -> None:
        """Raises ApiError 404 for a model that is not this engine's."""
        if name != self.model_name:
            raise ApiError(
                404,
                f"model {name[:200]!r} does not exist here: this engine serves {self.model_name!r}",
                code="model_not_found",
                param="model",
            )

    def of(self, name: str) -> tuple[Engine, LoadedModel]:
        """Engine and model for a request that names `name`."""
        self.check_name(name)
        return self.ready()

    def check_choices(self, choices: int) -> None:
        """Raises ApiError 400 for more sequences than one request may ask for."""
        if choices > self.max_choices:
            raise ApiError(
                400,
                f"n: {choices} sequences in one request (prompts × n); this engine takes at most "
                f"{self.max_choices}: send several requests",
                param="n",
            )


async def body_of(request: Request) -> bytes:
    """The request's body; raises ApiError 413 beyond MAX_BODY bytes."""
    received = bytearray()
    async for piece in request.stream():
        received += piece
        if len(received) > MAX_BODY:
            raise ApiError(413, f"the body is larger than {MAX_BODY} bytes", code="body_too_large")
    return bytes(received)


async def tokens_of(loaded: LoadedModel, prompt: str | list[int], param: str) -> list[int]:
    """Token ids of a prompt (never none); raises ApiError 400 naming what is wrong with it."""
    if isinstance(prompt, str):
        if len(prompt) > _LONG_TEXT:
            tokens = await asyncio.to_thread(loaded.encode, prompt)
        else:
            tokens = loaded.encode(prompt)
        if not tokens and loaded.encoder.bos_token_id is not None:
            tokens = [int(loaded.encoder.bos_token_id)]
    else:
        tokens = prompt
        check_ids(loaded, tokens, param)
    if not tokens:
        raise ApiError(400, f"{param}: is empty: give at least one token", param=param)
    return tokens


def check_ids(loaded: LoadedModel, tokens: list[int], param: str) -> None:
    """Raises ApiError 400 for what is no token id of the model."""
    wrong = next((token for token in tokens if not 0 <= token < loaded.vocabulary), None)
    if wrong is not None:
        raise ApiError(
            400,
            f"{param}: {wrong} is no token id: ids are 0 to {loaded.vocabulary - 1}",
            param=param,
        )


async def chat_tokens(
    loaded: LoadedModel,
    messages: list[dict[str, str]],
    param: str,
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Token ids of a conversation; raises ApiError 400 where the model's template refuses it."""
    try:
        return await asyncio.to_thread(
            loaded.encode_chat, messages, add_generation_prompt=add_generation_prompt
        )
    except ValueError as error:
        raise ApiError(400, f"{param}: {error}", param=param) from error


def check_length(prompt: list[int], wanted: int, engine: Engine, param: str) -> None:
    """Raises ApiError 400 where prompt and completion exceed the context."""
    if len(prompt) + wanted > engine.max_model_len:
        raise too_long(len(prompt), wanted, engine.max_model_len, param)
