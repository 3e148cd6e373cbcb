"""What the commands of processes have in common: home, keys, settings, and how they fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from quarterdeck.processes.home import Home
    from quarterdeck.processes.keys import KeyFiles
    from quarterdeck.processes.settings import Settings


def own_home() -> Home:
    """The home that this process belongs to."""
    from quarterdeck.processes.home import choose_home

    return choose_home(os.environ, Path.cwd(), Path.home())


def own_keys(home: Home) -> KeyFiles:
    """Where the installation's own keys are."""
    from quarterdeck.processes.keys import key_files

    return key_files(os.environ, home)


def own_settings() -> Settings:
    """What the environment says; ends the command with 2 where it is wrong."""
    from quarterdeck.processes.settings import read_settings

    try:
        return read_settings(os.environ, Path.cwd(), Path.home())
    except ValueError as error:
        fail(str(error), 2)


def own_url(home: Home) -> str:
    """The api's address: the environment's, the home's, else the default."""
    from quarterdeck.client.config import DEFAULT_URL

    if named := os.environ.get("QUARTERDECK_URL"):
        return named
    if home.url_file.is_file():
        return home.url_file.read_text(encoding="utf-8").strip()
    return DEFAULT_URL


def tell(text: str) -> None:
    """Notes go to stderr."""
    print(text, file=sys.stderr, flush=True)


def fail(text: str, code: int = 1) -> NoReturn:
    """End the command with an error."""
    tell(f"error: {text}")
    raise typer.Exit(code)


class failures:
    """Ends the command with a message for what is expected to go wrong."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from quarterdeck.processes.failures import ProcessFailed, WorkersMissing

        if isinstance(error, WorkersMissing):
            fail(str(error), 2)
        if isinstance(error, ProcessFailed):
            fail(str(error))
