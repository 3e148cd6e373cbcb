"""The engine's HTTP surface: OpenAI's completions, models, health and metrics.

It answers 503 on everything that needs weights until they are there. Clients that leave cancel
their sequences.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from quarterdeck_workers.engine.interface import (
    Engine,
    EngineBusy,
    EngineError,
    SequenceRequest,
    Ticket,
    TokenEvent,
)
from quarterdeck_workers.engine.loading import FALLBACK_STOP, LoadedModel
from quarterdeck_workers.engine.metrics import EngineMetrics
from quarterdeck_workers.engine.openai_answers import DONE, Answer, sse
from quarterdeck_workers.engine.openai_requests import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    parse,
)

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
            raise _unavailable("the model is still loading", "model_loading", 2.0)
        if not self.engine.alive():
            raise _unavailable("the engine's loop does not answer", "engine_dead", 5.0)
        return self.engine, self.loaded


def create_app(host: EngineHost) -> Starlette:
    """The ASGI application over one host."""
    surface = _Surface(host)
    app = Starlette(
        routes=[
            Route("/v1/completions", surface.completions, methods=["POST"]),
            Route("/v1/chat/completions", surface.chat, methods=["POST"]),
            Route("/v1/models", surface.models, methods=["GET"]),
            Route("/v1/models/{name}", surface.model, methods=["GET"]),
            Route("/health", surface.health, methods=["GET"]),
            Route("/metrics", surface.metrics, methods=["GET"]),
        ]
    )
    app.add_exception_handler(ApiError, _on_error)
    app.add_exception_handler(404, _not_found)
    app.add_exception_handler(405, _not_found)
    return app


class _Surface:
    def __init__(self, host: EngineHost) -> None:
        self._host = host

    async def completions(self, request: Request) -> Response:
        body = parse(CompletionRequest, await _body(request))
        body.check()
        engine, loaded = self._check_model(body.model)
        prompts = [await self._tokens(loaded, prompt) for prompt in body.prompts()]
        if not prompts:
            raise ApiError(400, "prompt: an empty list asks for nothing", param="prompt")
        n = body.n or 1
        self._check_choices(len(prompts) * n)
        sequences = []
        for position, prompt in enumerate(prompts):
            limit = body.token_limit(engine.max_model_len - len(prompt))
            _check_length(prompt, limit, engine, "prompt")
            sampling = body.sampling(limit, body.logprobs)
            sequences += [
                SequenceRequest(position * n + copy, tuple(prompt), sampling) for copy in range(n)
            ]
        answer = Answer(
            self._host.model_name,
            sum(len(prompt) for prompt in prompts),
            len(sequences),
            loaded.token_text,
            chat=False,
            logprobs=body.logprobs is not None,
        )
        return await self._answer(request, engine, sequences, answer, body)

    async def chat(self, request: Request) -> Response:
        body = parse(ChatRequest, await _body(request))
        body.check()
        engine, loaded = self._check_model(body.model)
        messages = [message.plain() for message in body.messages]
        try:
            prompt = await asyncio.to_thread(loaded.encode_chat, messages)
        except ValueError as error:
            raise ApiError(400, f"messages: {error}", param="messages") from error
        n = body.n or 1
        self._check_choices(n)
        limit = body.token_limit(engine.max_model_len - len(prompt))
        _check_length(prompt, limit, engine, "messages")
        stops = () if loaded.has_chat_template else (FALLBACK_STOP,)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        sampling = body.sampling(limit, logprobs, stops)
        sequences = [SequenceRequest(index, tuple(prompt), sampling) for index in range(n)]
        answer = Answer(
            self._host.model_name,
            len(prompt),
            n,
            loaded.token_text,
            chat=True,
            logprobs=logprobs is not None,
        )
        return await self._answer(request, engine, sequences, answer, body)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return JSONResponse(self._card())

    async def health(self, request: Request) -> Response:
        self._host.ready()
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        return Response(
            self._host.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    def _card(self) -> dict[str, object]:
        card: dict[str, object] = {
            "id": self._host.model_name,
            "object": "model",
            "created": self._host.created,
            "owned_by": "quarterdeck",
        }
        if self._host.engine is not None:
            card["max_model_len"] = self._host.engine.max_model_len
        return card

    def _check_name(self, name: str) -> None:
        if name != self._host.model_name:
            raise ApiError(
                404,
                f"model {name[:200]!r} does not exist here: this engine serves "
                f"{self._host.model_name!r}",
                code="model_not_found",
                param="model",
            )

    def _check_model(self, name: str) -> tuple[Engine, LoadedModel]:
        self._check_name(name)
        return self._host.ready()

    def _check_choices(self, choices: int) -> None:
        if choices > self._host.max_choices:
            raise ApiError(
                400,
                f"n: {choices} sequences in one request (prompts × n); this engine takes at most "
                f"{self._host.max_choices}: send several requests",
                param="n",
            )

    async def _tokens(self, loaded: LoadedModel, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            if len(prompt) > _LONG_TEXT:
                tokens = await asyncio.to_thread(loaded.encode, prompt)
            else:
                tokens = loaded.encode(prompt)
            if not tokens and loaded.encoder.bos_token_id is not None:
                tokens = [int(loaded.encoder.bos_token_id)]
        else:
            tokens = prompt
            wrong = next((token for token in tokens if not 0 <= token < loaded.vocabulary), None)
            if wrong is not None:
                raise ApiError(
                    400,
                    f"prompt: {wrong} is no token id: ids are 0 to {loaded.vocabulary - 1}",
                    param="prompt",
                )
        if not tokens:
            raise ApiError(400, "prompt: is empty: give at least one token", param="prompt")
        return tokens

    async def _answer(
        self,
        request: Request,
        engine: Engine,
        sequences: list[SequenceRequest],
        answer: Answer,
        body: CompletionRequest | ChatRequest,
    ) -> Response:
        queue: asyncio.Queue[TokenEvent] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def sink(event: TokenEvent) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, event)

        try:
            ticket = engine.submit(sequences, sink)
        except EngineError as error:
            self._host.metrics.requests.labels("refused").inc()
            raise _refused(error) from error
        flight = _Flight(self._host, ticket)
        if body.stream:
            chunks = self._stream(flight, queue, answer, body.include_usage)
            return _EventStream(chunks, flight)
        try:
            await _until_gone(request, self._collect(queue, answer))
        except ClientDisconnect:
            return Response(status_code=499)
        else:
            flight.outcome = "completed"
            return JSONResponse(answer.whole())
        finally:
            flight.end()

    async def _collect(self, queue: asyncio.Queue[TokenEvent], answer: Answer) -> None:
        while not answer.complete:
            event = await queue.get()
            if event.finish_reason in ("error", "cancelled"):
                raise _failed(event)
            answer.add(event)

    async def _stream(
        self,
        flight: _Flight,
        queue: asyncio.Queue[TokenEvent],
        answer: Answer,
        include_usage: bool,
    ) -> AsyncIterator[bytes]:
        while not answer.complete:
            event = await queue.get()
            if event.finish_reason in ("error", "cancelled"):
                yield sse(_failed(event).body)
                return
            for chunk in answer.add(event):
                if include_usage:
                    chunk["usage"] = None
                yield sse(chunk)
        if include_usage:
            yield sse(answer.usage_chunk())
        flight.outcome = "completed"
        yield DONE


class _Flight:
    """Counts a request while it is answered; ending it twice is harmless."""

    def __init__(self, host: EngineHost, ticket: Ticket) -> None:
        self._host = host
        self._ticket = ticket
        self._ended = False
        self.outcome = "failed"
        host.in_flight += 1
        host.metrics.in_flight.inc()

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self.outcome != "completed":
            self._ticket.cancel()
        self._host.in_flight -= 1
        self._host.metrics.in_flight.dec()
        self._host.metrics.requests.labels(self.outcome).inc()


class _EventStream(StreamingResponse):
    """Ends its flight however the response ends, even when the client left before its start."""

    def __init__(self, chunks: AsyncIterator[bytes], flight: _Flight) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(chunks, media_type="text/event-stream", headers=headers)
        self._flight = flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._flight.end()


async def _until_gone(request: Request, work: Awaitable[None]) -> None:
    """Wait for `work`; raises ClientDisconnect as soon as the client has left."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())
    try:
        while True:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if leaving.result()["type"] == "http.disconnect":
                raise ClientDisconnect
            leaving = asyncio.ensure_future(request.receive())
    finally:
        working.cancel()
        leaving.cancel()


