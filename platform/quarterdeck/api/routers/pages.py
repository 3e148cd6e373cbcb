"""What stands outside /api: health, metrics, the page of each problem, and the plain front page."""

from __future__ import annotations

from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

import quarterdeck
from quarterdeck.api.problem_catalogue import CATALOGUE
from quarterdeck.api.problems import ProblemError, documented
from quarterdeck.api.state import State
from quarterdeck.store.failures import UNAVAILABLE
from quarterdeck.store.readiness import Unready, check_ready

router = APIRouter(tags=["pages"])
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}"
    "code{background:#eee;padding:.1em .3em}"
)
ProblemName = Annotated[str, Path(pattern=r"^[a-z_]{1,64}$")]


class Health(BaseModel):
    """Whether it is well; `detail` says what is not."""

    status: str
    detail: str = ""


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{body}</html>",
        status,
    )


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
def front_page() -> Any:
    """A plain page until the dashboard comes."""
    return _page(
        "Quarterdeck",
        f"<p>Version {escape(quarterdeck.__version__)}. This is the control plane of language "
        "model jobs and services.</p><ul>"
        '<li><a href="/openapi.json">The API</a>, under <code>/api/v1</code></li>'
        '<li><a href="/readyz">Readiness</a> and <a href="/metrics">metrics</a></li>'
        '<li><a href="/problems">What each error means</a></li></ul>'
        "<p>Look around with <code>quarterdeck jobs</code>, "
        "<code>quarterdeck services</code> and <code>quarterdeck nodes</code>.</p>",
    )


@router.get("/healthz", response_model=Health)
def healthz() -> Any:
    """Alive."""
    return Health(status="alive")


@router.get(
    "/readyz",
    response_model=Health,
    responses={503: {"model": Health, "description": "Not ready"}},
)
def readyz(state: State, response: Response) -> Any:
    """Ready: the database answers and has the schema of this version, or a newer one."""
    try:
        check_ready(state.database)
    except Unready as error:
        response.status_code = 503
        return Health(status="not ready", detail=str(error))
    except UNAVAILABLE:
        response.status_code = 503
        return Health(status="not ready", detail="the database does not answer")
    return Health(status="ready")


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(state: State) -> Any:
    """Metrics for Prometheus."""
    text = state.monitoring.render(state.database, state.news.admitted)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.get("/problems", response_class=HTMLResponse, include_in_schema=False)
def problem_list() -> Any:
    """Every problem that the api answers with."""
    rows = "".join(
        f'<li><a href="/problems/{kind.name}">{kind.status} {kind.name}</a>: '
        f"{escape(kind.title)}</li>"
        for kind in CATALOGUE.values()
    )
    return _page("Problems", f"<ul>{rows}</ul>")


@router.get(
    "/problems/{name}",
    response_class=HTMLResponse,
    responses=documented("not_found"),
)
def problem_page(name: ProblemName) -> Any:
    """What one problem means and what to do about it."""
    kind = CATALOGUE.get(name)
    if kind is None:
        raise ProblemError("not_found", f"problem {name!r} does not exist: see /problems")
    return _page(
        kind.title,
        f"<p><code>{kind.status}</code> <code>/problems/{kind.name}</code></p>"
        f"<p>{escape(kind.remedy)}</p>"
        '<p><a href="/problems">All problems</a></p>',
    )
