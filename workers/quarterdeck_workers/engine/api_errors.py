"""OpenAI's errors, and what an engine's refusals become on its HTTP surface."""

from __future__ import annotations

from quarterdeck_workers.engine.interface import EngineBusy, EngineError, TokenEvent


class ApiError(Exception):
    """Answers `{"error": {message, type, param, code}}` with a status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type_: str = "invalid_request_error",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.body = {"error": {"message": message, "type": type_, "param": param, "code": code}}


def unavailable(message: str, code: str, retry_after: float) -> ApiError:
    """503: this replica is of no use now; `retry_after` is seconds."""
    return ApiError(503, message, code=code, type_="server_error", retry_after=retry_after)


def refused(error: EngineError) -> ApiError:
    """429 for load, 503 for a replica that is of no use: gateways rest only the latter."""
    after = error.retry_after or 5.0
    if isinstance(error, EngineBusy):
        return ApiError(
            429, str(error), code="engine_overloaded", type_="server_error", retry_after=after
        )
    return unavailable(str(error), "engine_unavailable", after)


def failed(event: TokenEvent) -> ApiError:
    """What a sequence that ended with `error` or `cancelled` answers."""
    if event.finish_reason == "cancelled":
        return unavailable("the engine stopped while it was answering", "engine_stopped", 1.0)
    return ApiError(
        500, event.error or "generation failed", type_="server_error", code="generation_failed"
    )


def too_long(tokens: int, wanted: int, longest: int, param: str) -> ApiError:
    """400 naming both lengths; `wanted` is what was to be generated, all in tokens."""
    return ApiError(
        400,
        f"This model's maximum context length is {longest} tokens. However, you "
        f"requested {tokens + wanted} tokens ({tokens} in the {param}, {wanted} in "
        "the completion). Shorten the input or lower max_tokens.",
        code="context_length_exceeded",
        param=param,
    )
