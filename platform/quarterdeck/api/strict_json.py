"""JSON that cannot be read in two ways, for every request body."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from quarterdeck.api.problems import ProblemError
from quarterdeck.specs.resources import FieldProblem
from quarterdeck.specs.suggestions import dotted

LARGEST = 2**63 - 1
DEEPEST = 64


class _Doubled(dict[str, Any]):
    """An object in which a field stands twice."""

    field: str = ""


def parse_json(body: bytes) -> Any:
    """Read UTF-8 JSON. Raises ProblemError `invalid_json` on doubled fields (with their path),
    numbers that are not finite or beyond 64 bits, NUL characters, lone surrogates and nesting
    deeper than 64 levels."""
    doubled = False

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal doubled
        built = dict(pairs)
        if len(built) == len(pairs):
            return built
        seen: set[str] = set()
        twice = _Doubled(built)
        twice.field = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        doubled = True
        return twice

    try:
        text = body.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=build, parse_constant=_constant, parse_int=_whole,
            parse_float=_real,
        )  # fmt: skip
    except UnicodeDecodeError as error:
        raise _refusal(f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _refusal(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise _refusal(f"nested deeper than {DEEPEST} levels") from error
    if doubled:
        path = next(_doubled_paths(value))
        message = "this field stands twice: keep one"
        raise ProblemError(
            "invalid_json", f"{path}: {message}", errors=[FieldProblem(path=path, message=message)]
        )
    if "\\u" in text or text.count("[") + text.count("{") > DEEPEST:
        _check_text_and_depth(value)
    return value


def _refusal(detail: str) -> ProblemError:
    return ProblemError("invalid_json", f"the body is refused: {detail}")


def _constant(name: str) -> float:
    raise _refusal(f"{name} is not a JSON number: leave the field out")


def _whole(text: str) -> int:
    if len(text) > len(str(LARGEST)) + 1 or abs(int(text)) > LARGEST:
        raise _refusal(f"{text[:24]}… is beyond 64 bits")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _refusal(f"{text[:24]} is beyond double precision")
    return value


def _doubled_paths(value: Any, location: tuple[str | int, ...] = ()) -> Iterator[str]:
    if isinstance(value, _Doubled):
        yield dotted((*location, value.field))
    for part, inner in _inside(value):
        yield from _doubled_paths(inner, (*location, part))


def _check_text_and_depth(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise _refusal(f"nested deeper than {DEEPEST} levels")
    if isinstance(value, str):
        _check_text(value)
    for part, inner in _inside(value):
        if isinstance(part, str):
            _check_text(part)
        _check_text_and_depth(inner, depth + 1)


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise _refusal("a text holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _refusal("a text holds half a surrogate pair")


def _inside(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


class StrictRequest(Request):
    """A request whose JSON body is read by `parse_json`."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route that reads bodies strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict
