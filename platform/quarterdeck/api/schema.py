"""The OpenAPI description: FastAPI's, with problems as the only errors and every document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from quarterdeck.specs.kinds import DOCUMENT
from quarterdeck.specs.resources import Problem

_REF = "#/components/schemas/{model}"


def install_schema(app: FastAPI) -> None:
    """Describe the app at /openapi.json."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    description=app.description,
                    routes=app.routes,
                )
            )
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _complete(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema["components"]["schemas"]
    for model in (Problem.model_json_schema(ref_template=_REF), _documents()):
        components.update(model.pop("$defs", {}))
        components[model["title"]] = model
    for unused in ("HTTPValidationError", "ValidationError"):
        components.pop(unused, None)
    schema["components"]["schemas"] = dict(sorted(components.items()))
    return schema


def _documents() -> dict[str, Any]:
    model = DOCUMENT.json_schema(ref_template=_REF)
    return {"title": "Document", "description": "What people write, by kind.", **model}
