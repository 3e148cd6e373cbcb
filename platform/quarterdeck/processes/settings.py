"""What processes read from their environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quarterdeck.processes.home import Home, choose_home


@dataclass(frozen=True)
class Settings:
    """The installation that a process belongs to. Options may hold credentials: not in `repr`."""

    home: Home
    database_url: str = field(repr=False)
    artifacts_uri: str
    artifacts_options: dict[str, Any] = field(repr=False)


def read_settings(environment: Mapping[str, str], start: Path, user_home: Path) -> Settings:
    """Settings from `QUARTERDECK_HOME`, `QUARTERDECK_DATABASE_URL`, `QUARTERDECK_ARTIFACTS` and
    `QUARTERDECK_ARTIFACTS_OPTIONS` (a JSON object). Raises ValueError for wrong ones."""
    home = choose_home(environment, start, user_home)
    return Settings(
        home=home,
        database_url=environment.get("QUARTERDECK_DATABASE_URL") or home.database_url,
        artifacts_uri=environment.get("QUARTERDECK_ARTIFACTS") or home.artifacts_uri,
        artifacts_options=_options(environment.get("QUARTERDECK_ARTIFACTS_OPTIONS", "{}")),
    )


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"QUARTERDECK_ARTIFACTS_OPTIONS is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise ValueError('QUARTERDECK_ARTIFACTS_OPTIONS must be an object, e.g. {"anon": true}')
    return options
