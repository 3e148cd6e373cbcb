"""`datasets`: list them, register one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from quarterdeck.cli.models import version_columns
from quarterdeck.cli.output import show
from quarterdeck.cli.session import Output, Project, connect

datasets = typer.Typer(help="Versions of datasets: list, add.", no_args_is_help=False)


@datasets.callback(invoke_without_command=True)
def bare(context: typer.Context, project: Project = None, output: Output = "table") -> None:
    """Versions of datasets. Without a command: list them."""
    if context.invoked_subcommand is None:
        list_datasets(project=project, output=output)


@datasets.command("list")
def list_datasets(
    name: Annotated[str | None, typer.Argument(help="Only this dataset.")] = None,
    project: Project = None,
    output: Output = "table",
) -> None:
    """List versions, newest first.

    Example: quarterdeck datasets list stdlib
    """
    with connect(project) as client:
        found = client.datasets.list(name=name)
    show(found, version_columns(), output, lambda d: f"dataset/{d.name}@{d.version}", "no datasets")


@datasets.command()
def add(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    place: Annotated[str, typer.Argument(metavar="PATH", help="A folder or a URI.")],
    held_out: Annotated[str, typer.Option(help="Share kept from training, e.g. 2%.")] = "0%",
    include: Annotated[
        list[str] | None, typer.Option(help='Glob patterns, e.g. "**/*.py"; repeatable.')
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Glob patterns; repeatable.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for it.")] = False,
    project: Project = None,
) -> None:
    """Register the files at a path as a dataset version with a content hash.

    Example: quarterdeck datasets add stdlib /usr/lib/python3.11 --include "**/*.py" --held-out 2%
    """
    from quarterdeck.cli.follow import make

    uri = place if "://" in place else Path(place).expanduser().absolute().as_uri()
    document: dict[str, Any] = {"kind": "dataset", "name": name, "uri": uri, "held_out": held_out}
    patterns = {"include": include, "exclude": exclude}
    document |= {field: value for field, value in patterns.items() if value}
    with connect(project) as client:
        make(client, document, wait=not no_wait)
