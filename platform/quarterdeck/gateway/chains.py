"""Carrying out a chain: its steps are requests to services like those of clients, one after the
other, with their own places, replicas and retries; the last one's answer goes to the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from quarterdeck.gateway import chain_texts as texts
from quarterdeck.gateway import explain
from quarterdeck.gateway.access_log import Outcome, Record, Step
from quarterdeck.gateway.asgi import Message, Send
from quarterdeck.gateway.bodies import BodyMemory, Held, dumps, loads, parsed_size
from quarterdeck.gateway.call import Call
from quarterdeck.gateway.directory import Directory
from quarterdeck.gateway.errors import ApiError, timed_out, unavailable
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.gateway.route_request import engine_model
from quarterdeck.specs.gateway_snapshot import RouteStep, ServiceRoute

STEP_FAILED = "chain_step_failed"
GUARD_FAILED = "guard_failed"
REFUSED = "content_filter"
"""The code by which OpenAI's clients know a refused prompt."""
_LARGEST_ANSWER = 4 * 2**20
_WORDS = 200
"""Characters of a step's own error that are passed on."""
_CHAT_HEADERS = (b"content-type", b"accept")

Serve = Callable[[Directory, ServiceRoute, Call, Send], Awaitable[int]]


@dataclass
class _Way:
    """One request's way through a chain. `until` is on the loop's clock."""

    directory: Directory
    chain: ServiceRoute
    call: Call
    send: Send
    question: texts.Question
    until: float
    held: Held
    documents: list[texts.Document] = field(default_factory=list)