async def _body(request: Request) -> bytes:
    received = bytearray()
    async for piece in request.stream():
        received += piece
        if len(received) > MAX_BODY:
            raise ApiError(413, f"the body is larger than {MAX_BODY} bytes", code="body_too_large")
    return bytes(received)


def _check_length(prompt: list[int], wanted: int, engine: Engine, param: str) -> None:
    if len(prompt) + wanted > engine.max_model_len:
        raise ApiError(
            400,
            f"This model's maximum context length is {engine.max_model_len} tokens. However, you "
            f"requested {len(prompt) + wanted} tokens ({len(prompt)} in the {param}, {wanted} in "
            "the completion). Shorten the input or lower max_tokens.",
            code="context_length_exceeded",
            param=param,
        )


def _failed(event: TokenEvent) -> ApiError:
    if event.finish_reason == "cancelled":
        return _unavailable("the engine stopped while it was answering", "engine_stopped", 1.0)
    return ApiError(
        500, event.error or "generation failed", type_="server_error", code="generation_failed"
    )


def _refused(error: EngineError) -> ApiError:
    # 429 for load, 503 for a replica that is of no use: gateways rest only the latter.
    after = error.retry_after or 5.0
    if isinstance(error, EngineBusy):
        return ApiError(
            429, str(error), code="engine_overloaded", type_="server_error", retry_after=after
        )
    return _unavailable(str(error), "engine_unavailable", after)


def _unavailable(message: str, code: str, retry_after: float) -> ApiError:
    return ApiError(503, message, code=code, type_="server_error", retry_after=retry_after)


def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    return JSONResponse(error.body, status_code=error.status, headers=headers)


def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    wrong = ApiError(status, f"{request.method} {request.url.path} does not exist here")
    return JSONResponse(wrong.body, status_code=status)
