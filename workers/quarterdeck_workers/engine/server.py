"""The engine's HTTP surface: OpenAI's routes, tokenization, health and metrics.

It answers 503 on everything that needs weights until they are there. Clients that leave cancel
their sequences.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from quarterdeck_workers.engine.answering import CLIENT_LEFT, answer, embed
from quarterdeck_workers.engine.api_errors import ApiError, too_long
from quarterdeck_workers.engine.host import (
    EngineHost,
    body_of,
    chat_tokens,
    check_ids,
    check_length,
    tokens_of,
)
from quarterdeck_workers.engine.interface import Embedder, SequenceRequest
from quarterdeck_workers.engine.loading import FALLBACK_STOP, LoadedModel
from quarterdeck_workers.engine.openai_answers import Answer
from quarterdeck_workers.engine.openai_embeddings import EmbeddingRequest, embeddings_answer
from quarterdeck_workers.engine.openai_requests import ChatRequest, CompletionRequest, parse
from quarterdeck_workers.engine.openai_responses import ResponseAnswer, ResponseRequest
from quarterdeck_workers.engine.tokenizing import DetokenizeRequest, TokenizeRequest


def create_app(host: EngineHost) -> Starlette:
    """The ASGI application over one host."""
    surface = _Surface(host)
    posts = {
        "/v1/completions": surface.completions,
        "/v1/chat/completions": surface.chat,
        "/v1/responses": surface.responses,
        "/v1/embeddings": surface.embeddings,
        "/tokenize": surface.tokenize,
        "/detokenize": surface.detokenize,
    }
    app = Starlette(
        routes=[
            *(Route(path, handler, methods=["POST"]) for path, handler in posts.items()),
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
        body = parse(CompletionRequest, await body_of(request))
        body.check()
        engine, loaded = self._host.of(body.model)
        given = body.prompts()
        if not given:
            raise ApiError(400, "prompt: an empty list asks for nothing", param="prompt")
        n = body.n or 1
        self._host.check_choices(len(given) * n)
        prompts = [await tokens_of(loaded, prompt, "prompt") for prompt in given]
        sequences = []
        for position, prompt in enumerate(prompts):
            limit = body.token_limit(engine.max_model_len - len(prompt))
            check_length(prompt, limit, engine, "prompt")
            sampling = body.sampling(limit, body.logprobs)
            sequences += [
                SequenceRequest(position * n + copy, tuple(prompt), sampling) for copy in range(n)
            ]
        writer = Answer(
            self._host.model_name,
            sum(len(prompt) for prompt in prompts),
            len(sequences),
            loaded.token_text,
            chat=False,
            logprobs=body.logprobs is not None,
            include_usage=body.include_usage,
            continuous_usage=body.continuous_usage,
        )
        return await answer(
            self._host, request, engine, sequences, writer, stream=bool(body.stream)
        )

    async def chat(self, request: Request) -> Response:
        body = parse(ChatRequest, await body_of(request))
        body.check()
        engine, loaded = self._host.of(body.model)
        messages = [message.plain() for message in body.messages]
        prompt = await chat_tokens(loaded, messages, "messages")
        n = body.n or 1
        self._host.check_choices(n)
        limit = body.token_limit(engine.max_model_len - len(prompt))
        check_length(prompt, limit, engine, "messages")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        sampling = body.sampling(limit, logprobs, _chat_stops(loaded))
        sequences = [SequenceRequest(index, tuple(prompt), sampling) for index in range(n)]
        writer = Answer(
            self._host.model_name,
            len(prompt),
            n,
            loaded.token_text,
            chat=True,
            logprobs=logprobs is not None,
            include_usage=body.include_usage,
            continuous_usage=body.continuous_usage,
        )
        return await answer(
            self._host, request, engine, sequences, writer, stream=bool(body.stream)
        )

    async def responses(self, request: Request) -> Response:
        body = parse(ResponseRequest, await body_of(request))
        body.check()
        engine, loaded = self._host.of(body.model)
        prompt = await chat_tokens(loaded, body.messages(), "input")
        limit = body.max_output_tokens or max(engine.max_model_len - len(prompt), 1)
        check_length(prompt, limit, engine, "input")
        sequence = SequenceRequest(0, tuple(prompt), body.sampling(limit, _chat_stops(loaded)))
        writer = ResponseAnswer(self._host.model_name, len(prompt), body)
        return await answer(
            self._host, request, engine, [sequence], writer, stream=bool(body.stream)
        )

    async def embeddings(self, request: Request) -> Response:
        body = parse(EmbeddingRequest, await body_of(request))
        body.check()
        engine, loaded = self._host.of(body.model)
        if not isinstance(engine, Embedder):
            raise ApiError(400, "this engine computes no embeddings", code="unsupported")
        body.check_dimensions(engine.embedding_width)
        prompts = [await tokens_of(loaded, prompt, "input") for prompt in body.prompts()]
        longest = max(len(prompt) for prompt in prompts)
        if longest > engine.max_model_len:
            raise too_long(longest, 0, engine.max_model_len, "input")
        body.check_total(sum(len(prompt) for prompt in prompts))
        vectors = await embed(self._host, request, engine, [tuple(prompt) for prompt in prompts])
        if vectors is None:
            return Response(status_code=CLIENT_LEFT)
        tokens = sum(len(prompt) for prompt in prompts)
        return JSONResponse(
            embeddings_answer(
                self._host.model_name, vectors, tokens, base64=body.encoding_format == "base64"
            )
        )

    async def tokenize(self, request: Request) -> Response:
        body = parse(TokenizeRequest, await body_of(request))
        body.check()
        engine, loaded = self._host.of(body.model or self._host.model_name)
        if body.messages is not None:
            tokens = await chat_tokens(
                loaded, [message.plain() for message in body.messages], "messages",
                add_generation_prompt=body.add_generation_prompt,
            )  # fmt: skip
        else:
            tokens = loaded.encode(body.prompt or "", special=body.add_special_tokens is not False)
        strings = [loaded.token_text(token) for token in tokens] if body.return_token_strs else None
        return JSONResponse(
            {
                "count": len(tokens),
                "max_model_len": engine.max_model_len,
                "tokens": tokens,
                "token_strs": strings,
            }
        )

    async def detokenize(self, request: Request) -> Response:
        body = parse(DetokenizeRequest, await body_of(request))
        _, loaded = self._host.of(body.model or self._host.model_name)
        check_ids(loaded, body.tokens, "tokens")
        return JSONResponse({"prompt": loaded.decode(body.tokens, special=True)})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        self._host.check_name(request.path_params["name"])
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


def _chat_stops(loaded: LoadedModel) -> tuple[str, ...]:
    return () if loaded.has_chat_template else (FALLBACK_STOP,)


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