class Chains:
    """Answers for chains. `serve` answers a call for a service; `overdue` is told of a replica
    that a step gave up."""

    def __init__(
        self,
        serve: Serve,
        overdue: Callable[[str], None],
        metrics: GatewayMetrics,
        bodies: BodyMemory,
        one_large: asyncio.Lock,
    ) -> None:
        self._serve = serve
        self._overdue = overdue
        self._metrics = metrics
        self._bodies = bodies
        self._one_large = one_large

    async def serve(self, directory: Directory, chain: ServiceRoute, call: Call, send: Send) -> int:
        """Answer a call for a chain; the status sent. Raises ApiError while nothing was sent yet,
        ClientGone."""
        if call.path not in texts.PATHS:
            raise ApiError(
                400,
                f"service {chain.name!r} is a chain, which answers {', '.join(texts.PATHS)}: for "
                f"{call.path} ask one of its services",
                param="model",
            )
        question = texts.question_of(call.path, call.asked)
        with self._bodies.hold() as held:
            until = call.began + chain.total
            return await self._go(_Way(directory, chain, call, send, question, until, held))

    async def _go(self, way: _Way) -> int:
        chain = way.chain
        for number, route_step in enumerate(chain.chain, 1):
            step = self._begin(way, route_step)
            began = asyncio.get_running_loop().time()
            try:
                if route_step.role == "model":
                    return await self._answer(way, route_step, step)
                step.outcome = await self._work(way, route_step, step)
            except (ApiError, texts.Unreadable, TimeoutError) as error:
                failure = _failure(error, route_step)
                step.record.error = step.record.error or str(failure)
                if step.record.status < 400 or step.record.status == _LEFT:
                    step.record.status = failure.status
                skips = route_step.on_failure == "skip" and route_step.role in _MAY_SKIP
                step.outcome = "skipped" if skips else "failed"
                if failure.status == 400:  # the client's own: nothing here makes such a status
                    raise
                if not skips:
                    raise _naming(failure, number, route_step, chain) from error
            finally:
                step.record.seconds = asyncio.get_running_loop().time() - began
                self._metrics.stepped(chain.project, chain.name, step)
            if step.outcome == "refused":
                raise _refusal(number, route_step)
        raise unavailable(f"chain {chain.name!r} has no model", STEP_FAILED)

    def _begin(self, way: _Way, route_step: RouteStep) -> Step:
        whole = way.call.record
        record = Record(
            whole.request_id, whole.path, key=whole.key, project=whole.project,
            service=route_step.service, model=route_step.service, priority=whole.priority,
            trace_id=whole.trace_id,
        )  # fmt: skip
        step = Step(route_step.role, route_step.service, record)
        whole.steps = (*whole.steps, step)
        return step

    async def _work(self, way: _Way, route_step: RouteStep, step: Step) -> Outcome:
        """A step before the last one. Raises ApiError, Unreadable, TimeoutError."""
        question = way.question
        if route_step.role == "guard":
            body = texts.guard_body(route_step, question)
            said = await self._ask(way, route_step, step, texts.CHAT, body)
            return "refused" if texts.refuses(route_step, said) else "passed"
        if route_step.role == "retriever":
            body = texts.search_body(route_step, question)
            path = texts.search_path(route_step)
            new = texts.found(route_step, await self._ask(way, route_step, step, path, body))
            way.held.grow(sum(len(document.text) for document in new), complete=True)
            step.documents = len(new)
            way.documents += new
            return "answered"
        if route_step.role == "reranker":
            if way.documents:
                body = texts.rerank_body(route_step, question, way.documents)
                said = await self._ask(way, route_step, step, texts.RERANK, body)
                way.documents = texts.reranked(route_step, said, way.documents)
            step.documents = len(way.documents)
            return "answered"
        # Not to be skipped: it could be a newer kind of guard.
        raise unavailable(f"this gateway knows no {route_step.role!r}: upgrade it", STEP_FAILED)

    async def _ask(
        self, way: _Way, route_step: RouteStep, step: Step, path: str, body: Mapping[str, Any]
    ) -> Any:
        """The whole answer of a step's service, as JSON."""
        loop = asyncio.get_running_loop()
        now, record = loop.time(), step.record
        call = Call(
            path=path,
            headers=_headers_for_step(way.call),
            body=dumps(body),
            stream=False,
            record=record,
            began=now,
            traceparent=way.call.traceparent,
            asked=body,
            explain=way.call.explain,
            inner=True,
        )
        route = _service(way, route_step)
        try:
            async with asyncio.timeout_at(min(now + route_step.timeout, way.until)):
                with self._bodies.hold() as held:
                    answer = _Collected(held)
                    record.status = await self._serve(way.directory, route, call, answer.send)
                    return await answer.content(self._one_large)
        except TimeoutError:
            if record.replica and record.first_byte is None:
                self._overdue(record.replica)
            raise
        finally:
            way.call.record.waited += record.waited

    async def _answer(self, way: _Way, route_step: RouteStep, step: Step) -> int:
        """The last step, whose answer is passed on as it is."""
        call, record, whole = way.call, step.record, way.call.record
        route = _service(way, route_step)
        asked = texts.with_documents(call.path, call.asked, route_step, way.documents)
        asked["model"] = engine_model(route, dict(call.headers))
        step.documents = len(way.documents) or None
        record.stream = call.stream
        loop = asyncio.get_running_loop()
        body = dumps(asked)
        way.held.grow(len(body), complete=True)
        last = replace(
            call, body=body, asked=asked, record=record, began=loop.time(),
            until=way.until, inner=True, direct=None if call.explain else call.direct,
        )  # fmt: skip
        try:
            status = await self._serve(way.directory, route, last, _explaining(way, step))
            record.status, step.outcome = status, "answered" if status < 400 else "failed"
            whole.error = record.error
            return status
        finally:
            _take_over(whole, record, last.began - call.began)


_LEFT = Record("", "").status
_MAY_SKIP = frozenset({"retriever", "reranker"})


