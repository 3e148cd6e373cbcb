"""What every command shares: options, the client, notes, and how errors end a command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from quarterdeck.client import Client, QuarterdeckError

REFUSED, USAGE, JOB_FAILED, CANCELLED, EXPIRED = 1, 2, 3, 4, 5

Format = Literal["table", "wide", "json", "yaml", "name"]
Output = Annotated[
    Format, typer.Option("-o", "--output", help="How to print: wide, json, yaml or name.")
]
Project = Annotated[
    str | None,
    typer.Option("--project", help="The project; default: $QUARTERDECK_PROJECT or `default`."),
]


def note(text: str) -> None:
    """A line for people, on stderr: data alone is on stdout."""
    print(text, file=sys.stderr, flush=True)


def refuse(text: str, code: int = REFUSED) -> NoReturn:
    """End the command with a message."""
    note(f"error: {text}")
    raise typer.Exit(code)


@contextmanager
def connect(project: str | None = None) -> Iterator[Client]:
    """A client for the control plane that environment and files name."""
    from quarterdeck.client import Client

    with Client.discover(project=project) as client:
        yield client


def explain(error: QuarterdeckError) -> str:
    """An error with each wrong field on a line of its own."""
    said = str(error)
    if error.problem is None:
        return said
    lines = []
    for wrong in error.problem.errors:
        place = f"{wrong.path} (line {wrong.line})" if wrong.line else wrong.path
        lines.append(f"{place}: {wrong.message}")
    # The detail often is the fields' own messages in one line.
    if lines and all(wrong.message in said for wrong in error.problem.errors):
        said = f"{error.problem.title}:" if len(lines) > 1 else lines.pop()
    return "\n  ".join([said, *lines])
