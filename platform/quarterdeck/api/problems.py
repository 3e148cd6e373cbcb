"""Answers that say what went wrong: RFC 9457 problems, and the handlers that make them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import compile_path

from quarterdeck.api.problem_catalogue import CATALOGUE
from quarterdeck.api.vault import WrongMasterKeyError
from quarterdeck.specs.resources import FieldProblem, Problem
from quarterdeck.specs.suggestions import dotted
from quarterdeck.store import errors, failures
from quarterdeck.store.paging import BadCursor

MEDIA_TYPE = "application/problem+json"
EVERYWHERE = ("invalid_json", "invalid_parameter", "body_too_slow", "body_too_large",
              "internal_error", "database_unavailable", "request_too_slow")  # fmt: skip
"""What any operation may answer, through the middlewares and handlers."""
_log = logging.getLogger(__name__)


class ProblemError(HTTPException):
    """Ends a request with the problem called `name`; `detail` names value and remedy."""

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        errors: Iterable[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        kind = CATALOGUE[name]
        super().__init__(kind.status, detail, dict(headers) if headers else None)
        self.problem = Problem(
            type=f"/problems/{name}",
            title=kind.title,
            status=kind.status,
            detail=detail,
            errors=list(errors),
        )

    @property
    def name(self) -> str:
        """The catalogue's name of this problem."""
        return self.problem.type.rsplit("/", 1)[-1]


def problem_response(
    error: ProblemError, path: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer for `error`; `path` is the request's, given back as `instance`."""
    problem = error.problem.model_copy(update={"instance": path})
    return JSONResponse(
        problem.model_dump(mode="json", exclude_none=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers={**(error.headers or {}), **(headers or {})},
    )


def headers_problem(status: int, message: str) -> tuple[str, bytes]:
    """Content type and body for a connection whose headers are refused before there is a request:
    408 too slow, 431 too large."""
    name = {408: "headers_too_slow", 431: "headers_too_large"}[status]
    problem = ProblemError(name, message).problem
    return MEDIA_TYPE, problem.model_dump_json(exclude_none=True).encode()


def documented(*names: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these problems beside those that every operation may answer."""
    by_status: dict[int, list[str]] = {}
    for name in (*names, *EVERYWHERE):
        known = by_status.setdefault(CATALOGUE[name].status, [])
        if name not in known:
            known.append(name)
    return {
        status: {
            "description": "; ".join(CATALOGUE[name].title for name in found),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, found in sorted(by_status.items())
    }


def install_handlers(app: FastAPI) -> None:
    """Answer every exception that is known with a problem; see middleware.CatchFailures."""
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(errors.StoreError, _store_error)
    app.add_exception_handler(WrongMasterKeyError, _wrong_master_key)
    for refused in (*failures.REFUSED, OverflowError):
        app.add_exception_handler(refused, _refused)
    for unavailable in failures.UNAVAILABLE:
        app.add_exception_handler(unavailable, _unavailable)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    if isinstance(error, ProblemError):
        return problem_response(error, request.url.path)
    name, detail = {
        404: ("unknown_route", f"{request.method} {request.url.path} is not an address here"),
        405: ("method_not_allowed", f"{request.url.path} does not answer {request.method}"),
    }.get(error.status_code, ("invalid_request", str(error.detail)))
    headers = dict(error.headers or {})
    if name == "method_not_allowed":
        headers["Allow"] = _methods(request)
    return problem_response(ProblemError(name, detail), request.url.path, headers)


def _methods(request: Request) -> str:
    """Every method of the address: the router itself names those of one route only."""
    found: set[str] = set()
    for template, operations in request.app.openapi()["paths"].items():
        if compile_path(template)[0].match(request.url.path):
            found.update(method.upper() for method in operations)
    return ", ".join(sorted(found)) or "GET"


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [_field(detail) for detail in error.errors()]
    in_body = any(detail["loc"][:1] == ("body",) for detail in error.errors())
    text = "; ".join(f"{item.path}: {item.message}" for item in errors[:3])
    name = "invalid_document" if in_body else "invalid_parameter"
    return problem_response(ProblemError(name, text, errors=errors), request.url.path)


def _field(detail: Mapping[str, Any]) -> FieldProblem:
    location = list(detail["loc"])
    if location and location[0] == "body":
        location = location[1:] or ["body"]
    text = str(detail["msg"]).removeprefix("Value error, ")
    return FieldProblem(path=dotted(location), message=f"{text[:1].lower()}{text[1:]}")


_OF_STORE: Mapping[type[errors.StoreError], str] = {
    errors.NotFound: "not_found",
    errors.StaleEpoch: "stale_epoch",
    errors.AlreadyClaimed: "already_claimed",
    errors.AgentSuperseded: "superseded_agent",
    errors.NodeAlive: "node_alive",
    errors.WarmingsFull: "warmings_full",
    BadCursor: "invalid_parameter",
}


async def _store_error(request: Request, error: Exception) -> Response:
    name = next((_OF_STORE[kind] for kind in _OF_STORE if isinstance(error, kind)), None)
    if name is None:
        return crash_response(request.state.request_id, request.url.path, error)
    return problem_response(ProblemError(name, str(error)), request.url.path)


async def _wrong_master_key(request: Request, error: Exception) -> Response:
    _log.error("%s: %s", request.url.path, error)
    return problem_response(ProblemError("wrong_master_key", str(error)), request.url.path)


async def _refused(request: Request, error: Exception) -> Response:
    _log.info("the database refused a value of %s: %s", request.url.path, type(error).__name__)
    return problem_response(
        ProblemError("out_of_range", "a number or text of the request cannot be stored"),
        request.url.path,
    )


async def _unavailable(request: Request, error: Exception) -> Response:
    _log.warning("the database does not answer: %s", type(error).__name__)
    return problem_response(
        ProblemError(
            "database_unavailable",
            "the database does not answer: repeat the request",
            headers={"Retry-After": "1"},
        ),
        request.url.path,
    )


def crash_response(identity: str, path: str, error: Exception) -> Response:
    """The answer to a failure of ours, which is logged; it names the request and no cause."""
    _log.error("request %s %s failed", identity, path, exc_info=error)
    return problem_response(
        ProblemError("internal_error", f"the request {identity} failed: see the api's log"), path
    )
