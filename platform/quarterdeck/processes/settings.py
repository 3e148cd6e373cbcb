"""What processes read from their environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from quarterdeck.lifecycle.logs import LogBounds
from quarterdeck.lifecycle.uploads import KEEP_S
from quarterdeck.processes.home import Home, choose_home
from quarterdeck.specs.units import parse_duration, parse_memory

Bound = TypeVar("Bound", int, float)


@dataclass(frozen=True)
class Settings:
    """The installation that a process belongs to. Options may hold credentials: not in `repr`."""

    home: Home
    database_url: str = field(repr=False)
    artifacts_uri: str
    artifacts_options: dict[str, Any] = field(repr=False)
    log_bounds: LogBounds = field(default_factory=LogBounds)
    keep_uploads: float | None = KEEP_S
    """Seconds after the end of an upload's last job; None: for ever."""
    pools: Path | None = None
    """The file that lists Kubernetes' pools; None: there are none."""


def read_settings(environment: Mapping[str, str], start: Path, user_home: Path) -> Settings:
    """Settings from `QUARTERDECK_HOME`, `QUARTERDECK_DATABASE_URL`, `QUARTERDECK_ARTIFACTS`,
    `QUARTERDECK_ARTIFACTS_OPTIONS` (a JSON object), and for logs `QUARTERDECK_LOGS_KEEP` (a
    duration), `…_LOGS_BYTES`, `…_LOGS_PROJECT_BYTES`, `…_LOGS_JOB_BYTES` (sizes; `none` is no
    bound); `QUARTERDECK_UPLOADS_KEEP` (a duration or `none`); `QUARTERDECK_POOLS` (a file's path).
    Raises ValueError for wrong ones."""
    home = choose_home(environment, start, user_home)
    return Settings(
        home=home,
        database_url=environment.get("QUARTERDECK_DATABASE_URL") or home.database_url,
        artifacts_uri=environment.get("QUARTERDECK_ARTIFACTS") or home.artifacts_uri,
        artifacts_options=_options(environment.get("QUARTERDECK_ARTIFACTS_OPTIONS", "{}")),
        log_bounds=_log_bounds(environment),
        keep_uploads=_bound(environment, "UPLOADS_KEEP", parse_duration, KEEP_S),
        pools=Path(pools) if (pools := environment.get("QUARTERDECK_POOLS")) else None,
    )


def _log_bounds(environment: Mapping[str, str]) -> LogBounds:
    def read(name: str, parse: Callable[[object], Bound], default: Bound | None) -> Bound | None:
        return _bound(environment, f"LOGS_{name}", parse, default)

    usual = LogBounds()
    return LogBounds(
        seconds=read("KEEP", parse_duration, usual.seconds),
        total_bytes=read("BYTES", parse_memory, usual.total_bytes),
        project_bytes=read("PROJECT_BYTES", parse_memory, usual.project_bytes),
        owner_bytes=read("JOB_BYTES", parse_memory, usual.owner_bytes),
    )


def _bound(
    environment: Mapping[str, str], name: str, parse: Callable[[object], Bound],
    default: Bound | None,
) -> Bound | None:  # fmt: skip
    text = environment.get(f"QUARTERDECK_{name}")
    if not text:
        return default
    if text == "none":
        return None
    try:
        bound = parse(text)
    except ValueError as error:
        raise ValueError(f"QUARTERDECK_{name}: {error}; or write none") from error
    if bound <= 0:
        raise ValueError(f"QUARTERDECK_{name}: {text} is not above zero; or write none")
    return bound


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"QUARTERDECK_ARTIFACTS_OPTIONS is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise ValueError('QUARTERDECK_ARTIFACTS_OPTIONS must be an object, e.g. {"anon": true}')
    return options