class _Collected:
    """An answer that is read here instead of being sent on."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._status = 0
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        """Takes the pieces. Raises ApiError for an answer that is too large."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            return
        piece = message.get("body", b"")
        self._held.grow(len(piece), complete=True)
        self._body += piece
        if len(self._body) > _LARGEST_ANSWER:
            raise ApiError(
                502, f"its answer is larger than {_LARGEST_ANSWER} bytes: let it find less",
                code="answer_too_large", type_="server_error",
            )  # fmt: skip

    async def content(self, one_large: asyncio.Lock) -> Any:
        """The JSON of an answer of 200. Raises ApiError, Unreadable."""
        body = bytes(self._body)
        self._held.grow(parsed_size(body), complete=True)
        try:
            content = await loads(body, one_large)
        except (ValueError, RecursionError):
            content = None
        if self._status != 200:
            message = _message_of(content)
            words = f"answered {self._status}" + (f": {message}" if message else "")
            if self._status in (429, 503):
                raise unavailable(words, STEP_FAILED, 2)
            raise ApiError(502, words, code=STEP_FAILED, type_="server_error")
        if content is None:
            raise texts.Unreadable("answered what is no JSON")
        return content


def _message_of(content: Any) -> str:
    """Of an error in OpenAI's shape."""
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message[:_WORDS] if isinstance(message, str) else ""


def _service(way: _Way, route_step: RouteStep) -> ServiceRoute:
    found = way.directory.sibling(way.chain, route_step.service)
    if found is None:
        raise unavailable("there is no such service", STEP_FAILED, 2)
    if found.chain:
        raise unavailable("it is a chain itself", STEP_FAILED, 2)
    return found


def _headers_for_step(call: Call) -> list[tuple[bytes, bytes]]:
    """The client's, for routing by session; the body is JSON of our own."""
    rest = [each for each in call.headers if each[0] not in _CHAT_HEADERS]
    return [*rest, (b"content-type", b"application/json"), (b"accept", b"application/json")]


def _explaining(way: _Way, step: Step) -> Send:
    """`send`, with the whole chain in the header of `?explain=1`."""
    if not way.call.explain:
        return way.send

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            step.outcome = "answered" if message["status"] < 400 else "failed"
            step.record.status = message["status"]
            told = explain.told_chain(way.chain.name, way.call.record.steps)
            headers = [each for each in message["headers"] if each[0] != explain.HEADER]
            message["headers"] = [*headers, (explain.HEADER, told)]
        await way.send(message)

    return send


def _take_over(whole: Record, last: Record, before: float) -> None:
    """What the chain's own record says of its answer; `before`: seconds before the last step."""
    whole.tokens_in, whole.tokens_out = last.tokens_in, last.tokens_out
    whole.tokens_cached, whole.tries = last.tokens_cached, last.tries
    whole.waited += last.waited
    if last.first_byte is not None:
        whole.first_byte = before + last.first_byte


def _failure(error: Exception, route_step: RouteStep) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TimeoutError):
        return timed_out(f"no answer within {route_step.timeout:g} s")
    return ApiError(502, str(error), code=STEP_FAILED, type_="server_error")


def _naming(error: ApiError, number: int, route_step: RouteStep, chain: ServiceRoute) -> ApiError:
    """The same error, saying which step it is. Where a guard could not judge, nobody else may
    answer: its code is one after which no fallback is asked."""
    told = error.content["error"]
    code = error.code
    if route_step.role == "guard":
        code = GUARD_FAILED
    elif code == "answer_too_large":
        code = STEP_FAILED
    return ApiError(
        error.status if error.status in (429, 503, 504) else 502,
        f"step {number} ({route_step.role}) of chain {chain.name!r}, service "
        f"{route_step.service!r}: {error}",
        code=code,
        param=told["param"],
        type_="server_error",
        retry_after=error.retry_after,
    )


def _refusal(number: int, route_step: RouteStep) -> ApiError:
    return ApiError(
        400,
        f"the request was refused by step {number} (guard), service {route_step.service!r}: say "
        "it in another way",
        code=REFUSED,
    )
