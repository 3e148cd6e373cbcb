"""What to tell somebody whose document is wrong: the field's path, and what they may have meant.

The api answers with these sentences and the CLI prints them before it sends anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from quarterdeck.specs.batch import BatchSpec
from quarterdeck.specs.kinds import (
    DOCUMENT,
    KINDS,
    AnyJob,
    CommandSpec,
    DatasetSpec,
    DataSpec,
    EvaluateSpec,
    PretrainSpec,
    ServiceSpec,
    TokenizerSpec,
)
from quarterdeck.specs.resources import FieldProblem

MODELS: Mapping[str, type[BaseModel]] = {
    "dataset": DatasetSpec,
    "tokenizer": TokenizerSpec,
    "data": DataSpec,
    "pretrain": PretrainSpec,
    "evaluate": EvaluateSpec,
    "batch": BatchSpec,
    "command": CommandSpec,
    "service": ServiceSpec,
}
RESERVED: Mapping[str, str] = {
    "accelerator_share": "only replicas of a service share an accelerator: write it into the "
    "`resources` of a service, leave it out everywhere else",
}
"""Fields that are not, or not here, with what to write instead."""
_BRANCHES = frozenset({"int", "float", "str", "bool", "Architecture", "Parallelism"})
_WHOLE_VALUE = frozenset({"literal_error", "model_type"})
"""Errors that refuse a value as a whole, whatever is inside."""
_LONGEST_ECHO = 60


class DocumentError(ValueError):
    """A document is wrong; `errors` names every wrong field."""

    def __init__(self, errors: list[FieldProblem]) -> None:
        super().__init__("; ".join(f"{error.path}: {error.message}" for error in errors))
        self.errors = errors


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'tokens'?` for a word near one of `known`, otherwise what is known."""
    names = list(known)
    near = get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(sorted(names))}" if names else "none is known"


def parse_document(data: object, path: str) -> AnyJob | ServiceSpec:
    """Read one document. `path` is where it stands, e.g. `documents[1]`, or empty.

    Raises DocumentError with the path of every wrong field.
    """
    if not isinstance(data, Mapping):
        raise DocumentError([_problem(path, f"{_echo(data)} is not a document: write fields")])
    kind = data.get("kind")
    if kind is None:
        message = f"kind is missing: write one of {', '.join(KINDS)}"
        raise DocumentError([_problem(_join(path, "kind"), message)])
    if not isinstance(kind, str) or kind not in MODELS:
        message = f"{_echo(kind)} is not a kind: {did_you_mean(str(kind), KINDS)}"
        raise DocumentError([_problem(_join(path, "kind"), message)])
    try:
        return DOCUMENT.validate_python(data)
    except ValidationError as error:
        raise DocumentError(field_problems(error, MODELS[kind], path, skip=1)) from error


def field_problems(
    error: ValidationError, model: type[BaseModel] | None, path: str, *, skip: int = 0
) -> list[FieldProblem]:
    """Say each wrong field with its path below `path`; the first `skip` parts are not fields.

    Where a value was read as one branch of a union (a layout) and is wrong further inside, nothing
    is said of the branches that it could not be either (`auto`).
    """
    found: list[FieldProblem] = []
    details = error.errors(include_url=False)
    locations = [
        [part for part in detail["loc"][skip:] if not _is_branch(part)] for detail in details
    ]
    for detail, location in zip(details, locations, strict=True):
        if detail["type"] in _WHOLE_VALUE and any(
            _is_inside(other, location) for other in locations
        ):
            continue
        message = _message(detail, location, model)
        problem = _problem(dotted(location, path), message)
        if problem not in found:
            found.append(problem)
    return found


def dotted(location: Iterable[str | int], path: str = "") -> str:
    """`documents[1].training.tokens` from its parts."""
    for part in location:
        path = f"{path}[{part}]" if isinstance(part, int) else _join(path, part)
    return path


def _message(detail: ErrorDetails, location: list[str | int], model: type[BaseModel] | None) -> str:
    if detail["type"] == "extra_forbidden" and location:
        if location[-1] in RESERVED:
            return RESERVED[str(location[-1])]
        known = list(_fields(model, location[:-1]))
        return f"{location[-1]!r} is not a field here: {did_you_mean(str(location[-1]), known)}"
    if detail["type"] == "missing":
        return "this field is required"
    text = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return text
    return f"{_echo(detail['input'])}: {text[:1].lower()}{text[1:]}"


def _fields(model: type[BaseModel] | None, location: list[str | int]) -> Iterator[str]:
    """The names of the fields of the models that stand at `location`."""
    models = [model] if model is not None else []
    for part in location:
        if isinstance(part, int):
            continue
        inner = [
            found
            for parent in models
            if part in parent.model_fields
            for found in _models_of(parent.model_fields[part].annotation)
        ]
        models = inner or models  # a name that people chose stands before the fields
    for found in models:
        yield from found.model_fields


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model inside an annotation: through unions, lists and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    origin = get_origin(annotation)
    if origin in (Annotated, Union, UnionType, list, tuple, dict):
        for inner in get_args(annotation):
            yield from _models_of(inner)


def _is_inside(inner: list[str | int], outer: list[str | int]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _is_branch(part: str | int) -> bool:
    """Whether pydantic put the name of a union's branch there, which nobody wrote."""
    return isinstance(part, str) and (part in _BRANCHES or "[" in part)


def _problem(path: str, message: str) -> FieldProblem:
    return FieldProblem(path=path, message=message)


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _echo(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_ECHO else f"{text[:_LONGEST_ECHO]}…"
