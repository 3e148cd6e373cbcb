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
_OTHERS = 0o007


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
    `…_DATABASE_URL_FILE` and `…_ARTIFACTS_OPTIONS_FILE` name files with these values, which hold
    passwords. Raises ValueError for wrong ones; what it says holds no value of a file."""
    home = choose_home(environment, start, user_home)
    return Settings(
        home=home,
        database_url=private_value(environment, "QUARTERDECK_DATABASE_URL") or home.database_url,
        artifacts_uri=environment.get("QUARTERDECK_ARTIFACTS") or home.artifacts_uri,
        artifacts_options=_options(
            private_value(environment, "QUARTERDECK_ARTIFACTS_OPTIONS") or "{}"
        ),
        log_bounds=_log_bounds(environment),
        keep_uploads=_bound(environment, "UPLOADS_KEEP", parse_duration, KEEP_S),
        pools=Path(pools) if (pools := environment.get("QUARTERDECK_POOLS")) else None,
    )


def private_value(environment: Mapping[str, str], name: str) -> str | None:
    """A value that may hold a password: of the variable, or of the file that NAME_FILE names."""
    value, named = environment.get(name), environment.get(f"{name}_FILE")
    if not named:
        return value
    if value:
        raise ValueError(f"{name} and {name}_FILE are both set: unset one of them")
    file = Path(named)
    try:
        mode = file.stat().st_mode & 0o777
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"{name}_FILE: cannot read {file}: {reason}") from None
    if mode & _OTHERS:
        raise ValueError(
            f"{name}_FILE: {file} has mode {mode:03o}, everybody can read it: run `chmod o= {file}`"
            " (a mounted secret: mode 0440)"
        )
    if not text:
        raise ValueError(f"{name}_FILE: {file} is empty: write the value into it")
    return text


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
